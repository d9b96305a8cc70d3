"""Wristband folders as people have them: who is one person, where sessions lie, and how files are written."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
from e4_case import START, write_labels, write_person

from data_pipelines import prepare, reader_options, storage, workers
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.grid import Grid
from data_pipelines.items import make_items
from data_pipelines.readers.e4 import E4
from data_pipelines.source import PreparedSet
from data_pipelines.tasks import find_task

DAY = 86_400


def person(folder: pathlib.Path, start: float = START, seconds: int = 10, skin: float = 2.5, **files: str):
    """A session of three streams, each `seconds` long."""
    rows = {"EDA": (4, skin), "BVP": (64, 1.5), "TEMP": (4, 31.5), "ACC": (32, "1,2,3")}
    texts = {name: f"{start:.2f}\n{hz}.0\n" + f"{x}\n" * (hz * seconds) for name, (hz, x) in rows.items()}
    write_person(folder, start, **texts | files)


def labels(root: pathlib.Path, *people: str, seconds: int = 10, start: float = START) -> None:
    write_labels(
        root / "labels.csv", *(f"{who},{start + s},{s % 2}" for who in people for s in range(seconds))
    )


def subjects(reader: E4) -> dict[str, str]:
    return {recording.id: recording.subject for recording in reader.scan()[0]}


@pytest.fixture
def two_days(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two people with two sessions each, one label table a person."""
    for number, name in enumerate(("P01", "P02")):
        for day in (0, 1):
            person(tmp_path / name / f"day{day}", START + day * DAY + number)
    lines = [f"{n},{START + day * DAY + s},{day}" for n in (1, 2) for day in (0, 1) for s in range(2, 9)]
    write_labels(tmp_path / "labels.csv", *lines)
    return tmp_path


def test_two_sessions_in_a_persons_folder_are_one_subject(two_days: pathlib.Path):
    reader = E4(str(two_days))
    recordings, sources, left_out = reader.scan()
    assert subjects(reader) == {f"P0{n}/day{day}": f"P0{n}" for n in (1, 2) for day in (0, 1)}
    assert len(sources) == 16 and not left_out
    # Each session has the labels of its own time.
    assert [set(r.annotation.values[:, 0]) for r in recordings] == [{0.0}, {1.0}] * 2
    note = reader.notes()["subjects"]
    assert "4 sessions of 2 people" in note and "P01 = P01/day0, P01/day1" in note


def test_folders_that_hold_several_named_ones_have_to_be_explained(tmp_path: pathlib.Path):
    names = [f"{above}/{name}" for above in ("a", "b") for name in ("x", "y")]
    for index, name in enumerate(names):
        person(tmp_path / name.replace("/", "/" + name[0]), START + index)
    labels(tmp_path, "ax", "ay", "bx", "by")
    reader = E4(str(tmp_path))
    with pytest.raises(UsageError, match=r"ax and ay, which lie in one folder a: .*subjects=above"):
        reader.scan()
    assert set(subjects(dataclasses.replace(reader, subjects="named")).values()) == {"ax", "ay", "bx", "by"}
    above = dataclasses.replace(reader, subjects="above")
    assert set(subjects(above).values()) == {"a", "b"} and "folder above" in above.notes()["subjects"]
    (tmp_path / "who.csv").write_text("session;subject\na/ax;Ann\nb/bx;Ann\na/ay;Bea\nby;Cleo\n")
    told = dataclasses.replace(reader, subjects="who.csv")
    assert subjects(told) == {"a/ax": "Ann", "a/ay": "Bea", "b/bx": "Ann", "b/by": "Cleo"}
    (tmp_path / "who.csv").write_text("session,subject\na/ax,Ann\n")
    with pytest.raises(BadDataError, match=r"no line of session a/ay \(3 sessions"):
        told.scan()
    with pytest.raises(BadDataError, match=r"table of subjects .*none\.csv is not there"):
        dataclasses.replace(reader, subjects="none.csv").scan()


def test_names_that_look_like_sessions_of_one_person_are_a_warning(tmp_path: pathlib.Path):
    for index, name in enumerate(("S02a", "S02b", "S03")):
        person(tmp_path / name, START + index)
    labels(tmp_path, "S02a", "S02b", "S03")
    (warning,) = E4(str(tmp_path)).warnings()
    assert "S02a and S02b look like sessions of one person" in warning and "S03" not in warning


