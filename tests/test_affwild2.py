from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines import inputs, storage
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.media import audio, crops, frame_times, video
from data_pipelines.media.frame_times import read_frame_times
from data_pipelines.media.video_writing import write_film, write_video
from data_pipelines.prepare import main, prepare
from data_pipelines.readers.affwild2 import Affwild2
from data_pipelines.readers.affwild2_files import read_annotation
from data_pipelines.recording import MAX_CHUNK_FRAMES, Source
from data_pipelines.sample.affwild2 import (
    SOUND_RATE_HZ,
    TEST_LIST,
    Affwild2SampleSpec,
    plan_video,
    write_affwild2,
)
from data_pipelines.source import PreparedSet, is_prepared
from data_pipelines.splits import Item, make_split
from data_pipelines.tasks import find_task

SPEC = Affwild2SampleSpec(train=4, validation=1, test=1, seconds=2.5, size=32)
PAIR, SILENT, SHORT, LONG, VALIDATION, TEST = (plan_video(SPEC, index) for index in range(6))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("affwild2") / "release"
    write_affwild2(folder, SPEC, workers=1)
    return folder


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    options = [f"--raw={release}", f"--out={out}", "--size=32", "--workers=1"]
    assert main(["--dataset=affwild2", *options]) == 0
    return PreparedSet.open(out)


