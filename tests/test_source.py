"""What is read from a prepared set is what the reader decoded, whoever reads it and how often."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import fake_reader
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from data_pipelines import prepare, storage, workers
from data_pipelines.errors import BadDataError
from data_pipelines.recording import Annotation, Chunk, Recording, Source, StreamSpec
from data_pipelines.source import CARD_FORMAT, PreparedSet, is_prepared

PEOPLE = ("r1 anna 0 v1 b1", "r2 anna 1,2,? v1 b2", "r3 bert 1 - b3", "r4 carl gone - -", "r5 carl 1 v5 b1")
FILES = {
    "camera_v1": "100 1",
    "camera_v5": "10 5",
    "body_b1": "1200 2",
    "body_b2": "500 3",
    "body_b3": "3 4",
}


def decode_here(reader, sources, folder, count, *, should_stop, on_done):
    """Stands in for the worker processes, whose start takes a second."""
    for source in sources:
        on_done(storage.store_source(reader, source, folder, should_stop))


def prepare_here(reader, out: Path) -> PreparedSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "decode_with_processes", decode_here)
        prepare.prepare(reader, out, workers=1, log=lambda sentence: None)
    return PreparedSet.open(out)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> fake_reader.Fake:
    raw = fake_reader.write_raw(tmp_path_factory.mktemp("raw") / "raw", PEOPLE, **FILES)
    return fake_reader.Fake(str(raw))


@pytest.fixture(scope="module")
def prepared(reader, tmp_path_factory) -> PreparedSet:
    return prepare_here(reader, tmp_path_factory.mktemp("prepared") / "out")


def assert_same_chunk(found: Chunk, expected: Chunk) -> None:
    assert (found.stream, found.source, found.index) == (expected.stream, expected.source, expected.index)
    assert found.rate_hz == expected.rate_hz
    assert found.frames == expected.frames
    assert found.times_seconds.dtype == np.float64
    np.testing.assert_array_equal(found.times_seconds, expected.times_seconds)
    if expected.values is None:
        assert found.values is None
    else:
        assert found.values.dtype == expected.values.dtype
        np.testing.assert_array_equal(found.values, expected.values)


def test_chunks_are_those_decoded(reader, prepared):
    _, sources, _ = reader.scan()
    for source in sources:
        expected = list(reader.decode(source))
        rows = prepared.table(source.stream).rows_of(source.id)
        found = prepared.read(source.stream, rows)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_chunk(one, other)


def test_recordings_and_streams_are_the_readers(reader, prepared):
    expected, _, _ = reader.scan()
    assert [r.id for r in prepared.recordings] == ["r1", "r2", "r3", "r5"]
    assert tuple(prepared.streams.values()) == reader.streams()
    for found, other in zip(prepared.recordings, expected, strict=True):
        assert dataclasses.replace(found, annotation=None) == dataclasses.replace(other, annotation=None)
        assert found.annotation.names == other.annotation.names
        np.testing.assert_array_equal(found.annotation.values, other.annotation.values)
        np.testing.assert_array_equal(found.annotation.mask, other.annotation.mask)
        assert (found.annotation.times_seconds is None) == (other.annotation.times_seconds is None)
        if other.annotation.times_seconds is not None:
            np.testing.assert_array_equal(found.annotation.times_seconds, other.annotation.times_seconds)


def test_table_tells_what_the_chunks_hold(prepared):
    for stream in prepared.streams:
        table = prepared.table(stream)
        chunks = prepared.read(stream, range(len(table)))
        np.testing.assert_array_equal(table.length, [len(chunk) for chunk in chunks])
        np.testing.assert_array_equal(table.index, [chunk.index for chunk in chunks])
        np.testing.assert_array_equal(table.start_seconds, [chunk.times_seconds[0] for chunk in chunks])
        np.testing.assert_array_equal(table.rate_hz, [chunk.rate_hz for chunk in chunks])
        assert [table.source_ids[number] for number in table.source] == [chunk.source for chunk in chunks]
        for row, chunk in enumerate(chunks):
            times = table.times_seconds[table.offsets[row] : table.offsets[row + 1]]
            np.testing.assert_array_equal(times, chunk.times_seconds if stream == "camera" else [])
            if stream == "body":
                values = chunk.values.astype(np.float64)
                np.testing.assert_array_equal(table.moment_count[row], np.isfinite(values).sum(0))
                np.testing.assert_allclose(table.moment_sum[row], np.nansum(values, 0))
                np.testing.assert_allclose(table.moment_square_sum[row], np.nansum(values**2, 0))
    assert prepared.table("camera").moment_count.shape == (4, 0)


def test_shared_source_is_stored_once(prepared):
    assert prepared.table("body").source_ids == ("b1", "b2", "b3")
    assert prepared.table("camera").source_ids == ("v1", "v5")


def test_any_order_repeats_and_nothing(prepared):
    chunks = prepared.read("body", np.array([4, 0, 4, 2]))
    assert [(chunk.source, chunk.index) for chunk in chunks] == [("b3", 0), ("b1", 0), ("b3", 0), ("b1", 2)]
    assert prepared.read("body", np.array([], int)) == []
    with pytest.raises(IndexError, match="rows 0 to 4"):
        prepared.read("body", [5])
    with pytest.raises(KeyError):
        prepared.table("body").rows_of("nobody")
    with pytest.raises(ValueError, match="read-only"):
        chunks[0].values[0] = 0


def test_threads_share_it_and_copies_open_their_own(prepared):
    expected = {stream: prepared.read(stream, range(4)) for stream in prepared.streams}
    for shared in (PreparedSet.open(prepared.path, max_cache_bytes=0), pickle.loads(pickle.dumps(prepared))):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for stream, chunks in expected.items():
                orders = [np.random.default_rng(i).permutation(4) for i in range(24)]
                results = pool.map(shared.read, [stream] * len(orders), orders)
                for order, found in zip(orders, results, strict=True):
                    for row, chunk in zip(order, found, strict=True):
                        assert_same_chunk(chunk, chunks[row])


def test_cache_keeps_what_was_read_last_within_its_bytes(prepared, monkeypatch):
    size = prepared.read("body", [0])[0].values.nbytes
    few = PreparedSet.open(prepared.path, max_cache_bytes=int(size * 2.6))
    asked = []
    source = few._data_source("body")

    class AskedSource:
        def __getitem__(self, row):
            asked.append(row)
            return source[row]

    monkeypatch.setattr(few, "_data_source", lambda stream: AskedSource())

    few.read("body", [0, 1])
    few.read("body", [0])
    assert asked == [0, 1]
    few.read("body", [3])
    few.read("body", [0, 3])
    assert asked == [0, 1, 3]
    few.read("body", [1])
    assert asked == [0, 1, 3, 1]


def copy(prepared: PreparedSet, folder: Path) -> Path:
    return Path(shutil.copytree(prepared.path, folder / "copy"))


def test_a_moved_folder_reads_the_same(prepared, tmp_path):
    moved = PreparedSet.open(copy(prepared, tmp_path))
    assert_same_chunk(moved.read("camera", [1])[0], prepared.read("camera", [1])[0])


def test_what_is_no_prepared_folder_is_said(prepared, tmp_path):
    assert not is_prepared(tmp_path)
    with pytest.raises(BadDataError, match="there is no folder"):
        PreparedSet.open(tmp_path / "nowhere")
    with pytest.raises(BadDataError, match="not a prepared data set"):
        PreparedSet.open(tmp_path)
    (tmp_path / "UNFINISHED").touch()
    with pytest.raises(BadDataError, match="was not finished"):
        PreparedSet.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["index.npz", "recordings.jsonl", "annotations.npz", "chunks/body/1.0.0/features.json"]
)
def test_missing_or_short_file_is_said(prepared, tmp_path, name):
    folder = copy(prepared, tmp_path)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-10])
    with pytest.raises(BadDataError, match="damaged.*bytes"):
        PreparedSet.open(folder)
    (folder / name).unlink()
    with pytest.raises(BadDataError, match="damaged.*missing"):
        PreparedSet.open(folder)


def test_damaged_card_is_said(prepared, tmp_path):
    folder = copy(prepared, tmp_path)
    card = folder / "data_card.json"
    text = card.read_text()
    card.write_text(text[:100])
    with pytest.raises(BadDataError, match=r"data_card\.json cannot be read"):
        PreparedSet.open(folder)
    card.write_text(text.replace(f'"format": {CARD_FORMAT}', '"format": 99'))
    with pytest.raises(BadDataError, match="format 99"):
        PreparedSet.open(folder)
    fields = json.loads(text)
    del fields["streams"]["body"]["units"]
    card.write_text(json.dumps(fields))
    with pytest.raises(BadDataError, match="description cannot be read"):
        PreparedSet.open(folder)


def _other_label(folder: Path) -> None:
    """The same size, and a check sum that is right: only the labels are others."""
    path = folder / "annotations.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["values"] = np.where(arrays["mask"], 1 - arrays["values"], arrays["values"])
    with path.open("wb") as file:
        storage.write_arrays(file, arrays)


def _flip(name: str):
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (folder / name).write_bytes(content)

    return flip


_NOT_PREPARED_SO = {
    "annotations.npz": _other_label,
    **{name: _flip(name) for name in ("index.npz", "recordings.jsonl", "inputs.jsonl")},
    "annotations.npz ": _flip("annotations.npz"),
}


@pytest.mark.parametrize("name", _NOT_PREPARED_SO)
def test_what_was_not_prepared_so_is_refused(reader, prepared, tmp_path, name):
    folder = copy(prepared, tmp_path)
    size = (folder / name.strip()).stat().st_size
    _NOT_PREPARED_SO[name](folder)
    assert (folder / name.strip()).stat().st_size == size
    with pytest.raises(BadDataError, match=rf"{name.strip()} differs from what was written.*prepare again"):
        PreparedSet.open(folder)
    with pytest.raises(BadDataError, match=rf"{name.strip()} differs from what was written.*prepare again"):
        prepare_here(reader, folder)


def test_times_of_change_that_cannot_be_read_are_measured_again(reader, prepared, tmp_path):
    folder = copy(prepared, tmp_path)
    whole = (folder / "inputs_modified_ns.npy").read_bytes()
    (folder / "inputs_modified_ns.npy").write_bytes(b"\0" * len(whole))
    prepare_here(reader, folder)
    assert (folder / "inputs_modified_ns.npy").read_bytes() == whole


def test_flipped_bytes_are_noticed(prepared, tmp_path):
    folder = copy(prepared, tmp_path)
    (shard,) = (folder / "chunks" / "body" / "1.0.0").glob("*array_record*")
    content = bytearray(shard.read_bytes())
    for place in range(200, 3000, 100):
        content[place] ^= 0xFF
    shard.write_bytes(bytes(content))
    with pytest.raises(BadDataError, match="cannot be read"):
        PreparedSet.open(folder).read("body", range(5))


def test_index_of_other_chunks_is_noticed(prepared):
    other = prepared.table("body")
    swapped = dataclasses.replace(other, index=other.index[::-1].copy())
    confused = pickle.loads(pickle.dumps(prepared))
    confused._tables["body"] = swapped
    with pytest.raises(BadDataError, match="not the one"):
        confused.read("body", [1])


@dataclasses.dataclass(frozen=True)
class Given:
    """A reader of chunks that are given to it."""

    spec: StreamSpec
    chunks: tuple[tuple[Chunk, ...], ...]
    name = "given"
    version = "1"
    root = "/nonexistent"

    def settings(self):
        return {}

    def notes(self):
        return {}

    def is_sample(self):
        return True

    def streams(self):
        return (self.spec,)

    def scan(self):
        sources = [Source(self.spec.name, str(number), ()) for number in range(len(self.chunks))]
        label = Annotation(("x",), None, np.zeros((1, 1), np.float32), np.ones((1, 1), bool))
        return [Recording(s.id, s.id, {s.stream: s.id}, label) for s in sources], sources, []

    def decode(self, source):
        return iter(self.chunks[int(source.id)])


@st.composite
def given_readers(draw) -> Given:
    kind = draw(st.sampled_from(["frames", "samples", "features"]))
    dtype = draw(st.sampled_from(["float32", "int16"])) if kind == "samples" else "float32"
    width = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spec = StreamSpec("thing", kind, ("c",) * width, ("u",) * width, dtype=dtype)
    rate = draw(st.floats(0.5, 2000)) if kind == "samples" else 0.0
    sources = []
    for number in range(draw(st.integers(1, 3))):
        chunks, time = [], draw(st.floats(-5, 5))
        for index in range(draw(st.integers(1, 4))):
            count = draw(st.integers(1, 5))
            times = time + np.cumsum(rng.uniform(0.001, 2, 1 if rate else count))
            time = times[-1] + (count / rate if rate else 0)
            frames = tuple(rng.bytes(rng.integers(1, 9)) for _ in range(count)) if kind == "frames" else ()
            values = None if frames else (1e3 * rng.normal(size=(count, width))).astype(dtype)
            if dtype == "float32" and values is not None:
                values[rng.random(values.shape) < 0.3] = np.nan
            chunks.append(Chunk("thing", str(number), index, times, rate, frames, values))
        sources.append(tuple(chunks))
    return Given(spec, tuple(sources))


@hypothesis.settings(max_examples=12)
@hypothesis.given(given_readers())
def test_any_chunks_come_back_as_they_were(tmp_path_factory, given):
    found = prepare_here(given, tmp_path_factory.mktemp("any") / "out")
    assert found.card["warning"]
    table = found.table("thing")
    for number, chunks in enumerate(given.chunks):
        for chunk, expected in zip(found.read("thing", table.rows_of(str(number))), chunks, strict=True):
            assert_same_chunk(chunk, expected)
