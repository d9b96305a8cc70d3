"""Files of single sources, and chunks that break the contract."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import fake_reader
import numpy as np
import pytest

from data_pipelines import storage
from data_pipelines.errors import BadDataError
from data_pipelines.recording import Chunk, Source

BODY = Source("body", "b", ("body/b.txt",))
_, BODY_SPEC = fake_reader.Fake("").streams()


def chunk(index=0, start=0.0, values=None, **changes) -> Chunk:
    values = np.zeros((500, 2), np.float32) if values is None else values
    return dataclasses.replace(Chunk("body", "b", index, np.array([start]), 50.0, (), values), **changes)


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([], "nothing could be decoded"),
        ([chunk(index=1)], "its key is"),
        ([chunk(source="c")], "its key is"),
        ([chunk(), chunk(1, 9.9)], "not after 10.0"),
        ([chunk(), chunk(1, 10.0, rate_hz=60.0)], "the first chunk's 50.0 Hz"),
        ([chunk(values=np.zeros((0, 2), np.float32))], "is empty"),
        ([chunk(values=np.zeros((501, 2), np.float32))], "more than 10.0 s"),
        ([chunk(values=np.zeros((5, 2)))], "float64"),
        ([chunk(values=np.zeros((5, 3), np.float32))], r"not float32 \(N, 2\)"),
        ([chunk(values=np.full((5, 2), np.inf, np.float32))], "infinite"),
        ([chunk(start=np.nan)], "not finite"),
        ([chunk(rate_hz=0.0)], "does not fit samples"),
    ],
)
def test_chunks_against_the_contract_are_damage(chunks, problem):
    with pytest.raises(BadDataError, match=rf"body/b\.txt.*{problem}"):
        list(storage.checked_chunks(BODY_SPEC, BODY, chunks))


def test_chunks_may_leave_gaps_and_touch():
    chunks = [chunk(), chunk(1, 10.0 - 1e-9), chunk(2, 40.0)]
    assert list(storage.checked_chunks(BODY_SPEC, BODY, chunks)) == chunks


def test_source_files_have_safe_and_distinct_names():
    ids = ["a/b", "a_b", "A_b", "../a", ".a", "x" * 300, "x" * 301, "ä", "ö", ""]
    paths = [storage.source_path(Path("f"), "s", name) for name in ids]
    assert len({str(path).lower() for path in paths}) == len(ids)
    assert all(path.parent == Path("f/s") and len(path.name) < 120 for path in paths)


def test_a_cut_source_file_is_not_taken_for_finished(raw, tmp_path):
    reader = fake_reader.Fake(str(raw))
    _, sources, _ = reader.scan()
    storage.store_source(reader, sources[0], tmp_path)
    path = storage.source_path(tmp_path, sources[0].stream, sources[0].id)
    assert len(storage.find_finished(reader, sources, tmp_path)) == 1
    path.write_bytes(path.read_bytes()[:-20])
    assert storage.find_finished(reader, sources, tmp_path) == {}
