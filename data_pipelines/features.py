"""Writes features of a frozen backbone as a prepared data set: one file a recording, then assembled.

A killed extraction leaves whole files only; started again it computes what is missing, and the bytes are
those of an uninterrupted one: which rows go through the backbone together depends on nothing but the list of
recordings. Several processes or hosts that see the same folder may share the work (`loader.Shard`).
"""

from __future__ import annotations

import concurrent.futures
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import storage, workers
from data_pipelines.assemble import assemble
from data_pipelines.errors import BadDataError, Interrupted
from data_pipelines.feature_windows import PADDING, Units
from data_pipelines.loader import Shard, StreamWindows
from data_pipelines.prepare import only_one
from data_pipelines.progress import Progress
from data_pipelines.recording import MAX_CHUNK_FRAMES, Chunk, LeftOut, Recording, Source, StreamSpec
from data_pipelines.source import SOURCES_FOLDER, UNFINISHED_FILE, PreparedSet, is_prepared
from data_pipelines.stream_windows import Moment

VERSION = "2"
"""Goes up when the same settings would give other features."""
_UNFINISHED_TEXT = "Features are being extracted to this folder, or that was interrupted: start it again.\n"

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]
Log = Callable[[str], None]


class _Row(NamedTuple):
    """What goes through the backbone as one row of a batch: some units of one recording."""

    recording: int
    first: int
    count: int


