from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
from affwild2_case import LONG, PAIR, SHORT, SILENT, TEST, VALIDATION, annotation_file, decode, scan

from data_pipelines import storage
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.media import crops, video
from data_pipelines.readers.affwild2 import Affwild2
from data_pipelines.readers.affwild2_files import read_annotation
from data_pipelines.sample.affwild2 import (
    TEST_LIST,
)
from data_pipelines.tasks import find_task


def test_recordings_are_face_tracks_with_parts_and_videos(affwild2_release):
    recordings, sources, left_out = scan(affwild2_release)
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


def test_labels_have_a_row_for_every_frame_and_masks(affwild2_release):
    recordings, _, left_out = scan(affwild2_release)
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


def test_crops_are_stored_byte_by_byte_at_the_times_of_their_frames(affwild2_release):
    recordings, sources, _ = scan(affwild2_release)
    for track in (*PAIR.tracks, *SHORT.tracks):
        (chunk,) = decode(affwild2_release, sources["visual", track.name])
        numbers = np.flatnonzero(track.has_face) + 1
        files = [
            affwild2_release / "cropped_aligned" / track.name / f"{number:05d}.jpg" for number in numbers
        ]
        assert list(chunk.frames) == [path.read_bytes() for path in files]
        # The numbers come back exactly, though the rate varies.
        times = recordings[track.name].annotation.times_seconds
        assert np.isin(chunk.times_seconds, times).all()
        np.testing.assert_array_equal(np.searchsorted(times, chunk.times_seconds) + 1, numbers)
        assert np.ptp(np.diff(times)) > 0.01


def test_the_sound_is_stored_once_and_runs_with_the_video(affwild2_release):
    _, sources, _ = scan(affwild2_release)
    (chunk,) = decode(affwild2_release, sources["audio", PAIR.name])
    assert chunk.values.dtype == np.int16 and chunk.values.shape[1] == 1 and chunk.rate_hz == 44100.0
    assert chunk.times_seconds.tolist() == [0.0]
    assert len(chunk) / 44100 == pytest.approx(PAIR.times_seconds[-1], abs=0.1)
    (slower,) = decode(affwild2_release, sources["audio", PAIR.name], sound_rate_hz=16000)
    assert len(slower) / 16000 == pytest.approx(len(chunk) / 44100, abs=0.01)


def test_the_older_edition_and_videos_in_other_places(affwild2_root):
    expected, _, _ = scan(affwild2_root)
    (affwild2_root / "annotations").mkdir()
    (affwild2_root / "VA_Estimation_Challenge").rename(affwild2_root / "annotations" / "VA_Set")
    (affwild2_root / "videos" / "more").mkdir(parents=True)
    for number, path in enumerate(sorted(affwild2_root.glob("batch*/*.mp4"))):
        path.rename(
            (affwild2_root, affwild2_root / "videos", affwild2_root / "videos" / "more")[number % 3]
            / path.name
        )
    (affwild2_root / TEST_LIST).rename(affwild2_root / "names.txt")
    recordings, sources, _ = scan(affwild2_root)
    assert [r.id for r in expected.values() if r.group != "test"] == list(recordings)
    recordings, sources, _ = scan(affwild2_root, test_list="names.txt", edition="VA_Set")
    assert list(expected) == list(recordings)
    assert {path.files[-1] for path in sources.values() if path.stream == "audio"} != set()
    shutil.copytree(affwild2_root / "annotations" / "VA_Set", affwild2_root / "VA_Estimation_Challenge")
    with pytest.raises(BadDataError, match="two editions.*edition="):
        scan(affwild2_root)
    assert list(scan(affwild2_root, edition="VA_Estimation_Challenge", test_list="names.txt")[0]) == list(
        expected
    )


def test_a_video_without_a_face_or_without_a_file(affwild2_root):
    shutil.rmtree(affwild2_root / "cropped_aligned" / SHORT.name)
    for path in (affwild2_root / "cropped_aligned" / LONG.name).iterdir():
        path.unlink()
    (affwild2_root / "batch1" / f"{VALIDATION.name}.mp4").unlink()
    (affwild2_root / "batch2" / f"{SILENT.name}.mp4").rename(affwild2_root / "batch2" / f"{SILENT.name}.AVI")
    recordings, sources, left_out = scan(affwild2_root)
    assert recordings[SHORT.name].sources == {"audio": SHORT.name}
    assert recordings[LONG.name].sources == {"audio": LONG.name}
    assert len(recordings[SHORT.name].annotation.values) == len(SHORT.times_seconds)
    assert VALIDATION.name not in recordings
    assert recordings[SILENT.name].attributes["video"] == SILENT.name