@pytest.fixture
def root(release, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(release, tmp_path / "release")


def scan(root, **options):
    recordings, sources, left_out = Affwild2(root, size=32, **options).scan()
    return (
        {recording.id: recording for recording in recordings},
        {(source.stream, source.id): source for source in sources},
        {entry.id: entry for entry in left_out},
    )


def decode(root, source, **options):
    return list(Affwild2(root, **{"size": 32} | options).decode(source))


def annotation_file(root, plan, track=0):
    (path,) = root.glob(f"VA_Estimation_Challenge/*/{plan.tracks[track].name}.txt")
    return path


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


# The release


def test_recordings_are_face_tracks_with_parts_and_videos(release):
    recordings, sources, left_out = scan(release)
    assert [recording.group for recording in recordings.values()] == ["train"] * 5 + ["validation", "test"]
    left, right = (recordings[track.name] for track in PAIR.tracks)
    assert left.id.endswith("_left") and right.id.endswith("_right")
    assert left.subject == right.subject == PAIR.name == left.attributes["video"]
    assert left.sources == {"visual": left.id, "audio": PAIR.name}
    assert right.sources == {"visual": right.id, "audio": PAIR.name}
    assert sum(stream == "audio" for stream, _ in sources) == 5
    assert sources["audio", PAIR.name].files == (f"batch1/{PAIR.name}.mp4",)
    assert sources["visual", left.id].files[0] == f"cropped_aligned/{left.id}"
    assert recordings[SILENT.name].sources == {"visual": SILENT.name}
    assert "no sound" in left_out[SILENT.name].reason and not left_out[SILENT.name].damaged


def test_labels_have_a_row_for_every_frame_and_masks(release):
    recordings, _, left_out = scan(release)
    for plan in (PAIR, SILENT, SHORT, LONG, VALIDATION, TEST):
        frames = len(plan.times_seconds)
        for track in plan.tracks:
            annotation = recordings[track.name].annotation
            rows, lines = frames + max(plan.further_lines, 0), frames + plan.further_lines
            assert annotation.names == ("valence", "arousal")
            assert annotation.values.shape == annotation.mask.shape == (rows, 2)
            np.testing.assert_allclose(annotation.times_seconds[:frames], plan.times_seconds, atol=1e-5)
            assert (np.diff(annotation.times_seconds) > 0).all()
            annotated = np.zeros(rows, bool)
            if plan.part != "test":
                annotated[: min(frames, lines)] = track.annotated[:lines]
                annotated[frames:lines] = track.annotated[-1]
                truth = np.stack([track.mood.valence, track.mood.arousal], 1)[:lines]
                known = track.annotated[:lines]
                np.testing.assert_allclose(annotation.values[: len(truth)][known], truth[known], atol=1e-5)
            np.testing.assert_array_equal(annotation.mask, np.stack([annotated, annotated], 1))
            assert (annotation.values[~annotated] == 0).all()
    assert not recordings[TEST.name].annotation.mask.any()
    assert "the last ones are masked" in left_out[SHORT.name].reason
    assert "times beyond the video's end are estimated" in left_out[LONG.name].reason
    attributes = recordings[LONG.name].attributes
    assert attributes["annotation_lines"] == attributes["frames"] == attributes["video_frames"] + 5
    task = find_task("valence_arousal")
    values, mask = task.labels(recordings[VALIDATION.name].annotation)
    assert not task.is_classification and values.shape == mask.shape == (len(VALIDATION.times_seconds), 2)


def test_crops_are_stored_byte_by_byte_at_the_times_of_their_frames(release):
    recordings, sources, _ = scan(release)
    for track in (*PAIR.tracks, *SHORT.tracks):
        (chunk,) = decode(release, sources["visual", track.name])
        numbers = np.flatnonzero(track.has_face) + 1
        files = [release / "cropped_aligned" / track.name / f"{number:05d}.jpg" for number in numbers]
        assert list(chunk.frames) == [path.read_bytes() for path in files]
        # The numbers come back exactly, though the rate varies.
        times = recordings[track.name].annotation.times_seconds
        assert np.isin(chunk.times_seconds, times).all()
        np.testing.assert_array_equal(np.searchsorted(times, chunk.times_seconds) + 1, numbers)
        assert np.ptp(np.diff(times)) > 0.01


def test_the_sound_is_stored_once_and_runs_with_the_video(release):
    _, sources, _ = scan(release)
    (chunk,) = decode(release, sources["audio", PAIR.name])
    assert chunk.values.dtype == np.int16 and chunk.values.shape[1] == 1 and chunk.rate_hz == 44100.0
    assert chunk.times_seconds.tolist() == [0.0]
    assert len(chunk) / 44100 == pytest.approx(PAIR.times_seconds[-1], abs=0.1)
    (slower,) = decode(release, sources["audio", PAIR.name], sound_rate_hz=16000)
    assert len(slower) / 16000 == pytest.approx(len(chunk) / 44100, abs=0.01)


def test_the_older_edition_and_videos_in_other_places(root):
    expected, _, _ = scan(root)
    (root / "annotations").mkdir()
    (root / "VA_Estimation_Challenge").rename(root / "annotations" / "VA_Set")
    (root / "videos" / "more").mkdir(parents=True)
    for number, path in enumerate(sorted(root.glob("batch*/*.mp4"))):
        path.rename((root, root / "videos", root / "videos" / "more")[number % 3] / path.name)
    (root / TEST_LIST).rename(root / "names.txt")
    recordings, sources, _ = scan(root)
    assert [r.id for r in expected.values() if r.group != "test"] == list(recordings)
    recordings, sources, _ = scan(root, test_list="names.txt", edition="VA_Set")
    assert list(expected) == list(recordings)
    assert {path.files[-1] for path in sources.values() if path.stream == "audio"} != set()
    shutil.copytree(root / "annotations" / "VA_Set", root / "VA_Estimation_Challenge")
    with pytest.raises(BadDataError, match="two editions.*edition="):
        scan(root)
    assert list(scan(root, edition="VA_Estimation_Challenge", test_list="names.txt")[0]) == list(expected)


def test_a_video_without_a_face_or_without_a_file(root):
    shutil.rmtree(root / "cropped_aligned" / SHORT.name)
    for path in (root / "cropped_aligned" / LONG.name).iterdir():
        path.unlink()
    (root / "batch1" / f"{VALIDATION.name}.mp4").unlink()
    (root / "batch2" / f"{SILENT.name}.mp4").rename(root / "batch2" / f"{SILENT.name}.AVI")
    recordings, sources, left_out = scan(root)
    assert recordings[SHORT.name].sources == {"audio": SHORT.name}
    assert recordings[LONG.name].sources == {"audio": LONG.name}
    assert len(recordings[SHORT.name].annotation.values) == len(SHORT.times_seconds)
    alone = recordings[VALIDATION.name]
    assert alone.sources == {"visual": VALIDATION.name} and alone.attributes["video"] == ""
    assert "its video is not there" in left_out[VALIDATION.name].reason
    np.testing.assert_allclose(alone.annotation.times_seconds, np.arange(len(alone.annotation.mask)) / 30)
    (chunk,) = decode(root, sources["visual", VALIDATION.name])
    assert np.isin(chunk.times_seconds, alone.annotation.times_seconds).all()
    assert recordings[SILENT.name].attributes["video"] == SILENT.name
    # Neither a face nor a sound: listed, and no recording.
    shutil.rmtree(root / "cropped_aligned" / VALIDATION.name)
    recordings, _, left_out = scan(root)
    assert VALIDATION.name not in recordings and "neither a face" in left_out[VALIDATION.name].reason


def test_superfluous_files_are_listed_and_crops_beyond_the_end_are_kept(root):
    shutil.copytree(root / "cropped_aligned" / SHORT.name, root / "cropped_aligned" / "nobody")
    shutil.copy(root / "batch1" / f"{PAIR.name}.mp4", root / "batch2" / f"{PAIR.name}.avi")
    faces = root / "cropped_aligned" / SHORT.name
    beyond = len(SHORT.times_seconds) + 3
    shutil.copy(next(faces.iterdir()), faces / f"{beyond:05d}.jpg")
    (faces / "Thumbs.db").write_bytes(b"no crop")
    recordings, sources, left_out = scan(root)
    assert "no annotation" in left_out["nobody"].reason
    assert "another video file" in left_out[f"batch2/{PAIR.name}.avi"].reason
    times = recordings[SHORT.name].annotation.times_seconds
    assert len(times) == beyond and not recordings[SHORT.name].annotation.mask[-1].any()
    (chunk,) = decode(root, sources["visual", SHORT.name])
    assert chunk.times_seconds[-1] == times[-1]


def test_unreadable_crops_are_masked_and_told(root):
    names = sorted(path.name for path in (root / "cropped_aligned" / LONG.name).iterdir())
    folder = root / "cropped_aligned" / LONG.name
    (folder / names[3]).write_bytes(b"")
    (folder / names[-1]).write_bytes((folder / names[-1]).read_bytes()[:400])
    source = scan(root)[1]["visual", LONG.name]
    (chunk,) = decode(root, source)
    assert len(chunk) == len(names) - 2
    assert chunk.left_out == (f"2 face crops cannot be read and are masked: {names[3]}, {names[-1]}",)
    stored = storage.store_source(Affwild2(root, size=32), source, root.parent / "stored")
    assert not stored.damaged and stored.left_out == chunk.left_out
    assert storage.StoredSource.from_json(stored.to_json()) == stored
    for name in names:
        (folder / name).write_bytes(b"")
    with pytest.raises(BadDataError, match=f"none of the {len(names)} images"):
        decode(root, source)


def test_crops_of_another_size_are_resized(release):
    source = scan(release)[1]["visual", SHORT.name]
    (chunk,) = decode(release, source, size=24)
    assert video.decode_jpeg(chunk.frames[0]).shape == (24, 24, 3)
    original = (release / source.files[0] / "00001.jpg").read_bytes()
    assert crops.read_jpeg_size(original) == (32, 32) and crops.stored_crop(original, 32) is original
    assert crops.read_jpeg_size(original[:-40]) is None and crops.read_jpeg_size(b"\x89PNG") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("valence,arousal", "0.1,0.2", "line 1: .*expected the header"),
        ("\n", "\nnan,0.5\n", "line 2: 'nan,0.5'; expected"),
        ("\n", "\n0.1\n", "line 2: '0.1'; expected"),
        ("\n", "\n\n", "line 2: ''; expected"),
        ("\n", "\n1.5,0\n", "line 2: '1.5,0'; expected"),
        ("\n", "\n0.1,x\n", "line 2: '0.1,x'; expected"),
    ],
)
def test_a_damaged_annotation_is_told_by_line(root, old, new, message):
    path = annotation_file(root, VALIDATION)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BadDataError, match=message):
        read_annotation(path)
    recordings, _, left_out = scan(root)
    assert VALIDATION.name not in recordings and left_out[VALIDATION.name].damaged


