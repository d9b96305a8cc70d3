"""One file a source: what a worker writes while a data set is being prepared, and what a restart keeps.

The file is an npz archive without compression whose bytes depend on the source alone: one folder of arrays
a chunk, a ``table`` of what the chunks hold, and ``about.json`` with the inputs' size, time of change and
SHA-256. It is written under a temporary name and renamed when complete, so a file that is there is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.raw_files import InputFile, describe_file
from data_pipelines.recording import MAX_CHUNK_FRAMES, MAX_CHUNK_SECONDS, Chunk, Reader, Source, StreamSpec

FORMAT = 1
PARTIAL_SUFFIX = ".partial"
_TABLE_ARRAYS = (
    "length",
    "start_seconds",
    "rate_hz",
    "times_seconds",
    "moment_count",
    "moment_sum",
    "moment_square_sum",
)
_CHUNK_ARRAYS = ("times_seconds", "rate_hz", "values", "images", "image_lengths")


class Stopped(Exception):
    """The work was asked to stop; the source is not finished and nothing of it is left behind."""


@dataclasses.dataclass(frozen=True)
class StoredSource:
    """What is known of a finished source without reading its chunks.

    Attributes:
      stream, source: Its key.
      fingerprint: Of the reader, its settings and the source's file names.
      files: The raw files that it was decoded from.
      damaged: Why it could not be decoded; "" if it could.
      chunks: Number of chunks.
      length: Frames, vectors or samples in all of them.
      left_out: What of the source could not be used, a sentence each.
    """

    stream: str
    source: str
    fingerprint: str
    files: tuple[InputFile, ...]
    damaged: str = ""
    chunks: int = 0
    length: int = 0
    left_out: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As it is stored; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StoredSource:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        fields["files"] = tuple(InputFile(**file) for file in fields["files"])
        fields["left_out"] = tuple(fields.get("left_out", ()))
        return cls(**fields)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()


def source_fingerprint(reader: Reader, source: Source) -> str:
    """What decides a source's result besides the content of its files."""
    return digest([FORMAT, reader.name, reader.version, dict(reader.settings()), dataclasses.astuple(source)])