def test_sessions_lie_as_deep_as_they_lie_in_letters_of_any_case_and_in_zips(tmp_path: pathlib.Path):
    person(tmp_path / "raw_data" / "S02" / "export" / "E4")
    person(tmp_path / "raw_data" / "S03")
    for path in (tmp_path / "raw_data" / "S03").iterdir():
        path.rename(path.with_name(path.name.lower()))
    person(tmp_path / "raw_data" / "S04")
    person(tmp_path / "S05")
    folder = shutil.move(tmp_path / "raw_data" / "S04", tmp_path / "unpacked")
    (tmp_path / "raw_data" / "S04").mkdir()
    shutil.make_archive(str(tmp_path / "raw_data" / "S04" / "1600000000_A0"), "zip", folder)
    with zipfile.ZipFile(tmp_path / "raw_data" / "S06.zip", "w") as archive:
        for path in sorted((tmp_path / "unpacked").iterdir()):
            archive.write(path, f"S06/{path.name}")
            archive.writestr(f"__MACOSX/S06/._{path.name}", b"\0")
    labels(tmp_path, "2", "3", "4", "6")
    reader = E4(str(tmp_path))
    recordings, sources, left_out = reader.scan()
    assert not left_out and subjects(reader) == {
        "S02/export/E4": "S02",
        "S03": "S03",
        "S04/1600000000_A0": "S04",
        "S06": "S06",
    }
    for source in sources:
        decoded = np.concatenate([chunk.values for chunk in reader.decode(source)])
        assert len(decoded) and source.files[0].lower().endswith((".csv", ".zip"))
        assert (tmp_path / source.files[0]).is_file()
    assert all(len(recording.annotation.values) == 10 for recording in recordings)


def test_a_zip_beside_its_folder_is_the_same_session(tmp_path: pathlib.Path):
    person(tmp_path / "S02" / "x")
    shutil.make_archive(str(tmp_path / "S02" / "y"), "zip", tmp_path / "S02" / "x")
    (tmp_path / "S02" / "z.zip").write_bytes(b"PK\x03\x04 cut")
    labels(tmp_path, "S02")
    recordings, _, left_out = E4(str(tmp_path)).scan()
    assert [recording.id for recording in recordings] == ["S02/x"]
    assert {(item.id, item.damaged) for item in left_out} == {("S02/y", False), ("S02/z", True)}
    assert "copy of S02/x" in str(left_out) and "cannot be unpacked" in str(left_out)


def test_a_labelled_person_whose_folder_holds_something_else(tmp_path: pathlib.Path):
    person(tmp_path / "S02")
    (tmp_path / "S03").mkdir()
    (tmp_path / "S03" / "skin.txt").write_text("1\n")
    labels(tmp_path, "2", "3", "4")
    reasons = {item.id: item.reason for item in E4(str(tmp_path)).scan()[2]}
    assert "its folder S03 holds none of BVP.csv, EDA.csv" in reasons["participant 3"]
    assert "skin.txt" in reasons["participant 3"] and "no folder" in reasons["participant 4"]


def test_a_file_where_a_folder_is_expected_is_called_a_file(tmp_path: pathlib.Path):
    (tmp_path / "x.zip").write_text("")
    with pytest.raises(BadDataError, match=r"x.zip is a file; expected the folder that holds the people"):
        E4(str(tmp_path / "x.zip")).scan()
    write_person(tmp_path / "S02")
    labels(tmp_path / "S02", "2")
    with pytest.raises(BadDataError, match="is one session itself.*give the folder above"):
        E4(str(tmp_path / "S02")).scan()


