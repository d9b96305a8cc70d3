from __future__ import annotations

import dataclasses
import json
import pathlib
import pickle
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
from e4_case import START, write_labels, write_person
from hypothesis import given, settings

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.readers.e4 import E4
from data_pipelines.recording import MAX_CHUNK_SECONDS
from data_pipelines.sample.e4 import E4SampleSpec, write_e4

SPEC = E4SampleSpec(subjects=3, seconds=95.0, blocks=2, lifts_per_hour=200.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("e4")
    write_e4(root, SPEC)
    return root


@pytest.fixture
def release(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy to spoil."""
    return shutil.copytree(written, tmp_path / "release")


def read(reader: E4, person: str, stream: str):
    (source,) = [s for s in reader.scan()[1] if s.id == person and s.stream == stream]
    return list(reader.decode(source))


def values_of(reader: E4, person: str, stream: str) -> np.ndarray:
    return np.concatenate([chunk.values for chunk in read(reader, person, stream)])


@pytest.fixture
def plain(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two persons directly under the root."""
    root = tmp_path / "plain"
    write_person(root / "anna")
    write_person(root / "P7", newline="\r\n")
    write_labels(
        root / "labels.csv",
        f"anna,{START + 1},0",
        f"anna,{START + 2},1",
        f"7,{START + 3},1",
        f"7,{START + 4},",
    )
    return root


def test_what_is_written_is_what_is_read(written: pathlib.Path):
    reader = E4(str(written))
    recordings, sources, left_out = reader.scan()
    assert [recording.id for recording in recordings] == ["S02", "S03", "S04"] and not left_out
    assert len(sources) == 12 and len({(source.stream, source.id) for source in sources}) == 12
    assert [spec.name for spec in reader.streams()] == [
        "pulse",
        "skin_conductance",
        "temperature",
        "acceleration",
    ]
    for recording in recordings:
        annotation = recording.annotation
        assert annotation.names == ("stress",)
        np.testing.assert_array_equal(annotation.times_seconds, np.arange(9.0, 95.0))
        assert annotation.values.dtype == np.float32 and annotation.values.shape == (86, 1)
        assert set(np.unique(annotation.values)) == {0.0, 1.0} and annotation.mask.all()
        assert set(recording.sources) == {spec.name for spec in reader.streams()}
        assert recording.subject == recording.id and recording.attributes["labelled_seconds"] == 86


def test_chunks_keep_the_contract(written: pathlib.Path):
    reader = E4(str(written))
    specs = {spec.name: spec for spec in reader.streams()}
    for source in reader.scan()[1]:
        spec, chunks = specs[source.stream], list(reader.decode(source))
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        begin = 0.0
        for chunk in chunks:
            assert (chunk.stream, chunk.source, chunk.rate_hz) == (source.stream, source.id, spec.rate_hz)
            assert chunk.values.dtype == np.float32 and chunk.values.shape[1] == len(spec.channels)
            assert 0 < len(chunk) <= MAX_CHUNK_SECONDS * spec.rate_hz
            np.testing.assert_allclose(chunk.times_seconds, [begin])
            begin += len(chunk) / spec.rate_hz
        assert 93.0 < begin < 99.0
        assert all(len(chunk) == 10 * spec.rate_hz for chunk in chunks[:-1])


def test_the_sample_is_the_same_everywhere_and_differs_by_seed(written: pathlib.Path, tmp_path: pathlib.Path):
    write_e4(tmp_path / "again", SPEC)
    calls: list[tuple[int, int]] = []
    write_e4(tmp_path / "other", dataclasses.replace(SPEC, seed=1), progress=lambda *call: calls.append(call))
    files = sorted(path.relative_to(written) for path in written.rglob("*.csv"))
    assert len(files) == 13 and calls == [(1, 3), (2, 3), (3, 3)]
    assert all((written / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
    assert all((written / f).read_bytes() != (tmp_path / "other" / f).read_bytes() for f in files)


def test_time_tells_the_label_only_where_asked(tmp_path: pathlib.Path):
    def labels(mixed: bool) -> np.ndarray:
        folder = tmp_path / str(mixed)
        write_e4(folder, E4SampleSpec(subjects=8, seconds=160.0, blocks=8, mixed_order=mixed))
        recordings = E4(str(folder)).scan()[0]
        return np.stack([recording.annotation.values[:, 0] for recording in recordings])

    fixed, mixed = labels(False), labels(True)
    assert np.abs(fixed.mean(0) - 0.5).mean() > 0.4
    assert np.abs(mixed.mean(0) - 0.5).mean() < 0.25
    assert 0.35 < mixed.mean() < 0.65


def test_impossible_samples_are_refused():
    with pytest.raises(UsageError, match="at least 1 subject"):
        E4SampleSpec(subjects=0)


def test_open_circuits_are_missing_and_counted(written: pathlib.Path):
    reader, keep = E4(str(written)), E4(str(written), electrode_off_microsiemens=-1.0)
    missing = total = 0
    for person in ("S02", "S03", "S04"):
        ours, raw = (values_of(r, person, "skin_conductance") for r in (reader, keep))
        np.testing.assert_array_equal(np.isnan(ours), raw <= 0.03)
        np.testing.assert_array_equal(ours[~np.isnan(ours)], raw[raw > 0.03])
        assert np.isnan(ours[0]) and raw[0] == 0.0
        missing, total = missing + np.isnan(ours).sum(), total + len(ours)
    assert missing > 3
    assert f"{missing} of {total} samples, most of them in S0" in reader.notes()["electrode_off"]
    assert "electrode_off" not in E4(str(written), streams_used=("pulse",)).notes()


def test_reader_is_picklable_and_its_settings_are_json(written: pathlib.Path):
    reader = E4(str(written), streams_used=["pulse", "skin_conductance"])
    assert pickle.loads(pickle.dumps(reader)) == reader
    settings_ = json.loads(json.dumps(reader.settings()))
    assert settings_["streams_used"] == ["pulse", "skin_conductance"] and "root" not in settings_
    assert [spec.name for spec in reader.streams()] == ["pulse", "skin_conductance"]
    assert {source.stream for source in reader.scan()[1]} == {"pulse", "skin_conductance"}
    with pytest.raises(UsageError, match="no stream 'ecg'"):
        E4(str(written), streams_used=("ecg",))


def test_sample_json_marks_a_sample(release: pathlib.Path):
    assert not E4(str(release)).is_sample()
    (release / "SAMPLE.json").write_text("{}")
    assert E4(str(release)).is_sample()


def test_plain_layout_windows_lines_and_blank_labels(plain: pathlib.Path):
    reader = E4(str(plain))
    recordings, _, left_out = reader.scan()
    assert [recording.id for recording in recordings] == ["P7", "anna"] and not left_out
    seven, anna = recordings
    np.testing.assert_array_equal(anna.annotation.times_seconds, [1.0, 2.0])
    np.testing.assert_array_equal(seven.annotation.times_seconds, [3.0, 4.0])
    np.testing.assert_array_equal(seven.annotation.mask, [[True], [False]])
    for person in ("P7", "anna"):
        assert (values_of(reader, person, "pulse") == 1.5).all()
        np.testing.assert_array_equal(
            values_of(reader, person, "acceleration"), np.tile([1, -2, 63], (320, 1))
        )


def test_each_stream_keeps_its_own_offset_and_length(plain: pathlib.Path):
    folder = plain / "anna"
    (folder / "EDA.csv").write_text(f"{START + 2.5}\n4.0\n" + "1.0\n" * 81)
    (folder / "TEMP.csv").write_text(f"{START - 4}\n4.0\n" + "30\n" * 3)
    reader = E4(str(plain))
    anna = reader.scan()[0][1]
    np.testing.assert_array_equal(anna.annotation.times_seconds, [5.0, 6.0])
    assert anna.attributes["start_unix_seconds"] == START - 4
    skin = read(reader, "anna", "skin_conductance")
    assert [chunk.times_seconds[0] for chunk in skin] == [6.5, 16.5, 26.5] and len(skin[2]) == 1
    assert [chunk.times_seconds[0] for chunk in read(reader, "anna", "temperature")] == [0.0]
    assert [chunk.times_seconds[0] for chunk in read(reader, "anna", "pulse")] == [4.0]
    # Time zero does not depend on which streams are asked for.
    assert read(E4(str(plain), streams_used=("pulse",)), "anna", "pulse")[0].times_seconds[0] == 4.0


def test_a_missing_stream_file_is_a_recording_without_that_stream(release: pathlib.Path):
    (release / "Raw_data" / "S03" / "EDA.csv").unlink()
    recordings, sources, left_out = E4(str(release)).scan()
    assert set(recordings[1].sources) == {"pulse", "temperature", "acceleration"} and not left_out
    assert len(sources) == 11


def test_who_is_left_out(release: pathlib.Path):
    table = release / "Processed_data" / "synthetic_labels.csv"
    lines = [line for line in table.read_text().splitlines() if not line.startswith("3,")]
    table.write_text("\n".join([*lines, f"31,,,{START},0", f"31,,,{START + 1},0"]))
    recordings, sources, left_out = E4(str(release)).scan()
    assert [recording.id for recording in recordings] == ["S02", "S04"] and len(sources) == 8
    assert {(item.id, item.damaged) for item in left_out} == {("S03", False), ("participant 31", False)}


@pytest.mark.parametrize(
    ("shift", "words"), [(-86_400, "labels end"), (86_400 * 3, "labels begin")], ids=["before", "after"]
)
def test_labels_on_another_clock_are_damage(plain: pathlib.Path, shift: int, words: str):
    write_labels(plain / "labels.csv", f"anna,{START + 1},0", f"P7,{START + shift},1")
    (item,) = E4(str(plain)).scan()[2]
    assert item.id == "P7" and item.damaged and words in item.reason and "one clock" in item.reason


def test_streams_of_two_sessions_are_damage(plain: pathlib.Path):
    (plain / "anna" / "EDA.csv").write_text(f"{START + 90_000}\n4.0\n" + "1.0\n" * 81)
    (item,) = E4(str(plain)).scan()[2]
    assert item.id == "anna" and item.damaged and "90000 s apart" in item.reason


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("EDA", "", "is empty; expected a start time"),
        ("EDA", f"{START}\n", "ends after one line"),
        ("EDA", f"{START}\n4.0\n", "has a header but no samples"),
        ("EDA", f"{START}\n4.0\n\n\n", "has a header but no samples"),
        ("EDA", f"{START}\n4.0\n0.5\nhello\n0.5\n", "line 4: a sample is 'hello', expected a number"),
        ("EDA", f"{START}\n4.0\n0.5\nnan\n", "line 4: a sample is 'nan'"),
        ("EDA", f"{START}\n4.0\n" + "0.5\n" * 50 + "inf\n", "line 53: a sample is 'inf'"),
        ("EDA", f"{START}\n4.0\n0.5\n\n0.5\n", "line 4 is blank in the midst"),
        ("EDA", f"{START}\n4.0\n0.5,0.6\n", "line 3 has 2 values, expected 1"),
        ("EDA", "0.5\n0.5\n0.5\n", "has no header"),
        ("EDA", f"{START}\n8.0\n0.5\n", "runs at 8 Hz, but the device writes 4 Hz"),
        ("EDA", "start\n4.0\n0.5\n", "line 1: the start time is 'start'"),
        ("ACC", f"{START},{START},{START}\n32,32,32\n1,2,3\n1,2\n", "line 4 has 2 values, expected 3"),
        ("ACC", f"{START},{START},{START + 1}\n32,32,32\n1,2,3\n", "the start time differs between the axes"),
    ],
)
def test_a_bad_file_gives_a_sentence(plain: pathlib.Path, file: str, text: str, words: str):
    path = plain / "anna" / f"{file}.csv"
    path.write_text(text)
    reader = E4(str(plain))
    recordings, _, left_out = reader.scan()  # The scan decodes nothing: the preparation lists the damage.
    assert len(recordings) == 2 and not left_out
    stream = "skin_conductance" if file == "EDA" else "acceleration"
    with pytest.raises(BadDataError) as caught:
        read(reader, "anna", stream)
    assert words in str(caught.value) and str(path) in str(caught.value)
    # The person's other streams, and the note in the data card, are none the worse.
    assert read(reader, "anna", "pulse")[0].times_seconds[0] == 0.0
    assert reader.notes()["electrode_off"]


def test_bytes_that_are_no_text(plain: pathlib.Path):
    (plain / "anna" / "BVP.csv").write_bytes(b"\xff\xd8\xff\xe0" * 100)
    with pytest.raises(BadDataError, match="not a text file"):
        read(E4(str(plain)), "anna", "pulse")


def test_trailing_blank_lines_are_no_samples(plain: pathlib.Path):
    (plain / "anna" / "EDA.csv").write_text(f"{START}\n4.0\n" + "0.5\n" * 40 + "\n" * 100)
    assert len(values_of(E4(str(plain)), "anna", "skin_conductance")) == 40


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([f"anna,{START},0", f"anna,{START},1"], "labels second 1600000000 of participant anna twice"),
        ([f"anna,{START},x"], "line 2: Label is 'x', expected a number"),
        (["anna,,1"], "line 2: Time(sec) is ''"),
        ([f"anna,{START}"], "line 2 has 2 columns, expected 3"),
    ],
)
def test_a_bad_label_table_gives_a_sentence(plain: pathlib.Path, lines: list[str], words: str):
    write_labels(plain / "labels.csv", *lines)
    with pytest.raises(BadDataError) as caught:
        E4(str(plain)).scan()
    assert words in str(caught.value)


