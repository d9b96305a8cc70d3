from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.readers.biovid import HOLD_OUT, NON_REACTIVE, BioVid
from data_pipelines.recording import Source
from data_pipelines.sample.biovid import BioVidSampleSpec, write_biovid

SPEC = BioVidSampleSpec(subjects=3, clips_per_class=2, classes=(0, 2, 4), size=32, frames=12)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("biovid") / "PartA"
    write_biovid(folder, SPEC, workers=1)
    return folder


@pytest.fixture
def root(release, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(release, tmp_path / "PartA")


def first_table(root):
    return sorted((root / "biosignals_filtered").glob("*/*.csv"))[0]


def table_source(path, root):
    return Source("physio", path.stem.removesuffix("_bio"), (path.relative_to(root).as_posix(),))


def test_scan_finds_recordings_with_labels_and_people(release):
    reader = BioVid(release, size=24)
    recordings, sources, left_out = reader.scan()
    assert len(recordings) == 3 * 3 * 2 and len(sources) == 2 * len(recordings) and not left_out
    assert len({recording.subject for recording in recordings}) == 3
    first = recordings[0]
    assert first.sources == {"visual": first.id, "physio": first.id}
    assert first.annotation.names == ("pain_class",) and first.annotation.times_seconds is None
    assert first.annotation.values.dtype == np.float32 and first.annotation.mask.all()
    classes = [int(recording.annotation.values[0, 0]) for recording in recordings]
    assert sorted(set(classes)) == [0, 2, 4] and classes.count(2) == 6
    for recording in recordings:
        _, sex, age = recording.subject.split("_")
        assert recording.attributes["sex"] == sex and recording.attributes["age"] == int(age)
        assert recording.attributes["class_name"] in recording.id
    assert reader.scan()[0][5].id == recordings[5].id


def test_streams_and_decoded_chunks(release):
    reader = BioVid(release, size=24)
    visual, physio = reader.streams()
    assert (visual.name, visual.kind, visual.height, visual.width) == ("visual", "frames", 24, 24)
    assert physio.channels == ("gsr", "ecg", "emg_trapezius", "emg_corrugator", "emg_zygomaticus")
    assert physio.units[0] == "microsiemens" and physio.rate_hz == 512.0
    _, sources, _ = reader.scan()
    by_stream = {source.stream: source for source in sources}
    (frames,) = reader.decode(by_stream["visual"])
    assert len(frames) == 12 and frames.rate_hz == 0.0
    np.testing.assert_allclose(frames.times_seconds, np.arange(12) / 25.0)
    (samples,) = reader.decode(by_stream["physio"])
    assert samples.values.shape == (2816, 5) and samples.values.dtype == np.float32
    assert samples.rate_hz == 512.0 and samples.times_seconds == [0.0]
    assert np.isfinite(samples.values).all()


def test_channels_come_in_the_order_asked_for(release):
    both, swapped = BioVid(release, channels=("gsr", "ecg")), BioVid(release, channels=("ecg", "gsr"))
    source = both.scan()[1][1]
    (first,), (second,) = both.decode(source), swapped.decode(source)
    np.testing.assert_array_equal(first.values, second.values[:, ::-1])


def test_raw_signals_are_others_than_filtered_ones(release):
    source = BioVid(release).scan()[1][1]
    raw = BioVid(release, biosignals="raw")
    raw_source = raw.scan()[1][1]
    assert raw_source.id == source.id and "biosignals_raw" in raw_source.files[0]
    (filtered,), (unfiltered,) = BioVid(release).decode(source), raw.decode(raw_source)
    correlation = np.corrcoef(filtered.values[:, 0], unfiltered.values[:, 0])[0, 1]
    assert 0.5 < correlation < 1.0


def test_classes_and_the_parent_folder_and_pickling(release):
    reader = pickle.loads(pickle.dumps(BioVid(release.parent, classes=(4, 0), size=16)))
    recordings, sources, _ = reader.scan()
    assert {int(recording.annotation.values[0, 0]) for recording in recordings} == {0, 4}
    assert sources[0].files[0].startswith("PartA/video/")
    assert len(next(reader.decode(sources[0]))) == 12
    assert reader.is_sample() and BioVid(release).is_sample()
    assert reader.settings() | {"channels": 0} == {
        "biosignals": "filtered",
        "channels": 0,
        "size": 16,
        "crop": "auto",
        "classes": [0, 4],
        "video": True,
    }


def test_notes_say_what_crop_it_is(release):
    assert "taken as a face crop" in BioVid(release).notes()["face_crop"]
    assert "a centre crop, not a detected face" in BioVid(release, crop="centre").notes()["face_crop"]
    assert "face_crop" not in BioVid(release, video=False).notes()


def test_a_release_without_facial_muscles(tmp_path):
    spec = BioVidSampleSpec(subjects=1, clips_per_class=1, size=32, frames=2, facial_emg=False)
    write_biovid(tmp_path, spec, workers=1)
    assert BioVid(tmp_path).streams()[1].channels == ("gsr", "ecg", "emg_trapezius")
    with pytest.raises(BadDataError, match="no column emg_corrugator; they have gsr, ecg, emg_trapezius"):
        BioVid(tmp_path, channels=("gsr", "emg_corrugator")).scan()


def test_2817_rows_are_kept_and_a_few_less_too(root):
    path = first_table(root)
    lines = path.read_text().splitlines()
    reader = BioVid(root)
    path.write_text("\n".join([*lines, "5500000\t" + lines[-1].partition("\t")[2]]))
    assert sum(map(len, reader.decode(table_source(path, root)))) == 2817
    path.write_text("\n".join(lines[:2001]))
    assert sum(map(len, reader.decode(table_source(path, root)))) == 2000
    path.write_text("\n".join(lines[:1001]))
    with pytest.raises(BadDataError, match="1000 rows; expected at least 1878"):
        list(reader.decode(table_source(path, root)))


def test_missing_rows_are_masked_where_they_are_missing(root):
    path = first_table(root)
    lines = path.read_text().splitlines()
    reader, source = BioVid(root), table_source(path, root)
    (whole,) = reader.decode(source)
    assert not whole.left_out
    gone = np.r_[0:5, 900:1000, 1200, 2000:2003, 2810:2816]
    path.write_text("\n".join([lines[0], *np.delete(lines[1:], gone)]))
    (chunk,) = reader.decode(source)
    assert chunk.values.shape == (2810, whole.values.shape[1]) and chunk.times_seconds == [0.0]
    masked = np.isnan(chunk.values).all(1)
    assert np.flatnonzero(masked).tolist() == gone[gone < 2810].tolist()
    np.testing.assert_array_equal(chunk.values[~masked], whole.values[:2810][~masked])
    assert chunk.left_out == ("109 rows are missing by the time column and are masked",)
    # A clock that is not the clip's own says nothing of what is missing before its first row.
    shifted = [f"{int(line.split()[0]) + 10**10}\t{line.partition(chr(9))[2]}" for line in lines[1:]]
    path.write_text("\n".join([lines[0], *shifted]))
    np.testing.assert_array_equal(next(reader.decode(source)).values, whole.values)


def test_rows_out_of_order_or_doubled_are_told_by_line(root):
    path = first_table(root)
    lines = path.read_text().splitlines()
    for wrong in ([*lines[:40], lines[41], lines[40], *lines[42:]], [*lines[:41], lines[40], *lines[41:]]):
        path.write_text("\n".join(wrong))
        with pytest.raises(BadDataError, match=rf"{path.name}, line 42: .* times must ascend: sort the rows"):
            list(BioVid(root).decode(table_source(path, root)))


@pytest.mark.parametrize("cell", ["nan", "text", ""])
def test_a_damaged_table_is_named_with_its_line(root, cell):
    path = first_table(root)
    lines = path.read_text().splitlines()
    cells = lines[99].split("\t")
    cells[1] = cell
    lines[99] = "\t".join(cells)
    path.write_text("\n".join(lines))
    with pytest.raises(BadDataError, match=rf"{path.name}, line 100, column 'gsr'"):
        list(BioVid(root).decode(table_source(path, root)))


def test_a_table_without_a_column_is_damaged_but_does_not_speak_for_the_others(root):
    path = first_table(root)
    path.write_text(path.read_text().replace("ecg", "heart", 1))
    reader = BioVid(root)
    assert "ecg" in reader.streams()[1].channels
    with pytest.raises(BadDataError, match="no column named 'ecg'"):
        list(reader.decode(table_source(path, root)))


def test_a_table_at_another_rate_is_damaged(root):
    path = first_table(root)
    lines = path.read_text().splitlines()
    rows = [line.partition("\t")[2] for line in lines[1:]]
    path.write_text("\n".join([lines[0], *(f"{index * 1000}\t{row}" for index, row in enumerate(rows))]))
    with pytest.raises(BadDataError, match="1000 rows a second.*expected 512"):
        list(BioVid(root).decode(table_source(path, root)))


def test_absent_subjects_are_left_out_once_and_missing_files_are_damage(root):
    subjects = sorted(folder.name for folder in (root / "video").iterdir())
    shutil.rmtree(root / "video" / subjects[0])
    shutil.rmtree(root / "biosignals_filtered" / subjects[0])
    lost = sorted((root / "video" / subjects[1]).iterdir())[0]
    lost.unlink()
    recordings, sources, left_out = BioVid(root).scan()
    assert len(recordings) == 11 and len(sources) == 22
    assert {(item.id, item.damaged) for item in left_out} == {(subjects[0], False), (lost.stem, True)}
    assert f"no video/{subjects[0]}" in next(item.reason for item in left_out if not item.damaged)
    assert lost.name in next(item.reason for item in left_out if item.damaged)
    without, _, left_out = BioVid(root, video=False).scan()
    assert len(without) == 12 and [item.id for item in left_out] == [subjects[0]]


def test_a_wrong_folder_is_told_what_it_lacks(root, tmp_path):
    with pytest.raises(BadDataError, match="there is no folder"):
        BioVid(tmp_path / "none").scan()
    with pytest.raises(BadDataError, match=r"no starting_point/samples\.csv and no biosignals_filtered"):
        (tmp_path / "other").mkdir()
        BioVid(tmp_path / "other").scan()
    shutil.rmtree(root / "biosignals_filtered")
    with pytest.raises(BadDataError, match="no biosignals_filtered.*biosignals=raw"):
        BioVid(root).scan()
    shutil.rmtree(root / "video")
    with pytest.raises(BadDataError, match="no video.*video=False"):
        BioVid(root, biosignals="raw").scan()
    assert len(BioVid(root, biosignals="raw", video=False).scan()[0]) == 18


def test_nothing_there_but_the_table_is_an_error(root):
    for kind in ("video", "biosignals_filtered"):
        for folder in (root / kind).iterdir():
            shutil.rmtree(folder)
    with pytest.raises(BadDataError, match="no biosignals_filtered/<subject>"):
        BioVid(root).scan()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class_id", "klass", "no column class_id"),
        ("\tBL1\t", "\tPA1\t", "line 2: class_name is 'PA1' with class_id 0; expected BL1"),
        ("\t0\tBL1\t", "\t7\tBL1\t", "line 2: class_id is '7'"),
        ("\t0\tBL1\t", "\tBL1\t", "line 2: 5 cells; expected 6"),
        ("_m_", "_x_", "line 2: subject_name is"),
        ("-BL1-002\n", "-BL1-001\n", "line 3: .* second time"),
    ],
)
def test_a_bad_list_of_samples_is_told_by_line(root, old, new, message):
    path = root / "starting_point" / "samples.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadDataError, match=message):
        BioVid(root).scan()


@pytest.mark.parametrize(
    "options",
    [
        {"biosignals": "cooked"},
        {"channels": ("gsr", "eeg")},
        {"channels": ()},
        {"channels": ("gsr", "gsr")},
        {"classes": (0, 5)},
        {"classes": ()},
        {"crop": "face"},
        {"size": 0},
    ],
)
def test_impossible_options_are_usage_errors(tmp_path, options):
    with pytest.raises(UsageError, match="expected"):
        BioVid(tmp_path, **options)


def test_published_groups_of_subjects():
    assert len(NON_REACTIVE) == 20 and len(HOLD_OUT) == 26
    assert {
        "082315_w_60",
        "083109_m_60",
        "083114_w_55",
        "100914_m_39",
        "101114_w_37",
    } == NON_REACTIVE & HOLD_OUT
