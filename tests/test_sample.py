from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import re

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import UsageError
from data_pipelines.sample import biovid, store
from data_pipelines.sample.biovid import BioVidSampleSpec, plan_subject, subject_name, write_biovid
from data_pipelines.sample.face import MOVEMENTS, Pose, face_clip, movements, render_face
from data_pipelines.sample.people import Event, generator, make_person
from data_pipelines.sample.store import sample_dir
from data_pipelines.sample.voice import voice

TINY = BioVidSampleSpec(subjects=3, clips_per_class=2, size=32, frames=6)


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


# People


def test_generators_belong_to_their_names():
    first = generator(0, "face", 3).normal(size=4)
    np.testing.assert_array_equal(first, generator(0, "face", 3).normal(size=4))
    for other in (generator(1, "face", 3), generator(0, "face", "3"), generator(0, "face", 3, 0)):
        assert not np.array_equal(first, other.normal(size=4))


def test_the_first_numbers_of_a_generator_never_change():
    # If this fails, every sample in every cache and every figure made with one is another.
    np.testing.assert_array_equal(generator(0, "people").integers(0, 1000, 4), [983, 962, 205, 960])


@given(seed=st.integers(0, 10**6), index=st.integers(0, 10**4))
def test_people_are_plausible_and_reproducible(seed, index):
    person = make_person(seed, index)
    assert person == make_person(seed, index)
    assert dataclasses.replace(person, signature=0.7) == make_person(seed, index, 0.7)
    assert 20 <= person.age <= 65 and person.sex in ("w", "m")
    assert 0 < person.expressiveness <= 1 and 0 < person.reactivity <= 1
    assert 50 <= person.heart_rate_bpm <= 100 and person.skin_conductance_microsiemens >= 1
    pattern = person.signature_pattern(16)
    assert pattern.mean() == pytest.approx(0, abs=1e-9) and pattern.std() == pytest.approx(1)


def test_people_differ():
    people = [make_person(0, index) for index in range(40)]
    assert len({person.skin_conductance_microsiemens for person in people}) == 40
    assert {person.sex for person in people} == {"w", "m"}


# Faces


def test_every_movement_shows_and_an_unknown_one_is_refused():
    person = make_person(0, 3)
    rest = render_face(person, {}, size=64)
    assert rest.shape == (64, 64, 3) and rest.dtype == np.uint8
    np.testing.assert_array_equal(rest, render_face(person, {}, size=64))
    for name in MOVEMENTS:
        moved = render_face(person, {name: 1.0}, size=64)
        assert (np.abs(moved.astype(int) - rest).max(-1) > 20).sum() > 10, name
    with pytest.raises(ValueError, match="no movement wink"):
        render_face(person, {"wink": 1.0})


def test_the_head_moves_and_its_room_stays():
    person = make_person(0, 1)
    first = render_face(person, {}, Pose(), 64)
    second = render_face(person, {}, Pose(right=0.05, roll_degrees=5.0), 64)
    np.testing.assert_array_equal(first[:4, :8], second[:4, :8])
    assert (first != second).mean() > 0.1


def test_slow_movements_do_not_jump():
    person = make_person(0, 2)
    frames = [render_face(person, {}, Pose(right=0.001 * step), 64).astype(int) for step in range(4)]
    for before, after in zip(frames[:-1], frames[1:], strict=True):
        assert 0 < np.abs(after - before).mean() < 3.0


def test_pain_comes_after_its_onset_and_goes():
    times = np.arange(0.0, 12.0, 0.04)
    person = dataclasses.replace(make_person(0, 0), expressiveness=1.0)
    rng = generator(0, "test")
    moves = movements(person, [Event(2.0, 3.0, 1.0, "pain")], times, rng)
    for name in ("brow_lower", "eye_tighten", "lip_raise"):
        assert moves[name][times < 2.0].max() < 0.3
        assert moves[name][(times > 3.5) & (times < 5.0)].mean() > 0.5
        assert moves[name][times > 10.5].max() < 0.35
    calm = movements(person, [Event(2.0, 3.0, 1.0, "smile")], times, generator(0, "test"))
    assert calm["brow_lower"].max() < 0.3 and calm["smile"].max() > 0.8
    body_only = movements(person, [Event(2.0, 3.0, 1.0, "spontaneous")], times, generator(0, "test"))
    assert body_only["brow_lower"].max() < 0.3