def test_an_annotation_without_lines_and_one_with_one_value_missing(root):
    path = annotation_file(root, VALIDATION)
    path.write_text("valence,arousal\r\n0.5,-0.5\r\n-5,0.25\r\n-5,-5.0\r\n\r\n")
    values, mask = read_annotation(path)
    assert mask.tolist() == [True, False, False] and values.tolist() == [[0.5, -0.5], [0, 0], [0, 0]]
    path.write_text("valence,arousal\n")
    with pytest.raises(BadDataError, match="no line but its header"):
        read_annotation(path)


def test_a_damaged_video_takes_its_recordings_along(root):
    path = root / "batch1" / f"{PAIR.name}.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    recordings, _, left_out = scan(root)
    for track in PAIR.tracks:
        assert track.name not in recordings and left_out[track.name].damaged
        assert f"{PAIR.name}.mp4" in left_out[track.name].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\na.mp4\n", "line 2"),
        ("a/b\n", "line 1"),
        (f"{SHORT.name}\n", "annotated in the"),
    ],
)
def test_a_bad_test_list_is_told(root, text, message):
    (root / TEST_LIST).write_text(text)
    with pytest.raises(BadDataError, match=message):
        scan(root)


def test_wrong_folders_and_options_are_told(root, tmp_path):
    with pytest.raises(BadDataError, match="there is no folder"):
        scan(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataError, match=r"no VA_Set/Train_Set and no VA_Estimation_Challenge/Train_Set"):
        scan(tmp_path / "empty")
    with pytest.raises(BadDataError, match="there is no file"):
        scan(root, test_list="none.txt")
    with pytest.raises(BadDataError, match="holds no VA_Set"):
        scan(root, edition="VA_Set")
    for folder in ("cropped_aligned", "batch1", "batch2"):
        shutil.rmtree(root / folder)
    with pytest.raises(BadDataError, match="face crops and videos"):
        scan(root)
    for options in ({"edition": "VA"}, {"size": 4}, {"sound_rate_hz": 10}):
        with pytest.raises(UsageError, match="expected"):
            Affwild2(root, **options)