class FeatureReader:
    """A frozen backbone as a `recording.Reader`: its sources are recordings, and it decodes features.

    Args:
      prepared: The data set that the backbone looks at.
      stream: Name of the stream.
      windows: What the backbone sees of it.
      units: Index of a recording to what is computed of it.
      encode: Windows [B, S, ...] and their mask [B, S] to tokens float32 [B, S, D], always B rows.
      width: D.
      batch_rows: B.
      settings: What the features are a function of, as JSON values.
      draw: 0 for what evaluation sees; else the number of an augmented copy. Its random numbers belong to
        (draw, stream, recording, block), so that the tokens of a sequence are augmented alike.
      block_frames: Length of a block of a ``frames`` grid.
      num_threads: Threads that read ahead.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        stream: str,
        windows: StreamWindows,
        units: Mapping[int, Units],
        encode: Encode,
        *,
        width: int,
        batch_rows: int,
        settings: Mapping[str, Any],
        draw: int = 0,
        block_frames: int = 1,
        num_threads: int = 2,
    ) -> None:
        self.name, self.version = str(prepared.card["dataset"]), f"features {VERSION}"
        self.root = str(prepared.path)
        self.on_units: Callable[[int], None] = lambda count: None
        self.units = units
        self._prepared, self._stream, self._windows, self._encode = prepared, stream, windows, encode
        self._settings, self._draw, self._block_frames = settings, draw, block_frames
        self._batch_rows, self._num_threads = batch_rows, num_threads
        by_token = next(iter(units.values())).by_token
        self._width = width if by_token else width * windows.mask_length
        self._number = {prepared.recordings[number].id: number for number in units}
        self._rows = {number: self._rows_of(number, one) for number, one in units.items()}
        self.jobs = _jobs({number: len(rows) for number, rows in self._rows.items()}, batch_rows)
        self._job_of = {number: job for job in self.jobs for number in job}
        self._shared: tuple[tuple[int, ...], dict[int, np.ndarray]] = ((), {})

    def settings(self) -> Mapping[str, Any]:
        """What the features are a function of."""
        return self._settings

    def notes(self) -> Mapping[str, str]:
        """What this data set is."""
        unit = "target frame" if next(iter(self.units.values())).by_token else "item, token after token"
        return {"features": f"outputs of a frozen backbone, one vector a {unit}; NaN where it is masked"}

    def is_sample(self) -> bool:
        """True if the recordings were made by this software."""
        return bool(self._prepared.card["sample"])

    def streams(self) -> tuple[StreamSpec, ...]:
        """The one stream."""
        names = tuple(f"feature_{index}" for index in range(self._width))
        return (StreamSpec(self._stream, "features", names, ("1",) * self._width),)

    def scan(self) -> tuple[list[Recording], list[Source], list[LeftOut]]:
        """The recordings that have units, each with a source of its own."""
        kept = [self._prepared.recordings[number] for number in self.units]
        recordings = [
            Recording(r.id, r.subject, {self._stream: r.id}, r.annotation, r.attributes, r.group)
            for r in kept
        ]
        return recordings, [Source(self._stream, recording.id, ()) for recording in recordings], []

    def decode(self, source: Source) -> Iterator[Chunk]:
        """The features of one recording."""
        number = self._number[source.id]
        times = self.units[number].times_seconds
        index, held = 0, np.zeros((0, self._width), np.float32)
        for vectors in self._vectors(number):
            held = np.concatenate([held, vectors])
            while len(held) >= MAX_CHUNK_FRAMES or (
                len(held) and index * MAX_CHUNK_FRAMES + len(held) == len(times)
            ):
                first = index * MAX_CHUNK_FRAMES
                values, held = held[:MAX_CHUNK_FRAMES], held[MAX_CHUNK_FRAMES:]
                yield Chunk(self._stream, source.id, index, times[first : first + len(values)], values=values)
                index += 1

    def _rows_of(self, number: int, units: Units) -> list[_Row]:
        """Units that follow each other in rows of S, none over the border of a block."""
        if not units.by_token:
            return [_Row(number, unit, 1) for unit in range(len(units))]
        borders = np.flatnonzero(np.diff(units.targets // self._block_frames)) + 1
        edges = [0, *borders.tolist(), len(units)]
        size = self._windows.mask_length
        return [
            _Row(number, first, min(size, end - first))
            for begin, end in zip(edges[:-1], edges[1:], strict=True)
            for first in range(begin, end, size)
        ]

    def _vectors(self, number: int) -> Iterator[np.ndarray]:
        """The recording's vectors in order, [n, width] at a time."""
        job = self._job_of[number]
        if len(job) == 1:
            yield from self._encode_rows(self._rows[number])
            return
        if self._shared[0] != job:
            (vectors,) = self._encode_rows([row for one in job for row in self._rows[one]])
            ends = np.cumsum([len(self.units[one]) for one in job])
            self._shared = (job, dict(zip(job, np.split(vectors, ends[:-1]), strict=True)))
        yield self._shared[1][number]

    def _encode_rows(self, rows: Sequence[_Row]) -> Iterator[np.ndarray]:
        """Vectors of rows, a batch at a time; the next batch is read meanwhile."""
        batches = [rows[first : first + self._batch_rows] for first in range(0, len(rows), self._batch_rows)]
        with concurrent.futures.ThreadPoolExecutor(self._num_threads) as pool:
            waiting = [pool.submit(self._read, row) for row in batches[0]]
            for number, batch in enumerate(batches):
                found = [future.result() for future in waiting]
                following = batches[number + 1] if number + 1 < len(batches) else ()
                waiting = [pool.submit(self._read, row) for row in following]
                yield self._encode_batch(batch, found)

    def _read(self, row: _Row) -> tuple[np.ndarray, np.ndarray]:
        """What the backbone sees of a row, and the mask."""
        recording, units = self._prepared.recordings[row.recording], self.units[row.recording]
        targets = units.targets
        if units.by_token:
            targets = np.full(self._windows.mask_length, PADDING, np.int32)
            targets[: row.count] = units.targets[row.first : row.first + row.count]
        elif targets is not None:
            targets = targets[row.first]
        rng = None
        if self._draw:
            block = int(targets[0]) // self._block_frames if units.by_token else row.first
            entropy = [self._draw, block, *self._stream.encode(), *recording.id.encode()]
            rng = np.random.default_rng(entropy)
        start = float(units.times_seconds[row.first])
        return self._windows.read(recording, Moment(row.recording, start, rng, targets))

    def _encode_batch(
        self, rows: Sequence[_Row], found: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        values = np.zeros((self._batch_rows, *self._windows.shape), self._windows.dtype)
        mask = np.zeros((self._batch_rows, self._windows.mask_length), bool)
        for place, (one, real) in enumerate(found):
            values[place], mask[place] = one, real
        tokens = np.where(mask[..., None], self._encode(values, mask), np.float32(np.nan))
        if not np.isfinite(tokens[mask]).all():
            wrong = ~np.isfinite(tokens).all(-1) & mask
            recording = self._prepared.recordings[rows[int(np.flatnonzero(wrong.any(1))[0])].recording]
            raise BadDataError(
                f"the frozen backbone of stream {self._stream!r} gives features that are not finite (of "
                f"recording {recording.id!r}); train it again, or give other weights"
            )
        vectors = [
            tokens[place, : row.count] if self.units[row.recording].by_token else tokens[place].reshape(1, -1)
            for place, row in enumerate(rows)
        ]
        self.on_units(sum(row.count for row in rows))
        return np.concatenate(vectors)


def extract(reader: FeatureReader, out: Path, *, label: str, shard: Shard) -> None:
    """Writes the files of a shard's recordings that are not there yet; nothing where the set is finished.

    Args:
      reader: Computes the features.
      out: Folder of the result; all shards have the same.
      label: What the progress line says.
      shard: Which part of the recordings.

    Raises:
      BadDataError: The stored data are damaged, or features are not finite.
      Interrupted: SIGTERM or SIGINT; what is finished is kept.
    """
    if is_prepared(out):
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED_FILE).write_text(_UNFINISHED_TEXT)
    _, sources, _ = reader.scan()
    finished = _finished(reader, sources, out)
    own = {number for job in reader.jobs[shard.process_index :: shard.process_count] for number in job}
    lengths = {source.id: len(units) for source, units in zip(sources, reader.units.values(), strict=True)}
    mine = [source for source, number in zip(sources, reader.units, strict=True) if number in own]
    todo = [source for source in mine if (source.stream, source.id) not in finished]
    there = sum(lengths[source.id] for source in mine) - sum(lengths[source.id] for source in todo)
    with (
        workers.stop_by_signal() as should_stop,
        Progress(sum(lengths[source.id] for source in mine), label, "vectors", done=there) as progress,
    ):
        reader.on_units = progress.advance
        for source in todo:
            _write(reader, source, out, should_stop)
            if should_stop():
                break
    if todo and should_stop():
        raise Interrupted(f"stopped; what is extracted is kept in {out}: the same command goes on")