def test_the_label_table_is_found_named_or_asked_for(plain: pathlib.Path):
    reader = E4(str(plain))
    write_labels(plain / "Processed_data" / "more.csv", f"anna,{START},1")
    with pytest.raises(BadDataError, match=r"2 tables \(labels.csv, more.csv\).*option `labels`"):
        reader.scan()
    named = dataclasses.replace(reader, labels="Processed_data/more.csv")
    assert [recording.id for recording in named.scan()[0]] == ["anna"]
    with pytest.raises(BadDataError, match="there is no label table"):
        dataclasses.replace(reader, labels="absent.csv").scan()
    write_labels(plain / "own.csv", f"anna,{START},1", header="who,when,pain")
    with pytest.raises(BadDataError, match="lacks one of the columns Participant"):
        dataclasses.replace(reader, labels="own.csv").scan()
    columns = {"participant_column": "who", "time_column": "when", "label_column": "pain"}
    (recording,) = E4(str(plain), label_name="pain", **columns).scan()[0]
    assert recording.annotation.names == ("pain",)


def test_folders_that_are_no_exports(tmp_path: pathlib.Path, plain: pathlib.Path):
    with pytest.raises(BadDataError, match="there is no folder"):
        E4(str(tmp_path / "absent")).scan()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataError, match="holds no wristband export"):
        E4(str(tmp_path / "empty")).scan()
    (plain / "labels.csv").unlink()
    with pytest.raises(BadDataError, match="hold no tables with the columns"):
        E4(str(plain)).scan()
    write_labels(plain / "labels.csv", f"nobody,{START},1")
    with pytest.raises(BadDataError, match="nothing in .* can be used"):
        E4(str(plain)).scan()


