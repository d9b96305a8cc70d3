"""Reads a prepared data set: which recordings and chunks it has, and the chunks themselves by row."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import seal
from data_pipelines.chunk_cache import ChunkCache
from data_pipelines.errors import BadDataError
from data_pipelines.raw_files import no_folder
from data_pipelines.recording import Annotation, Chunk, Recording, StreamSpec
from data_pipelines.storage import chunk_from_arrays, write_arrays, write_atomically

CARD_FILE = "data_card.json"
INDEX_FILE = "index.npz"
RECORDINGS_FILE = "recordings.jsonl"
ANNOTATIONS_FILE = "annotations.npz"
INPUTS_FILE = "inputs.jsonl"
CHUNKS_FOLDER = "chunks"
SOURCES_FOLDER = "sources"
UNFINISHED_FILE = "UNFINISHED"
CARD_FORMAT = 2
# What says which recordings, labels and chunks there are; the chunks have check sums of their own.
SEALED_FILES = (INDEX_FILE, RECORDINGS_FILE, ANNOTATIONS_FILE, INPUTS_FILE)
DEFAULT_CACHE_BYTES = 512 * 2**20
# For data that are read block after block: a block's chunks are needed while it is mixed, and then no more.
BLOCK_CACHE_BYTES = 24 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkTable:
    """What is known of one stream's chunks without reading them; one entry a stored row.

    Attributes:
      source_ids: Names of the sources.
      source: int32 [R], index into `source_ids`.
      index: int32 [R], number of the chunk within its source.
      length: int32 [R], frames, vectors or samples.
      start_seconds: float64 [R], time of the first one.
      rate_hz: float64 [R]; 0 for frames and features.
      times_seconds: float64 [sum of lengths] for frames and features, flat in row order; [0] for samples.
      offsets: int64 [R+1], where each row's times begin in `times_seconds`.
      moment_count, moment_sum, moment_square_sum: float64 [R, C] for samples: how many are not NaN, their
        sum and the sum of their squares; [R, 0] for other kinds.
    """

    source_ids: tuple[str, ...]
    source: np.ndarray
    index: np.ndarray
    length: np.ndarray
    start_seconds: np.ndarray
    rate_hz: np.ndarray
    times_seconds: np.ndarray
    offsets: np.ndarray
    moment_count: np.ndarray
    moment_sum: np.ndarray
    moment_square_sum: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def rows_of(self, source_id: str) -> np.ndarray:
        """The rows of a source, int64, in time order.

        Raises:
          KeyError: There is no such source.
        """
        return self._rows[source_id]

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        order = np.lexsort((self.index, self.source))
        ends = np.cumsum(np.bincount(self.source, minlength=len(self.source_ids)))
        return dict(zip(self.source_ids, np.split(order, ends[:-1]), strict=True))


def make_table(source_ids: Sequence[str], tables: Sequence[Mapping[str, np.ndarray]]) -> ChunkTable:
    """Joins the tables of a stream's sources (`storage.SourceFile.table`), in this order."""
    counts = [len(table["length"]) for table in tables]
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    has_times = len(joined["times_seconds"]) > 0
    return ChunkTable(
        source_ids=tuple(source_ids),
        source=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        index=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        offsets=np.concatenate([[0], np.cumsum(joined["length"] * has_times)]).astype(np.int64),
        **joined,
    )


def write_tables(folder: Path, tables: Mapping[str, ChunkTable]) -> None:
    """Writes ``index.npz``."""
    arrays = {
        f"{stream}/{field.name}": np.asarray(getattr(table, field.name))
        for stream, table in tables.items()
        for field in dataclasses.fields(table)
    }
    write_atomically(folder / INDEX_FILE, lambda file: write_arrays(file, arrays))


def _read_tables(folder: Path, streams: Sequence[str]) -> dict[str, ChunkTable]:
    tables = {}
    with np.load(folder / INDEX_FILE, allow_pickle=False) as arrays:
        for stream in streams:
            columns = {f.name: arrays[f"{stream}/{f.name}"] for f in dataclasses.fields(ChunkTable)}
            columns["source_ids"] = tuple(columns["source_ids"].tolist())
            tables[stream] = ChunkTable(**columns)
    return tables