def _write(reader: FeatureReader, source: Source, out: Path, should_stop: Callable[[], bool]) -> None:
    try:
        stored = storage.store_source(reader, source, out / SOURCES_FOLDER, should_stop)
    except storage.Stopped:
        return
    if stored.damaged:
        storage.source_path(out / SOURCES_FOLDER, source.stream, source.id).unlink()
        raise BadDataError(stored.damaged)


def _finished(
    reader: FeatureReader, sources: Sequence[Source], out: Path
) -> dict[tuple[str, str], storage.StoredSource]:
    found = storage.find_finished(reader, sources, out / SOURCES_FOLDER)
    return {key: stored for key, stored in found.items() if not stored.damaged}


def finish(reader: FeatureReader, out: Path, log: Log) -> bool:
    """Assembles the set where the files of all recordings are there; whoever comes last does it.

    Returns:
      Whether the set is finished.
    """
    if not is_prepared(out):
        recordings, sources, _ = reader.scan()
        finished = _finished(reader, sources, out)
        if len(finished) < len(sources) and not is_prepared(out):
            log(f"{out}: {len(finished)} of {len(sources)} recordings are extracted")
            return False
    with only_one(out, log):
        if not is_prepared(out):
            _assemble(reader, out)
        shutil.rmtree(out / SOURCES_FOLDER, ignore_errors=True)
        (out / UNFINISHED_FILE).unlink(missing_ok=True)
    return True


def _assemble(reader: FeatureReader, out: Path) -> None:
    recordings, sources, _ = reader.scan()
    try:
        with workers.stop_by_signal() as should_stop:
            assemble(
                reader,
                out,
                recordings=recordings,
                sources=sources,
                left_out=(),
                stored=_finished(reader, sources, out),
                fingerprints={
                    "reader": f"{reader.name} {reader.version}",
                    "settings": dict(reader.settings()),
                },
                should_stop=should_stop,
            )
    except storage.Stopped as stopped:
        raise Interrupted(f"stopped; the same command goes on with {out}") from stopped


def _jobs(rows: Mapping[int, int], batch_rows: int) -> list[tuple[int, ...]]:
    """Recordings that are computed together: short ones as one batch, a longer one by itself.

    Args:
      rows: Index of a recording to its number of rows.
      batch_rows: Rows of a batch.
    """
    jobs: list[tuple[int, ...]] = []
    gathered: list[int] = []
    count = 0
    for number, own in rows.items():
        if gathered and count + own > batch_rows:
            jobs.append(tuple(gathered))
            gathered, count = [], 0
        gathered.append(number)
        count += own
    return [*jobs, tuple(gathered)]