def test_a_number_that_may_be_two_persons_is_refused(plain: pathlib.Path):
    write_person(plain / "Q07")
    with pytest.raises(BadDataError, match="participant 7 may be P7 or Q07"):
        E4(str(plain)).scan()


@settings(max_examples=20)
@given(
    samples=st.lists(st.floats(-3e4, 3e4, width=32), min_size=1, max_size=130),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_every_number_comes_back(
    tmp_path_factory: pytest.TempPathFactory, samples: list[float], newline: str
):
    root = tmp_path_factory.mktemp("numbers")
    text = f"{START}\n4.0\n" + "".join(f"{sample!r}\n" for sample in samples)
    write_person(root / "P1", TEMP=text, newline=newline)
    write_labels(root / "labels.csv", f"P1,{START},1")
    read_back = values_of(E4(str(root)), "P1", "temperature")
    np.testing.assert_array_equal(read_back[:, 0], np.asarray(samples, np.float32))


@pytest.fixture
def stress_predict(shared: pathlib.Path) -> pathlib.Path:
    folder = shared / "data" / "stress_predict"
    if not folder.is_dir():
        pytest.skip(f"no Stress-Predict recordings at {folder}")
    return folder


def test_stress_predict_as_published(stress_predict: pathlib.Path):
    reader = E4(str(stress_predict))
    recordings, sources, left_out = reader.scan()
    assert len(recordings) == 28 and len(sources) == 112 and not left_out
    for recording in recordings:
        # The published labels start 9 s after every recording and lie on its clock.
        assert recording.annotation.times_seconds[0] == 9.0
        np.testing.assert_array_equal(np.diff(recording.annotation.times_seconds), 1.0)
        assert 0.25 < recording.annotation.values.mean() < 0.4
        assert not reader.is_sample()
    skin = values_of(reader, "S17", "skin_conductance")
    assert 300 < np.isnan(skin).sum() < 0.04 * len(skin)
    ends = {}
    for source in sources:
        if source.id == "S02":
            *_, last = reader.decode(source)
            ends[source.stream] = last.times_seconds[0] + len(last) / last.rate_hz
    assert max(ends.values()) - min(ends.values()) > 1.0
    assert abs(np.median(list(ends.values())) - recordings[0].annotation.times_seconds[-1]) < 5.0


def test_stress_predict_labels_change_where_the_button_was_pressed(stress_predict: pathlib.Path):
    agree = total = 0
    for recording in E4(str(stress_predict)).scan()[0]:
        tags = stress_predict / "Raw_data" / recording.id / f"tags_{recording.id}.csv"
        if not tags.is_file():
            continue
        presses = np.asarray([float(line) for line in tags.read_text().split()])
        presses -= recording.attributes["start_unix_seconds"]
        annotation = recording.annotation
        changes = annotation.times_seconds[1:][np.diff(annotation.values[:, 0]) != 0]
        agree += (np.abs(changes[:, None] - presses).min(1) <= 0.5).sum()
        total += len(changes)
    assert total == 28 * 6 and agree / total > 0.9