def source_path(folder: Path, stream: str, source: str) -> Path:
    """Where a source's file is; its name is readable, and safe and distinct on every file system."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", source)[:80].lstrip(".")
    return folder / stream / f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:12]}.npz"


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file under a temporary name, forces it to the disk, then renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_arrays(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz archive whose bytes depend on the arrays alone (`numpy.savez` records the time)."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            _add_array(archive, name, array)


def _add_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(name + ".npy"), buffer.getbuffer())


def without_root(text: str, reader: Reader) -> str:
    """A sentence in which paths are relative to the raw folder: results are the same wherever it lies."""
    for root in (reader.root, os.path.realpath(reader.root)):
        text = text.replace(root.rstrip("/") + "/", "")
    return text


def store_source(
    reader: Reader, source: Source, folder: Path, should_stop: Callable[[], bool] = lambda: False
) -> StoredSource:
    """Decodes a source into its file; a damaged one gets a file that says so, to be left alone next time.

    Holds one chunk in memory, besides what the reader holds.

    Args:
      reader: Knows how to decode it.
      source: What to decode.
      folder: Folder of all sources' files.
      should_stop: Asked after each chunk.

    Raises:
      Stopped: `should_stop` said so.
      OSError: The folder cannot be written to.
    """
    root = Path(reader.root)
    stored = StoredSource(
        source.stream,
        source.id,
        source_fingerprint(reader, source),
        tuple(describe_file(root, path) for path in source.files),
    )
    missing = [file.path for file in stored.files if file.size < 0]
    path = source_path(folder, source.stream, source.id)
    if not missing:
        decoded: list[StoredSource] = []
        try:
            write_atomically(
                path, lambda file: decoded.append(_decode(reader, source, stored, file, should_stop))
            )
            return decoded[0]
        except BadDataError as error:
            stored = dataclasses.replace(stored, damaged=without_root(str(error), reader))
    else:
        stored = dataclasses.replace(stored, damaged=f"there is no file {missing[0]}")
    write_atomically(path, lambda file: _write_about(file, stored))
    return stored


def _write_about(file: BinaryIO, stored: StoredSource) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("about.json"), stored.to_json())


def _decode(
    reader: Reader, source: Source, stored: StoredSource, file: BinaryIO, should_stop: Callable[[], bool]
) -> StoredSource:
    (spec,) = (stream for stream in reader.streams() if stream.name == source.stream)
    table: dict[str, list[Any]] = {name: [] for name in _TABLE_ARRAYS}
    left_out: list[str] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for chunk in checked_chunks(spec, source, reader.decode(source)):
            for name, array in chunk_arrays(chunk).items():
                _add_array(archive, f"{chunk.index:06d}/{name}", array)
            _add_to_table(table, chunk)
            left_out.extend(chunk.left_out)
            if should_stop():
                raise Stopped(f"{source.stream} {source.id}")
        for name, column in table.items():
            array = np.concatenate(column) if name == "times_seconds" else np.stack(column)
            _add_array(archive, f"table/{name}", array)
        stored = dataclasses.replace(
            stored,
            chunks=len(table["length"]),
            length=int(sum(table["length"])),
            left_out=tuple(without_root(sentence, reader) for sentence in left_out),
        )
        archive.writestr(zipfile.ZipInfo("about.json"), stored.to_json())
    return stored


def _add_to_table(table: dict[str, list[Any]], chunk: Chunk) -> None:
    is_samples = chunk.rate_hz > 0
    values = np.zeros((0, 0)) if not is_samples else chunk.values.astype(np.float64)
    present = np.isfinite(values)
    values = np.where(present, values, 0.0)
    table["length"].append(np.int32(len(chunk)))
    table["start_seconds"].append(np.float64(chunk.times_seconds[0]))
    table["rate_hz"].append(np.float64(chunk.rate_hz))
    table["times_seconds"].append(np.zeros(0) if is_samples else chunk.times_seconds)
    table["moment_count"].append(present.sum(0, dtype=np.float64))
    table["moment_sum"].append(values.sum(0))
    table["moment_square_sum"].append((values**2).sum(0))


def chunk_arrays(chunk: Chunk) -> dict[str, np.ndarray]:
    """A chunk's content as arrays; images are one run of bytes and a vector of lengths."""
    arrays = {"times_seconds": chunk.times_seconds, "rate_hz": np.array([chunk.rate_hz], np.float64)}
    if chunk.values is not None:
        return arrays | {"values": chunk.values}
    images = np.frombuffer(b"".join(chunk.frames), np.uint8)
    return arrays | {"images": images, "image_lengths": np.array([len(f) for f in chunk.frames], np.int64)}