def test_expressive_people_show_more():
    times = np.arange(0.0, 5.0, 0.04)
    shown = []
    for expressiveness in (0.2, 1.0):
        person = dataclasses.replace(make_person(0, 0), expressiveness=expressiveness)
        moves = movements(person, [Event(0.0, 4.0, 1.0, "pain")], times, generator(0, "x"))
        shown.append(moves["brow_lower"][50:].mean())
    assert shown[1] > 1.4 * shown[0]


def test_a_clip_is_reproducible_and_a_signature_tells_people_apart():
    person, times = make_person(0, 0), np.arange(5) / 25.0
    first = np.stack(list(face_clip(person, [], times, generator(0, "a"), 48)))
    again = np.stack(list(face_clip(person, [], times, generator(0, "a"), 48)))
    np.testing.assert_array_equal(first, again)
    signed = make_person(0, 0, signature=1.0)
    marked = np.stack(list(face_clip(signed, [], times, generator(0, "a"), 48)))
    assert (marked != first).any()


# Voices


def make_voice(valence, arousal, seed=0, seconds=4.0):
    person = make_person(0, 1)
    return voice(
        person,
        np.array([valence]),
        np.array([arousal]),
        np.zeros(1),
        seconds,
        16000.0,
        generator(seed, "voice"),
    )


def pitch_hz(sound):
    spectrum = np.abs(np.fft.rfft(sound, 2**18)) ** 2
    correlation = np.fft.irfft(spectrum)[:400]
    return 16000.0 / (50 + np.argmax(correlation[50:260]))


def test_arousal_raises_pitch_and_loudness():
    sounds = [make_voice(0.0, arousal) for arousal in (-1.0, 0.0, 1.0)]
    loudness = [float(np.sqrt(np.mean(sound**2))) for sound in sounds]
    assert loudness[0] < 0.7 * loudness[1] < 0.5 * loudness[2]
    pitches = [pitch_hz(sound) for sound in sounds]
    assert pitches[0] < 0.95 * pitches[1] and pitches[1] < 0.95 * pitches[2]


def test_valence_brightens_the_voice():
    def centre(sound):
        power = np.abs(np.fft.rfft(sound)) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum())

    for seed in range(3):
        assert centre(make_voice(1.0, 0.0, seed)) > 1.03 * centre(make_voice(-1.0, 0.0, seed))


@given(seconds=st.floats(0.0, 1.5), rate_hz=st.sampled_from([4000.0, 8000.0, 16000.0, 44100.0]))
def test_a_voice_has_its_length_and_stays_in_range(seconds, rate_hz):
    contour = np.linspace(-2.0, 2.0, 5)
    sound = voice(
        make_person(1, 0), contour, contour[::-1], np.arange(5) / 4, seconds, rate_hz, generator(0, "v")
    )
    assert sound.dtype == np.float32 and len(sound) == round(seconds * rate_hz)
    assert np.isfinite(sound).all() and np.abs(sound).max(initial=0.0) <= 1.0


# BioVid


