from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from affwild2_case import LONG, PAIR, SHORT, SILENT, TEST, VALIDATION, digest, scan

from data_pipelines import inputs, storage
from data_pipelines.errors import UsageError
from data_pipelines.media import frame_times
from data_pipelines.media.frame_times import read_frame_times
from data_pipelines.prepare import main, prepare
from data_pipelines.readers.affwild2 import Affwild2
from data_pipelines.recording import MAX_CHUNK_FRAMES
from data_pipelines.sample.affwild2 import (
    Affwild2SampleSpec,
    plan_video,
    write_affwild2,
)
from data_pipelines.source import PreparedSet, is_prepared
from data_pipelines.splits import Item, make_split


def test_the_prepared_set_is_little_larger_than_crops_and_sound(affwild2_release, tmp_path):
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


def test_what_was_prepared_reads_back(affwild2_prepared, affwild2_release):
    recordings, _, _ = scan(affwild2_release)
    assert affwild2_prepared.card["sample"] and affwild2_prepared.card["counts"]["groups"] == {
        "test": 1,
        "train": 5,
        "validation": 1,
    }
    assert (
        affwild2_prepared.card["counts"]["damaged"] == 0 and affwild2_prepared.card["counts"]["subjects"] == 6
    )
    assert SILENT.name in [entry["id"] for entry in affwild2_prepared.card["left_out"]]
    assert "byte by byte" in affwild2_prepared.card["notes"]["face_crop"]
    for recording in affwild2_prepared.recordings:
        expected = recordings[recording.id]
        assert recording.sources == expected.sources and recording.attributes == expected.attributes
        np.testing.assert_array_equal(recording.annotation.times_seconds, expected.annotation.times_seconds)
        np.testing.assert_array_equal(recording.annotation.values, expected.annotation.values)
        np.testing.assert_array_equal(recording.annotation.mask, expected.annotation.mask)
    table = affwild2_prepared.table("visual")
    (row,) = table.rows_of(LONG.name)
    (chunk,) = affwild2_prepared.read("visual", [row])
    numbers = np.searchsorted(
        recordings[LONG.name].annotation.times_seconds,
        table.times_seconds[table.offsets[row] :][: len(chunk)],
    )
    picture = affwild2_release / "cropped_aligned" / LONG.name / f"{numbers[7] + 1:05d}.jpg"
    assert chunk.frames[7] == picture.read_bytes()


def test_splits_keep_the_people_of_a_video_together(affwild2_prepared):
    items = [Item(r.id, r.subject, None, r.group) for r in affwild2_prepared.recordings]
    split = make_split(items, "official")
    assert set(split.test) == {TEST.name} and set(split.validation) == {VALIDATION.name}
    assert len(split.train) == 5
    for fold in range(3):
        split = make_split(items, "subject_kfold", fold=fold, folds=3)
        for part in (split.train, split.validation, split.test):
            assert len({track.name for track in PAIR.tracks} & set(part)) in (0, 2)


def test_a_changed_crop_is_noticed_and_the_same_files_give_the_same_bytes(
    affwild2_prepared, affwild2_release, affwild2_root, tmp_path
):
    reader = Affwild2(affwild2_root, size=32)
    prepare(reader, tmp_path / "again", workers=1)
    ours, theirs = digest(tmp_path / "again"), digest(affwild2_prepared.path)
    modified = inputs.MODIFIED_FILE
    assert {k: v for k, v in ours.items() if k != modified} == {
        k: v for k, v in theirs.items() if k != modified
    }
    crop = affwild2_root / "cropped_aligned" / SHORT.name / "00001.jpg"
    crop.write_bytes(crop.read_bytes() + b"\0")
    with pytest.raises(UsageError, match=f"cropped_aligned/{SHORT.name} changed"):
        prepare(reader, tmp_path / "again", workers=1)


def test_killed_while_decoding_it_goes_on_to_the_same_bytes(affwild2_prepared, affwild2_release, tmp_path):
    out = tmp_path / "out"
    options = ["--dataset=affwild2", f"--raw={affwild2_release}", f"--out={out}", "--size=32", "--workers=1"]
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
    assert digest(out) == digest(affwild2_prepared.path)


def test_timestamps_are_not_read_again_but_of_what_changed(
    affwild2_prepared, affwild2_release, affwild2_root, tmp_path, monkeypatch
):
    out = shutil.copytree(affwild2_prepared.path, tmp_path / "out")
    read = []

    def counted(path):
        read.append(path.name)
        return read_frame_times(path)

    monkeypatch.setattr(frame_times, "read_frame_times", counted)
    prepare(Affwild2(affwild2_root, size=32), out, workers=1)
    assert not read
    video = affwild2_root / "batch1" / f"{PAIR.name}.mp4"
    os.utime(video, ns=(0, video.stat().st_mtime_ns + 1))
    prepare(Affwild2(affwild2_root, size=32), out, workers=1)  # it is the same file at another time
    assert read == [video.name]
    (out / inputs.SCAN_FILE).write_bytes(b"PK damaged")
    prepare(Affwild2(affwild2_root, size=32), out, workers=1)
    assert len(read) == 1 + len(list(affwild2_root.rglob("*.mp4")))


def test_the_digest_of_what_was_found_is_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(inputs, "_BLOCK_ROWS", 7)
    columns = {"names": np.array(['["a"]', "é"]), "mask": np.arange(25) % 2 == 0, "none": np.zeros(0)}
    parts = [[["x", {"k": 1}]], [("a", ("b",))]]
    whole = [*parts, {name: column.tolist() for name, column in columns.items()}]
    assert inputs.digest_found(parts, columns) == storage.digest(whole)