def chunk_from_arrays(stream: str, source: str, index: int, arrays: Mapping[str, np.ndarray]) -> Chunk:
    """The inverse of `chunk_arrays`."""
    frames: tuple[bytes, ...] = ()
    if "images" in arrays:
        blob = memoryview(np.ascontiguousarray(arrays["images"])).cast("B")
        ends = np.cumsum(arrays["image_lengths"]).tolist()
        frames = tuple(bytes(blob[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True))
    rate_hz = float(arrays["rate_hz"][0])
    return Chunk(stream, source, index, arrays["times_seconds"], rate_hz, frames, arrays.get("values"))


def checked_chunks(spec: StreamSpec, source: Source, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Passes chunks on that keep the contract of `recording.Chunk`.

    Raises:
      BadDataError: One does not, or there are none: a sentence that names the source.
    """
    name = f"{source.files[0] if source.files else source.id} ({spec.name})"
    end_seconds, rate_hz, count = -np.inf, None, 0
    for count, chunk in enumerate(chunks, start=1):
        problem = _chunk_problem(spec, source, chunk, count - 1)
        # Chunks of samples touch each other, up to the rounding of their times.
        tolerance_seconds = 0.5 / rate_hz if rate_hz else 0.0
        if not problem and chunk.times_seconds[0] <= end_seconds - tolerance_seconds:
            problem = f"it starts at {chunk.times_seconds[0]:.6f} s, not after {end_seconds:.6f} s"
        if not problem and rate_hz is not None and chunk.rate_hz != rate_hz:
            problem = f"its rate is {chunk.rate_hz} Hz, the first chunk's {rate_hz} Hz"
        if problem:
            raise BadDataError(f"{name}: chunk {count - 1} is not in order: {problem}")
        rate_hz = chunk.rate_hz
        end_seconds = chunk.times_seconds[-1] + (len(chunk) / rate_hz if rate_hz else 0.0)
        yield chunk
    if not count:
        raise BadDataError(f"{name}: nothing could be decoded from it")


def _chunk_problem(spec: StreamSpec, source: Source, chunk: Chunk, index: int) -> str:
    """What is wrong with a chunk by itself; "" if nothing is."""
    times, values = chunk.times_seconds, chunk.values
    if (chunk.stream, chunk.source, chunk.index) != (spec.name, source.id, index):
        return f"its key is {(chunk.stream, chunk.source, chunk.index)}, not {(spec.name, source.id, index)}"
    if not len(chunk):
        return "it is empty"
    count = 1 if spec.kind == "samples" else len(chunk)
    if times.dtype != np.float64 or times.shape != (count,):
        return f"its times are {times.dtype} {times.shape}, not float64 ({count},)"
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        return "its times are not finite and ascending"
    if (spec.kind == "samples") != (chunk.rate_hz > 0):
        return f"its rate is {chunk.rate_hz} Hz, which does not fit {spec.kind}"
    if spec.kind == "samples" and len(chunk) > MAX_CHUNK_SECONDS * chunk.rate_hz + 1e-6:
        return f"it holds {len(chunk) / chunk.rate_hz:.3f} s, more than {MAX_CHUNK_SECONDS} s"
    if spec.kind != "samples" and len(chunk) > MAX_CHUNK_FRAMES:
        return f"it holds {len(chunk)} entries, more than {MAX_CHUNK_FRAMES}"
    if spec.kind == "frames":
        return "" if values is None and all(chunk.frames) else "one of its images is empty"
    if values is None or values.dtype != spec.dtype or values.shape[1:] != (len(spec.channels),):
        found = "missing" if values is None else f"{values.dtype} {values.shape}"
        return f"its values are {found}, not {spec.dtype} (N, {len(spec.channels)})"
    return "one of its values is infinite" if np.isinf(values).any() else ""


class SourceFile:
    """An open file of a finished source."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self.stored = StoredSource.from_json(self._archive.read("about.json").decode())

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._archive.close()

    def table(self) -> dict[str, np.ndarray]:
        """One entry a chunk: the columns of `source.ChunkTable` that a source decides by itself."""
        return {name: self._read(f"table/{name}") for name in _TABLE_ARRAYS}

    def chunk_arrays(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of one chunk, as `storage.chunk_arrays` made them."""
        known = self._archive.NameToInfo
        return {
            name: self._read(f"{index:06d}/{name}")
            for name in _CHUNK_ARRAYS
            if f"{index:06d}/{name}.npy" in known
        }

    def _read(self, name: str) -> np.ndarray:
        with self._archive.open(name + ".npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def read_stored(path: Path) -> StoredSource | None:
    """What a finished source's file says of itself; None where there is none or it cannot be read."""
    try:
        with SourceFile(path) as file:
            return file.stored
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return None


def find_finished(
    reader: Reader, sources: Sequence[Source], folder: Path
) -> dict[tuple[str, str], StoredSource]:
    """The sources whose files are there, from the same reader and settings and from unchanged inputs."""
    root = Path(reader.root)
    finished = {}
    for source in sources:
        stored = read_stored(source_path(folder, source.stream, source.id))
        if (
            stored is not None
            and stored.fingerprint == source_fingerprint(reader, source)
            and all(file.is_unchanged(root) for file in stored.files)
        ):
            finished[source.stream, source.id] = stored
    return finished