def write_recordings(folder: Path, recordings: Sequence[Recording]) -> None:
    """Writes ``recordings.jsonl`` and ``annotations.npz``."""
    lines = (
        json.dumps(
            {
                "id": recording.id,
                "subject": recording.subject,
                "group": recording.group,
                "sources": dict(recording.sources),
                "attributes": dict(recording.attributes),
                "labels": list(recording.annotation.names),
            },
            ensure_ascii=False,
        )
        + "\n"
        for recording in recordings
    )
    write_atomically(folder / RECORDINGS_FILE, lambda file: file.writelines(x.encode() for x in lines))
    arrays = annotation_arrays(recordings)
    write_atomically(folder / ANNOTATIONS_FILE, lambda file: write_arrays(file, arrays))


def annotation_arrays(recordings: Sequence[Recording]) -> dict[str, np.ndarray]:
    """All annotations as flat arrays.

    Returns:
      ``rows`` int64 [R] (N of each), ``has_times`` bool [R], and one after the other ``times_seconds``
      float64, ``values`` float32 and ``mask`` bool.
    """
    annotations = [recording.annotation for recording in recordings]
    times = [a.times_seconds for a in annotations if a.times_seconds is not None]
    return {
        "rows": np.array([len(a.values) for a in annotations], np.int64),
        "has_times": np.array([a.times_seconds is not None for a in annotations], bool),
        "times_seconds": np.concatenate([np.zeros(0), *times]),
        "values": np.concatenate([np.zeros(0, np.float32), *(a.values.ravel() for a in annotations)]),
        "mask": np.concatenate([np.zeros(0, bool), *(a.mask.ravel() for a in annotations)]),
    }


def _read_recordings(folder: Path) -> list[Recording]:
    with np.load(folder / ANNOTATIONS_FILE, allow_pickle=False) as file:
        arrays = dict(file)
    recordings, time_at, value_at = [], 0, 0
    with (folder / RECORDINGS_FILE).open(encoding="utf-8") as lines:
        for line, rows, has_times in zip(lines, arrays["rows"], arrays["has_times"], strict=True):
            fields = json.loads(line)
            names = tuple(fields["labels"])
            time_end, value_end = time_at + rows * has_times, value_at + rows * len(names)
            annotation = Annotation(
                names,
                arrays["times_seconds"][time_at:time_end] if has_times else None,
                arrays["values"][value_at:value_end].reshape(rows, len(names)),
                arrays["mask"][value_at:value_end].reshape(rows, len(names)),
            )
            time_at, value_at = time_end, value_end
            recordings.append(
                Recording(
                    fields["id"],
                    fields["subject"],
                    fields["sources"],
                    annotation,
                    fields["attributes"],
                    fields["group"],
                )
            )
    return recordings


def is_prepared(path: Path) -> bool:
    """True if the folder holds a data set whose preparation was finished."""
    return (Path(path) / CARD_FILE).is_file()