def test_the_layout_is_the_release(tmp_path):
    spec = BioVidSampleSpec(subjects=1, clips_per_class=1, size=32)
    done = []
    write_biovid(tmp_path, spec, lambda *counts: done.append(counts), workers=1)
    assert done == [(1, 1)]
    lines = (tmp_path / "starting_point" / "samples.csv").read_text().splitlines()
    assert lines[0] == "subject_id\tsubject_name\tclass_id\tclass_name\tsample_id\tsample_name"
    _, subject, class_id, class_name, _, sample = lines[2].split("\t")
    assert (class_id, class_name) == ("4", "PA4")
    assert re.fullmatch(r"9\d{5}_[wm]_\d\d", subject) and re.fullmatch(rf"{subject}-PA4-001", sample)
    with av.open(str(tmp_path / "video" / subject / f"{sample}.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 25
        assert stream.frames == 138 == sum(1 for _ in container.decode(video=0))
    for kind in ("filtered", "raw"):
        table = (tmp_path / f"biosignals_{kind}" / subject / f"{sample}_bio.csv").read_text().splitlines()
        assert table[0] == "time\tgsr\tecg\temg_trapezius\temg_corrugator\temg_zygomaticus"
        assert len(table) == 2817
        assert int(table[-1].split("\t")[0]) == round(2815 * 1e6 / 512)
    assert "say nothing about biovid" in json.loads((tmp_path / "SAMPLE.json").read_text())["warning"]


def test_the_bytes_are_the_same_with_one_worker_or_two(tmp_path):
    write_biovid(tmp_path / "one", TINY, workers=1)
    done = []
    write_biovid(tmp_path / "two", TINY, lambda *counts: done.append(counts), workers=2)
    assert done[-1] == (3, 3)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    write_biovid(tmp_path / "other", dataclasses.replace(TINY, seed=1), workers=1)
    assert set(digest(tmp_path / "one")) != set(digest(tmp_path / "other"))


def test_the_shares_of_the_streams_are_kept_person_by_person():
    spec = BioVidSampleSpec(subjects=1, clips_per_class=20, classes=(0, 1, 4))
    for index in range(4):
        _, plans = plan_subject(spec, index)
        for class_id in (1, 4):
            shown = [plan.shown_in for plan in plans if plan.class_id == class_id]
            assert abs(shown.count("both") - 6) <= 1 and abs(shown.count("face") - 7) <= 1
        assert {plan.shown_in for plan in plans if plan.class_id == 0} == {"none"}


def test_a_stimulus_reaches_only_the_streams_that_it_shows_in():
    spec = BioVidSampleSpec(subjects=1, clips_per_class=20, classes=(0, 1, 2, 3, 4))
    _, plans = plan_subject(spec, 0)
    strength = {}
    for plan in plans:
        # The stimulus before the clip, long over, is in every body.
        face = [event.intensity for event in plan.face_events if event.kind == "pain"]
        inside = [e.intensity for e in plan.body_events if e.kind == "pain" and e.onset_seconds > -5]
        assert bool(face) == (plan.shown_in in ("both", "face"))
        assert bool(inside) == (plan.shown_in in ("both", "body"))
        strength.setdefault(plan.class_id, set()).update(face + inside)
    assert max(strength[1]) < min(strength[2]) < min(strength[3]) < min(strength[4])
    assert not strength[0]


def test_smiles_talk_and_stirs_do_not_depend_on_the_class():
    spec = BioVidSampleSpec(subjects=1, clips_per_class=200, smiles=0.3, talks=0.2, stirs=0.25)
    _, plans = plan_subject(spec, 0)
    for class_id in (0, 4):
        some = [plan for plan in plans if plan.class_id == class_id]
        for kind, share in (("smile", 0.3), ("talk", 0.2)):
            found = np.mean([any(e.kind == kind for e in plan.face_events) for plan in some])
            assert abs(found - share) < 0.12
        found = np.mean([any(e.kind == "spontaneous" for e in plan.body_events) for plan in some])
        assert abs(found - 0.25) < 0.12


def test_skin_conductance_alone_tells_what_the_body_shows_and_nothing_else():
    spec = BioVidSampleSpec(subjects=6, clips_per_class=6)
    rises, shown = [], []
    for index in range(spec.subjects):
        person, plans = plan_subject(spec, index)
        of_person = []
        for number, plan in enumerate(plans):
            gsr = biovid._signals(spec, person, plan, number)["gsr"]
            slow = gsr.reshape(44, 64).mean(1)
            of_person.append(np.diff(slow).max())
            shown.append(plan.shown_in)
        rises.extend(np.array(of_person) / np.std(of_person))
    rises, shown = np.array(rises), np.array(shown)

    def auroc(positive):
        return (rises[shown == positive][:, None] > rises[shown == "none"]).mean()

    assert auroc("both") > 0.9 and auroc("body") > 0.9
    assert 0.3 < auroc("face") < 0.7


def test_the_face_alone_tells_what_the_face_shows_and_nothing_else():
    spec = BioVidSampleSpec(subjects=4, clips_per_class=6, smiles=0.0, talks=0.0)
    change = {"none": [], "both": [], "face": [], "body": []}
    for index in range(spec.subjects):
        person, plans = plan_subject(spec, index)
        for number, plan in enumerate(plans):
            rng = generator(spec.seed, "biovid", "face", index, number)
            moves = movements(person, plan.face_events, np.arange(138) / 25.0, rng)
            change[plan.shown_in].append(moves["brow_lower"][40:100].mean())
    assert min(change["both"] + change["face"]) > 0.2 > max(change["none"] + change["body"])


@pytest.mark.parametrize(
    "options",
    [
        {"subjects": 0},
        {"classes": (0, 5)},
        {"classes": ()},
        {"classes": (4, 4)},
        {"both": 0.5},
        {"both": -0.3, "face_only": 0.95},
        {"size": 33},
        {"frames": 0},
        {"smiles": 1.5},
    ],
)
def test_a_spec_that_cannot_be_made_is_a_usage_error(options):
    with pytest.raises(UsageError):
        BioVidSampleSpec(**options)


def test_names_are_different_and_no_real_subjects():
    names = {subject_name(make_person(0, index)) for index in range(300)}
    assert len(names) == 300
    assert all(name.startswith("9") for name in names)


# The cache


def test_a_sample_is_made_once(tmp_path, monkeypatch):
    spec = dataclasses.replace(TINY, subjects=1)
    first = sample_dir(tmp_path / "cache", "biovid", spec)
    assert json.loads((first / "SAMPLE.json").read_text())["dataset"] == "biovid"
    before = digest(first)

    def never(*_):
        raise AssertionError("made again")

    monkeypatch.setitem(store._WRITERS, "biovid", (never, biovid.WRITER_VERSION))
    assert sample_dir(tmp_path / "cache", "biovid", spec) == first and digest(first) == before
    monkeypatch.setitem(store._WRITERS, "biovid", (never, "another version"))
    with pytest.raises(AssertionError, match="made again"):
        sample_dir(tmp_path / "cache", "biovid", spec)
    # A writer that failed leaves nothing behind.
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


def test_another_spec_is_another_folder(tmp_path, monkeypatch):
    def quick(folder, spec, progress):
        (folder / "made").write_text(str(spec.seed))

    monkeypatch.setitem(store._WRITERS, "biovid", (quick, "1"))
    folders = {sample_dir(tmp_path, "biovid", dataclasses.replace(TINY, seed=seed)) for seed in range(3)}
    assert len(folders) == 3
    with pytest.raises(UsageError, match="no sample 'affwild'"):
        sample_dir(tmp_path, "affwild", TINY)


def test_two_processes_at_once_end_with_one_sample(tmp_path):
    spec = dataclasses.replace(TINY, subjects=1, clips_per_class=1)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        places = list(pool.map(sample_dir, [tmp_path] * 2, ["biovid"] * 2, [spec] * 2))
    assert places[0] == places[1] and (places[0] / "SAMPLE.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [places[0].name]


def test_a_cache_that_cannot_be_written_gets_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="JMT_CACHE_DIR"):
        sample_dir(tmp_path / "file", "biovid", TINY)