def test_superfluous_files_are_listed_and_crops_beyond_the_end_are_kept(affwild2_root):
    shutil.copytree(
        affwild2_root / "cropped_aligned" / SHORT.name, affwild2_root / "cropped_aligned" / "nobody"
    )
    shutil.copy(affwild2_root / "batch1" / f"{PAIR.name}.mp4", affwild2_root / "batch2" / f"{PAIR.name}.avi")
    faces = affwild2_root / "cropped_aligned" / SHORT.name
    beyond = len(SHORT.times_seconds) + 3
    shutil.copy(next(faces.iterdir()), faces / f"{beyond:05d}.jpg")
    (faces / "Thumbs.db").write_bytes(b"no crop")
    recordings, sources, left_out = scan(affwild2_root)
    assert "no annotation" in left_out["nobody"].reason
    assert left_out[f"batch2/{PAIR.name}.avi"].reason.endswith(f"was taken: batch1/{PAIR.name}.mp4")
    times = recordings[SHORT.name].annotation.times_seconds
    assert len(times) == beyond and not recordings[SHORT.name].annotation.mask[-1].any()
    (chunk,) = decode(affwild2_root, sources["visual", SHORT.name])
    assert chunk.times_seconds[-1] == times[-1]


def test_unreadable_crops_are_masked_and_told(affwild2_root):
    names = sorted(path.name for path in (affwild2_root / "cropped_aligned" / LONG.name).iterdir())
    folder = affwild2_root / "cropped_aligned" / LONG.name
    (folder / names[3]).write_bytes(b"")
    (folder / names[-1]).write_bytes((folder / names[-1]).read_bytes()[:400])
    source = scan(affwild2_root)[1]["visual", LONG.name]
    (chunk,) = decode(affwild2_root, source)
    assert len(chunk) == len(names) - 2
    assert chunk.left_out == (f"2 face crops cannot be read and are masked: {names[3]}, {names[-1]}",)
    stored = storage.store_source(Affwild2(affwild2_root, size=32), source, affwild2_root.parent / "stored")
    assert not stored.damaged and stored.left_out == chunk.left_out
    assert storage.StoredSource.from_json(stored.to_json()) == stored
    for name in names:
        (folder / name).write_bytes(b"")
    with pytest.raises(BadDataError, match=f"none of the {len(names)} images"):
        decode(affwild2_root, source)


def test_crops_of_another_size_are_resized(affwild2_release):
    source = scan(affwild2_release)[1]["visual", SHORT.name]
    (chunk,) = decode(affwild2_release, source, size=24)
    assert video.decode_jpeg(chunk.frames[0]).shape == (24, 24, 3)
    original = (affwild2_release / source.files[0] / "00001.jpg").read_bytes()
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
def test_a_damaged_annotation_is_told_by_line(affwild2_root, old, new, message):
    path = annotation_file(affwild2_root, VALIDATION)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BadDataError, match=message):
        read_annotation(path)
    recordings, _, left_out = scan(affwild2_root)
    assert VALIDATION.name not in recordings and left_out[VALIDATION.name].damaged


def test_an_annotation_without_lines_and_one_with_one_value_missing(affwild2_root):
    path = annotation_file(affwild2_root, VALIDATION)
    path.write_text("valence,arousal\r\n0.5,-0.5\r\n-5,0.25\r\n-5,-5.0\r\n\r\n")
    values, mask = read_annotation(path)
    assert mask.tolist() == [True, False, False] and values.tolist() == [[0.5, -0.5], [0, 0], [0, 0]]
    path.write_text("valence,arousal\n")
    with pytest.raises(BadDataError, match="no line but its header"):
        read_annotation(path)


def test_a_damaged_video_takes_its_recordings_along(affwild2_root):
    path = affwild2_root / "batch1" / f"{PAIR.name}.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    recordings, _, left_out = scan(affwild2_root)
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
def test_a_bad_test_list_is_told(affwild2_root, text, message):
    (affwild2_root / TEST_LIST).write_text(text)
    with pytest.raises(BadDataError, match=message):
        scan(affwild2_root)


def test_wrong_folders_and_options_are_told(affwild2_root, tmp_path):
    with pytest.raises(BadDataError, match="there is no folder"):
        scan(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataError, match=r"no VA_Set/Train_Set and no VA_Estimation_Challenge/Train_Set"):
        scan(tmp_path / "empty")
    with pytest.raises(BadDataError, match="there is no file"):
        scan(affwild2_root, test_list="none.txt")
    with pytest.raises(BadDataError, match="holds no VA_Set"):
        scan(affwild2_root, edition="VA_Set")
    for folder in ("cropped_aligned", "batch1", "batch2"):
        shutil.rmtree(affwild2_root / folder)
    with pytest.raises(BadDataError, match="face crops and videos"):
        scan(affwild2_root)
    for options in ({"edition": "VA"}, {"size": 4}, {"sound_rate_hz": 10}):
        with pytest.raises(UsageError, match="expected"):
            Affwild2(affwild2_root, **options)


def test_a_copy_for_a_worker_has_the_options_alone(affwild2_release):
    reader = Affwild2(affwild2_release, size=32)
    reader.scan()
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader and "_layout" not in vars(copy)
    assert copy.is_sample() and set(copy.settings()) == {
        "edition",
        "test_list",
        "frame_rates",
        "size",
        "sound_rate_hz",
    }
