"""Which raw files a prepared data set was made from, and whether they are still the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.raw_files import InputFile, hash_file, measure_file
from data_pipelines.recording import Reader, Remembering, Source
from data_pipelines.source import INPUTS_FILE
from data_pipelines.storage import StoredSource, digest, write_arrays, write_atomically

# Apart, so that everything else is the same where the raw files are copies of another date.
MODIFIED_FILE = "inputs_modified_ns.npy"
# Spares the next scan of the raw folder work; whoever reads the data set does not need it.
SCAN_FILE = "scan.npz"
_NAMED_FILES = 3
_BLOCK_ROWS = 10_000


def digest_found(parts: Sequence[Any], columns: Mapping[str, np.ndarray]) -> str:
    """`storage.digest` of [*parts, columns], the columns as lists; they may be long, so never as a whole.

    Args:
      parts: JSON values.
      columns: Name to array [N].
    """
    whole = hashlib.sha256(json.dumps(list(parts), sort_keys=True, default=list)[:-1].encode())
    before = ", {"
    for name, column in sorted(columns.items()):
        whole.update(f"{before}{json.dumps(name)}: [".encode())
        for first in range(0, len(column), _BLOCK_ROWS):
            text = json.dumps(column[first : first + _BLOCK_ROWS].tolist())[1:-1]
            whole.update(f"{', ' if first else ''}{text}".encode())
        before = "], "
    whole.update(b"]}]")
    return whole.hexdigest()


def write(out: Path, stored: Iterable[StoredSource]) -> dict[str, Any]:
    """Writes the list of raw files.

    Returns:
      ``inputs``, one SHA-256 over the names and hashes of all files, and ``input_files``, their number.
    """
    files: dict[str, InputFile] = {}
    sources: dict[str, set[tuple[str, str]]] = {}
    for source in stored:
        for file in source.files:
            files[file.path] = file
            sources.setdefault(file.path, set()).add((source.stream, source.source))
    lines = [
        {"path": path, "size": file.size, "sha256": file.sha256, "sources": sorted(sources[path])}
        for path, file in sorted(files.items())
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(out / INPUTS_FILE, lambda file: file.write(text.encode()))
    _write_modified(out, [files[line["path"]].modified_ns for line in lines])
    return {"inputs": digest([[line["path"], line["sha256"]] for line in lines]), "input_files": len(files)}


def _write_modified(out: Path, modified_ns: Sequence[int]) -> None:
    array = np.array(modified_ns, np.int64)
    write_atomically(out / MODIFIED_FILE, lambda file: np.lib.format.write_array(file, array))


def _read(out: Path) -> list[InputFile]:
    lines = [json.loads(line) for line in (out / INPUTS_FILE).read_text(encoding="utf-8").splitlines()]
    return [
        InputFile(line["path"], line["size"], modified_ns, line["sha256"])
        for line, modified_ns in zip(lines, _read_modified(out, len(lines)), strict=True)
    ]


def _read_modified(out: Path, count: int) -> list[int]:
    """Times of change; they only spare reading, so of a file that cannot be read all are as good as none."""
    with contextlib.suppress(OSError, EOFError, ValueError, zipfile.BadZipFile):
        modified = np.load(out / MODIFIED_FILE, allow_pickle=False)
        if modified.dtype == np.int64 and modified.shape == (count,):
            return modified.tolist()
    return [0] * count


def remember_scan(reader: Reader, out: Path) -> None:
    """Keeps what the reader found, where it wants that to be kept."""
    if isinstance(reader, Remembering) and (arrays := reader.remembered()):
        write_atomically(out / SCAN_FILE, lambda file: write_arrays(file, arrays))


def recall_scan(reader: Reader, out: Path) -> None:
    """Tells the reader what an earlier run kept. A file that cannot be read is as good as none."""
    if isinstance(reader, Remembering):
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile),
            np.load(out / SCAN_FILE, allow_pickle=False) as arrays,
        ):
            reader.recall(dict(arrays))


def check_unchanged(
    out: Path,
    card: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    root: Path,
    sources: Sequence[Source],
) -> None:
    """Checks that a finished folder was made from these files with these settings.

    A file of the same size and time of change is taken to be the same; one of another time is read.

    Raises:
      UsageError: It was not; says what differs.
    """
    there = card["fingerprints"]
    if there["reader"] != fingerprints["reader"]:
        _refuse(out, f"by the reader {there['reader']}, this is {fingerprints['reader']}")
    old, new = there["settings"], fingerprints["settings"]
    different = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if different:
        told = "; ".join(f"{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in different)
        _refuse(out, f"with other settings: {told}")
    files = _read(out)
    changed = sorted({path for source in sources for path in source.files} ^ {file.path for file in files})
    changed = changed or [file.path for file in files if not _is_same(file, root)]
    if changed:
        more = f" and {len(changed) - _NAMED_FILES} more" if len(changed) > _NAMED_FILES else ""
        _refuse(out, f"from other files: {', '.join(changed[:_NAMED_FILES])}{more} changed since")
    if there["recordings"] != fingerprints["recordings"]:
        _refuse(out, "from other recordings or labels; the raw folder's tables changed since")
    modified = [measure_file(root / file.path)[1] for file in files]
    if modified != [file.modified_ns for file in files]:
        # It spares the next time some reading, no more: the folder may be one that is only read.
        with contextlib.suppress(OSError):
            _write_modified(out, modified)


def _is_same(file: InputFile, root: Path) -> bool:
    if file.is_unchanged(root):
        return True
    size, _ = measure_file(root / file.path)
    return size == file.size >= 0 and hash_file(root / file.path) == file.sha256


def _refuse(out: Path, what: str) -> NoReturn:
    raise UsageError(f"{out} was prepared {what}; choose another folder for the result, or delete this one")