@pytest.mark.parametrize(
    "text",
    [
        "{start}\n4,000000\n0,5\n0,25\n",
        "{start},000000\n4,0\n0,5\n0,25\n",
        "{start};\n4;\n0,5;\n0,25;\n",
        "2020-09-13T12:26:40Z\n4.0\n0.5\n0.25\n",
        "2020-09-13 14:26:40 +0200\n4.0\n0.5\n0.25\n",
    ],
    ids=["decimal_comma", "comma_in_the_start", "semicolons", "clock", "clock_of_a_zone"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_as_other_programs_write_them(tmp_path: pathlib.Path, text: str, encoding: str):
    person(tmp_path / "S02")
    (tmp_path / "S02" / "EDA.csv").write_bytes(text.format(start=START).encode(encoding))
    labels(tmp_path, "2")
    reader = E4(str(tmp_path), streams_used=("skin_conductance",))
    (source,) = reader.scan()[1]
    (chunk,) = reader.decode(source)
    assert chunk.values.tolist() == [[0.5], [0.25]] and chunk.times_seconds[0] == 0.0


def test_acceleration_with_semicolons(tmp_path: pathlib.Path):
    text = f"{START},0;{START},0;{START},0\n32,0;32,0;32,0\n1,5;-2;63\n"
    person(tmp_path / "S02", ACC=text)
    labels(tmp_path, "2")
    reader = E4(str(tmp_path), streams_used=("acceleration",))
    (chunk,) = reader.decode(reader.scan()[1][0])
    assert chunk.values.tolist() == [[1.5, -2.0, 63.0]]


def table(root: pathlib.Path, text: str, encoding: str = "utf-8") -> E4:
    person(root / "S02")
    (root / "labels.csv").write_bytes(text.encode(encoding))
    columns = {"participant_column": "who", "time_column": "when", "label_column": "what"}
    return E4(str(root), **columns, label_values="Rest=0,stress=1")


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffwho;when;what\n2;{START},0;0\n2;{START + 1},0;1,0\n",
        f"who\twhen\twhat\n2\t{START}\trest\n2\t{START + 1}\tSTRESS\n",
        "who,when,what\n2,2020-09-13T12:26:40+00:00,rest\n2,2020-09-13T14:26:41+02:00,1\n",
        "what,who,when\nrest,2,2020-09-13 12:26:40 UTC\nstress,2,2020-09-13 12:26:41Z\n",
    ],
    ids=["semicolons", "tabs_and_words", "zones", "utc"],
)
def test_label_tables_as_other_programs_write_them(tmp_path: pathlib.Path, text: str):
    (recording,) = table(tmp_path, text).scan()[0]
    np.testing.assert_array_equal(recording.annotation.times_seconds, [0.0, 1.0])
    np.testing.assert_array_equal(recording.annotation.values, [[0.0], [1.0]])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            f"2,{START},tense",
            "line 3: what is 'tense', expected a number; give .*label_values=rest=0,stress=1,tense=NUMBER "
            r"\(0 is rest, 1 is stress\)$",
        ),
        ("2,2020-09-13 12:26:40,0", "labels.csv line 3: when is '2020.*', a clock time without its zone"),
        ("2,13.09.2020 12:26 UTC,0", "labels.csv line 3: when is '13.09.*expected UNIX seconds"),
        (f"2,{START}000,0", "labels.csv line 3: when is .*divide milliseconds by 1000"),
        (f"2,{START},0,5", "labels.csv line 3 has 4 columns, expected 3"),
        (f"2,{START},{'x' * 200_000}", "labels.csv line 3 is no line of a table .*field larger"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: pathlib.Path, line: str, words: str):
    reader = table(tmp_path, f"who,when,what\n2,{START + 5},0\n{line}\n")
    (tmp_path / "other.csv").write_text("x" * 200_000)
    with pytest.raises(BadDataError, match=words):
        reader.scan()
    with pytest.raises(UsageError, match=r"label_values='rest': 'rest' is not word=number"):
        dataclasses.replace(reader, label_values="rest")


@pytest.mark.parametrize("hours", [2.0, -5.0, 5.75])
def test_labels_of_another_time_zone_are_refused_with_the_offset(tmp_path: pathlib.Path, hours: float):
    person(tmp_path / "S02", seconds=60)
    person(tmp_path / "S03", seconds=60)
    write_labels(
        tmp_path / "labels.csv",
        *(f"2,{START + s},0" for s in range(50)),
        *(f"3,{START + hours * 3600 + s},0" for s in range(50)),
    )
    reader = E4(str(tmp_path))
    recordings, _, (item,) = reader.scan()
    assert [recording.id for recording in recordings] == ["S02"] and item.id == "S03" and item.damaged
    offset = round(-hours * 3600)
    assert "not on one clock" in item.reason and f"label_offset_seconds={offset}" in item.reason
    moved = dataclasses.replace(reader, label_offset_seconds=float(offset)).scan()
    assert [recording.id for recording in moved[0]] == ["S03"]
    # Whoever has moved the wrong ones is told what to give in all.
    assert "label_offset_seconds=0" in moved[2][0].reason