def test_a_copy_for_a_worker_has_the_options_alone(release):
    reader = Affwild2(release, size=32)
    reader.scan()
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader and "_layout" not in vars(copy)
    assert copy.is_sample() and set(copy.settings()) == {"edition", "test_list", "size", "sound_rate_hz"}


# Frame times


def test_packets_tell_the_times_that_decoding_does(release, tmp_path):
    path = release / "batch1" / f"{PAIR.name}.mp4"
    with av.open(str(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)  # pictures out of order
    decoded = [frame.time_seconds for frame in video.read_frames(path, size=16)]
    clock = read_frame_times(path)
    np.testing.assert_allclose(clock.times_seconds, decoded, atol=1e-9)
    assert clock.has_sound and len(decoded) == len(PAIR.times_seconds)


def test_an_avi_without_timestamps_is_decoded_for_them(tmp_path):
    path = tmp_path / "clip.avi"
    write_video(path, [np.full((32, 32, 3), shade, np.uint8) for shade in range(0, 200, 10)], rate_hz=25)
    clock = read_frame_times(path)
    assert len(clock.times_seconds) == 20 and not clock.has_sound
    np.testing.assert_allclose(np.diff(clock.times_seconds), 0.04, atol=1e-6)


def test_files_that_are_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadDataError, match=r"text\.mp4"):
        read_frame_times(tmp_path / "text.mp4")
    with pytest.raises(BadDataError, match="missing"):
        read_frame_times(tmp_path / "none.mp4")


# Prepared


def test_the_prepared_set_is_little_larger_than_crops_and_sound(release, tmp_path):
    spec = Affwild2SampleSpec(train=1, validation=0, test=0, seconds=30, size=112)
    write_affwild2(tmp_path / "raw", spec, workers=1)
    reader = Affwild2(tmp_path / "raw")
    prepare(reader, tmp_path / "out", workers=1)
    stored = PreparedSet.open(tmp_path / "out")
    jpegs = sum(path.stat().st_size for path in (tmp_path / "raw").glob("cropped_aligned/*/*.jpg"))
    pcm = 2 * int(stored.table("audio").length.sum())
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert size <= 1.15 * (jpegs + pcm)
    rows = stored.table("visual").rows_of(f"{plan_video(spec, 0).name}_left")
    assert len(stored.table("audio").source_ids) == 1
    assert stored.table("visual").length[rows].max() <= MAX_CHUNK_FRAMES
    assert (stored.table("audio").length / 44100 <= 10).all() and len(stored.table("audio")) > 1
    left, right = stored.recordings
    assert left.sources["audio"] == right.sources["audio"]


