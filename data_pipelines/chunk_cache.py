"""Keeps the chunks that were read last in memory."""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping, Sequence

from data_pipelines.recording import Chunk

# What the objects around a small chunk take, so that a million tiny ones do not count as nothing.
_CHUNK_OVERHEAD_BYTES = 1024


class ChunkCache:
    """The chunks that were read last, up to a number of bytes; threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._lock = threading.Lock()
        self._chunks: collections.OrderedDict[tuple[str, int], Chunk] = collections.OrderedDict()

    def find(self, stream: str, rows: Sequence[int]) -> dict[int, Chunk]:
        """Those of these rows that are kept."""
        found = {}
        with self._lock:
            for row in rows:
                chunk = self._chunks.get((stream, row))
                if chunk is not None:
                    self._chunks.move_to_end((stream, row))
                    found[row] = chunk
        return found

    def add(self, stream: str, chunks: Mapping[int, Chunk]) -> None:
        """Keeps chunks, by row, and lets go of those read longest ago."""
        with self._lock:
            for row, chunk in chunks.items():
                if (stream, row) not in self._chunks:
                    self._chunks[stream, row] = chunk
                    self._bytes += _size(chunk)
            while self._bytes > self._max_bytes:
                _, chunk = self._chunks.popitem(last=False)
                self._bytes -= _size(chunk)


def _size(chunk: Chunk) -> int:
    values = 0 if chunk.values is None else chunk.values.nbytes
    frames = sum(map(len, chunk.frames))
    return _CHUNK_OVERHEAD_BYTES + frames + values + chunk.times_seconds.nbytes