@pytest.mark.parametrize("first", [0.0, -9e10])
def test_labels_that_count_from_the_start_are_no_unix_times(tmp_path: pathlib.Path, first: float):
    person(tmp_path / "S02")
    labels(tmp_path, "2", start=first)
    with pytest.raises(BadDataError, match="S02: its labels are at .* no UNIX seconds; add the start"):
        E4(str(tmp_path)).scan()


def test_labels_that_go_on_after_the_band_stopped_are_a_warning(tmp_path: pathlib.Path):
    person(tmp_path / "S02", seconds=60)
    labels(tmp_path, "2", seconds=100)
    reader = E4(str(tmp_path))
    (recording,) = reader.scan()[0]
    assert len(recording.annotation.values) == 63
    (warning,) = reader.warnings()
    assert "participant 2: 37% of the labels (37) lie outside the recording" in warning


def test_a_stream_of_a_second_beside_longer_ones_is_named(tmp_path: pathlib.Path):
    person(tmp_path / "S02", seconds=60, TEMP=f"{START}\n4.0\n" + "31\n" * 4, ACC=f"{START}\n32\n")
    labels(tmp_path, "2")
    (warning,) = E4(str(tmp_path)).warnings()
    assert "S02: temperature lasts 1 s and acceleration lasts 0 s beside 60 s" in warning


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes in this process: workers take a second to start."""

    def decode_here(reader, sources, folder, count, *, should_stop, on_done):
        for source in sources:
            on_done(storage.store_source(reader, source, folder, should_stop))

    monkeypatch.setattr(workers, "decode_with_processes", decode_here)


def test_what_the_electrode_off_threshold_masks_is_in_the_card(tmp_path: pathlib.Path, here: None):
    person(tmp_path / "raw" / "S02", skin=0.02)
    person(tmp_path / "raw" / "S03", skin=0.06)
    labels(tmp_path / "raw", "2", "3")
    shares = {}
    for threshold in (0.01, 0.03, 0.1):
        reader = E4(str(tmp_path / "raw"), electrode_off_microsiemens=threshold)
        card = prepare.prepare(reader, tmp_path / f"{threshold}", workers=1, log=lambda text: None)
        shares[threshold] = card["streams"]["skin_conductance"]["missing_share"]["gsr"]
        text = (tmp_path / f"{threshold}" / "data_card.md").read_text()
        assert f"at most {threshold:g} microsiemens" in text and f"{shares[threshold]:.2%} of gsr" in text
        (warning,) = card["warnings"] or [""]
        assert warning in text and bool(warning) == (threshold > 0.01)
        assert card["streams"]["pulse"]["missing_share"] == {"bvp": 0.0}
    assert shares == {0.01: 0.0, 0.03: 0.5, 0.1: 1.0}
    assert "100.0% of the samples of gsr (skin_conductance) are missing" in warning
    assert "S02 100.0%" in warning


@pytest.mark.parametrize("name", reader_options.READERS)
def test_no_reader_takes_a_file_for_a_missing_folder(tmp_path: pathlib.Path, name: str):
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(BadDataError, match=r"x.csv is a file; expected"):
        reader_options.make_reader(name, tmp_path / "x.csv").scan()


def test_a_recording_shorter_than_a_window_is_counted(tmp_path: pathlib.Path, here: None):
    person(tmp_path / "raw" / "S02", seconds=90)
    person(tmp_path / "raw" / "S03", seconds=30)
    labels(tmp_path / "raw", "2", "3", seconds=30)
    prepare.prepare(E4(str(tmp_path / "raw")), tmp_path / "out", workers=1, log=lambda text: None)
    grid = Grid("sliding", tokens=2, window_seconds=60.0, step_seconds=30.0, mixed="majority")
    items = make_items(PreparedSet.open(tmp_path / "out"), find_task("stress"), grid)
    assert sum(items.counts.of([1])["dropped"]["shorter_than_window"].values()) == 1
    assert "shorter_than_window" not in items.counts.of([0])["dropped"]