def test_what_was_prepared_reads_back(prepared, release):
    recordings, _, _ = scan(release)
    assert prepared.card["sample"] and prepared.card["counts"]["groups"] == {
        "test": 1,
        "train": 5,
        "validation": 1,
    }
    assert prepared.card["counts"]["damaged"] == 0 and prepared.card["counts"]["subjects"] == 6
    assert SILENT.name in [entry["id"] for entry in prepared.card["left_out"]]
    assert "byte by byte" in prepared.card["notes"]["face_crop"]
    for recording in prepared.recordings:
        expected = recordings[recording.id]
        assert recording.sources == expected.sources and recording.attributes == expected.attributes
        np.testing.assert_array_equal(recording.annotation.times_seconds, expected.annotation.times_seconds)
        np.testing.assert_array_equal(recording.annotation.values, expected.annotation.values)
        np.testing.assert_array_equal(recording.annotation.mask, expected.annotation.mask)
    table = prepared.table("visual")
    (row,) = table.rows_of(LONG.name)
    (chunk,) = prepared.read("visual", [row])
    numbers = np.searchsorted(
        recordings[LONG.name].annotation.times_seconds,
        table.times_seconds[table.offsets[row] :][: len(chunk)],
    )
    picture = release / "cropped_aligned" / LONG.name / f"{numbers[7] + 1:05d}.jpg"
    assert chunk.frames[7] == picture.read_bytes()


def test_splits_keep_the_people_of_a_video_together(prepared):
    items = [Item(r.id, r.subject, None, r.group) for r in prepared.recordings]
    split = make_split(items, "official")
    assert set(split.test) == {TEST.name} and set(split.validation) == {VALIDATION.name}
    assert len(split.train) == 5
    for fold in range(3):
        split = make_split(items, "subject_kfold", fold=fold, folds=3)
        for part in (split.train, split.validation, split.test):
            assert len({track.name for track in PAIR.tracks} & set(part)) in (0, 2)


def test_a_changed_crop_is_noticed_and_the_same_files_give_the_same_bytes(prepared, release, root, tmp_path):
    reader = Affwild2(root, size=32)
    prepare(reader, tmp_path / "again", workers=1)
    ours, theirs = digest(tmp_path / "again"), digest(prepared.path)
    modified = inputs.MODIFIED_FILE
    assert {k: v for k, v in ours.items() if k != modified} == {
        k: v for k, v in theirs.items() if k != modified
    }
    crop = root / "cropped_aligned" / SHORT.name / "00001.jpg"
    crop.write_bytes(crop.read_bytes() + b"\0")
    with pytest.raises(UsageError, match=f"cropped_aligned/{SHORT.name} changed"):
        prepare(reader, tmp_path / "again", workers=1)


def test_killed_while_decoding_it_goes_on_to_the_same_bytes(prepared, release, tmp_path):
    out = tmp_path / "out"
    options = ["--dataset=affwild2", f"--raw={release}", f"--out={out}", "--size=32", "--workers=1"]
    repository = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "data_pipelines.prepare", *options], cwd=repository, stderr=subprocess.DEVNULL
    )
    give_up = time.monotonic() + 60
    while len(list(out.rglob("sources/*/*.npz"))) < 2:
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not is_prepared(out)
    assert main(options) == 0
    assert digest(out) == digest(prepared.path)


def test_timestamps_are_not_read_again_but_of_what_changed(prepared, release, root, tmp_path, monkeypatch):
    out = shutil.copytree(prepared.path, tmp_path / "out")
    read = []

    def counted(path):
        read.append(path.name)
        return read_frame_times(path)

    monkeypatch.setattr(frame_times, "read_frame_times", counted)
    prepare(Affwild2(root, size=32), out, workers=1)
    assert not read
    video = root / "batch1" / f"{PAIR.name}.mp4"
    os.utime(video, ns=(0, video.stat().st_mtime_ns + 1))
    prepare(Affwild2(root, size=32), out, workers=1)  # it is the same file at another time
    assert read == [video.name]
    (out / inputs.SCAN_FILE).write_bytes(b"PK damaged")
    prepare(Affwild2(root, size=32), out, workers=1)
    assert len(read) == 1 + len(list(root.rglob("*.mp4")))