def read_card(path: Path) -> dict[str, Any]:
    """The data card of a prepared folder.

    Raises:
      BadDataError: There is none, or it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadDataError(f"{no_folder(path)}; a folder made by data_pipelines.prepare was expected")
    if not is_prepared(path):
        if (path / UNFINISHED_FILE).is_file():
            raise BadDataError(
                f"the preparation of {path} was not finished; "
                "run the same data_pipelines.prepare command again to go on"
            )
        raise BadDataError(
            f"{path} is not a prepared data set (it has no {CARD_FILE}); "
            "make one with: python -m data_pipelines.prepare"
        )
    try:
        card = json.loads((path / CARD_FILE).read_text(encoding="utf-8"))
        found = card["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"its {CARD_FILE} cannot be read ({error})") from error
    if found != CARD_FORMAT:
        raise BadDataError(
            f"{path} was prepared in format {found}, this software reads format {CARD_FORMAT}; "
            "delete the folder and prepare again"
        )
    return card


def check_seal(path: Path, card: Mapping[str, Any]) -> None:
    """Checks that recordings, labels and index of a prepared folder are those that its card was written for.

    Raises:
      BadDataError: One differs, or is missing.
    """
    try:
        seal.check(path, SEALED_FILES, card["sha256"])
    except FileNotFoundError as error:
        raise _damaged(path, f"{Path(error.filename).name} is missing") from error
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"its {CARD_FILE} lacks a check sum ({error})") from error


def _damaged(path: Path, what: str) -> BadDataError:
    return BadDataError(
        f"the prepared data in {path} are damaged: {what}; delete the folder and prepare again"
    )


class PreparedSet:
    """A prepared data set, opened for reading. Threads may share it; a pickled copy opens its own files.

    Attributes:
      path: The folder.
      card: The data card.
      streams: Stream name to what it is.
      recordings: In the reader's order.
    """

    def __init__(
        self,
        path: Path,
        card: dict[str, Any],
        recordings: list[Recording],
        tables: Mapping[str, ChunkTable],
        max_cache_bytes: int,
    ) -> None:
        self.path, self.card, self.recordings = path, card, recordings
        self.streams = {name: _stream_spec(name, fields) for name, fields in card["streams"].items()}
        self._tables = dict(tables)
        self._max_cache_bytes = max_cache_bytes
        self._start_process()

    @classmethod
    def open(cls, path: Path, *, max_cache_bytes: int = DEFAULT_CACHE_BYTES) -> PreparedSet:
        """Opens a prepared folder.

        Args:
          path: The folder.
          max_cache_bytes: How much of the chunks read last (still encoded) each process keeps in memory.

        Raises:
          BadDataError: It is no prepared folder, not a finished one, or some of it is missing, cut short or
            not what was prepared.
        """
        path = Path(path)
        card = read_card(path)
        try:
            for name, size in card["files"].items():
                found = (path / name).stat().st_size
                if found != size:
                    raise _damaged(path, f"{name} has {found} bytes, not {size}")
            check_seal(path, card)
            tables = _read_tables(path, list(card["streams"]))
            return cls(path, card, _read_recordings(path), tables, max_cache_bytes)
        except FileNotFoundError as error:
            raise _damaged(path, f"{Path(error.filename).name} is missing") from error
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise _damaged(path, f"its description cannot be read ({error})") from error

    def table(self, stream: str) -> ChunkTable:
        """What is known of a stream's chunks without reading them."""
        return self._tables[stream]

    def read(self, stream: str, rows: Sequence[int] | np.ndarray) -> list[Chunk]:
        """Reads chunks by row, in any order; their arrays are read-only.

        Raises:
          BadDataError: What is stored is damaged.
          IndexError: There is no such row.
        """
        self._check_process()
        rows = np.asarray(rows, np.int64).tolist()
        chunks = self._cache.find(stream, rows)
        missing = [row for row in dict.fromkeys(rows) if row not in chunks]
        if missing:
            table = self.table(stream)
            if min(missing) < 0 or max(missing) >= len(table):
                raise IndexError(f"stream {stream!r} has rows 0 to {len(table) - 1}, asked for {missing}")
            try:
                data_source = self._data_source(stream)
                for row in missing:
                    # One by one: __getitems__ starts a pool of threads for each call, which takes longer.
                    chunks[row] = self._decode(stream, row, data_source[row])
            except BadDataError:
                raise
            except Exception as error:
                raise _damaged(self.path, f"rows {missing} of {stream!r} cannot be read ({error})") from error
            self._cache.add(stream, {row: chunks[row] for row in missing})
        return [chunks[row] for row in rows]

    def _decode(self, stream: str, row: int, example: Mapping[str, np.ndarray]) -> Chunk:
        table = self.table(stream)
        number, index = int(table.source[row]), int(table.index[row])
        if example["key"].tolist() != [number, index] or len(example["times_seconds"]) < 1:
            raise _damaged(self.path, f"row {row} of {stream!r} is not the one that {INDEX_FILE} says")
        return chunk_from_arrays(stream, table.source_ids[number], index, example)

    def _data_source(self, stream: str) -> Any:
        with self._lock:
            if stream not in self._data_sources:
                # Here, because it takes half a second and what only asks for the index need not wait for it.
                import tensorflow_datasets as tfds

                folder = self.path / CHUNKS_FOLDER / stream / self.card["streams"][stream]["version"]
                builder = tfds.builder_from_directory(folder)
                self._data_sources[stream] = builder.as_data_source(split="stored")
            return self._data_sources[stream]

    def _start_process(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._data_sources: dict[str, Any] = {}
        self._cache = ChunkCache(self._max_cache_bytes)

    def _check_process(self) -> None:
        # A forked process must not share the parent's file positions and locks.
        if self._process != os.getpid():
            self._start_process()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "card", "recordings", "streams", "_tables", "_max_cache_bytes")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_process()


def _stream_spec(name: str, fields: Mapping[str, Any]) -> StreamSpec:
    known = {field.name for field in dataclasses.fields(StreamSpec)} - {"name"}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items() if key in known}
    return StreamSpec(name, **values)