def test_the_digest_of_what_was_found_is_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(inputs, "_BLOCK_ROWS", 7)
    columns = {"names": np.array(['["a"]', "é"]), "mask": np.arange(25) % 2 == 0, "none": np.zeros(0)}
    parts = [[["x", {"k": 1}]], [("a", ("b",))]]
    whole = [*parts, {name: column.tolist() for name, column in columns.items()}]
    assert inputs.digest_found(parts, columns) == storage.digest(whole)


# The sample


def test_the_bytes_are_the_same_with_one_worker_or_two(tmp_path):
    spec = Affwild2SampleSpec(train=2, validation=0, test=0, seconds=2, size=32)
    write_affwild2(tmp_path / "one", spec, workers=1)
    done = []
    write_affwild2(tmp_path / "two", spec, lambda *counts: done.append(counts), workers=2)
    assert done[-1] == (2, 2) and digest(tmp_path / "one") == digest(tmp_path / "two")
    assert (
        "say nothing about affwild2" in json.loads((tmp_path / "one" / "SAMPLE.json").read_text())["warning"]
    )
    other = plan_video(dataclasses.replace(spec, seed=1), 0)
    assert not np.array_equal(other.times_seconds[:8], plan_video(spec, 0).times_seconds[:8])


def test_the_face_shows_valence_and_the_voice_arousal():
    spec = Affwild2SampleSpec(train=40, validation=0, test=0, seconds=30)
    moods = [track.mood for index in range(40) for track in plan_video(spec, index).tracks]

    def correlation(one, other):
        a, b = (np.concatenate([getattr(mood, name) for mood in moods]) for name in (one, other))
        return np.corrcoef(a, b)[0, 1]

    assert correlation("valence", "face_valence") > 0.9 and correlation("arousal", "voice_arousal") > 0.9
    for one, other in (("arousal", "face_arousal"), ("valence", "voice_valence")):
        assert 0.1 < correlation(one, other) < 0.6
    for one, other in (("valence", "arousal"), ("face_valence", "arousal"), ("voice_arousal", "valence")):
        assert abs(correlation(one, other)) < 0.25


@pytest.mark.parametrize(
    "options",
    [
        {"train": 0},
        {"seconds": 1.0},
        {"size": 33},
        {"edition": "VA"},
        {"without_face": 0.9},
    ],
)
def test_a_sample_that_cannot_be_made_is_a_usage_error(options):
    with pytest.raises(UsageError):
        Affwild2SampleSpec(**options)


def test_a_film_has_its_pictures_and_its_sound(tmp_path):
    times = np.array([0.0, 0.03, 0.11, 0.15])
    sound = np.sin(np.arange(8000) / 9).astype(np.float32) / 2
    images = [np.full((16, 16, 3), shade, np.uint8) for shade in (10, 90, 170, 250)]
    write_film(tmp_path / "film.mp4", images, times, sound=sound, sound_rate_hz=SOUND_RATE_HZ)
    frames = list(video.read_frames(tmp_path / "film.mp4", size=16))
    np.testing.assert_allclose([frame.time_seconds for frame in frames], times, atol=1e-5)
    assert [round(float(frame.image.mean()), -1) for frame in frames] == [10, 90, 170, 250]
    (piece,) = audio.decode_audio(tmp_path / "film.mp4")
    heard = piece.samples[500:7500].astype(float)
    assert np.corrcoef(heard, sound[500:7500])[0, 1] > 0.95


def test_a_source_may_be_a_folder(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "1").write_bytes(b"one")
    (tmp_path / "faces" / ".hidden").write_bytes(b"nothing")
    described = storage.describe_file(tmp_path, "faces")
    assert described.size == 3 and described.is_unchanged(tmp_path)
    (tmp_path / "faces" / "2").write_bytes(b"two")
    assert not described.is_unchanged(tmp_path)
    assert storage.describe_file(tmp_path, "faces").sha256 != described.sha256
    assert Source("visual", "x", ("faces",)).files == ("faces",)
