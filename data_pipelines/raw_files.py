"""Raw files as they were when they were read: their size, time of change and content's hash."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A raw file, or a folder of files, as it was when it was read.

    Attributes:
      path: Relative to the raw folder, with forward slashes.
      size: In bytes, of a folder that of its files together; -1 where it is missing.
      modified_ns: Time of its last change, in nanoseconds.
      sha256: Of its content, as hexadecimal digits; "" where it is missing.
    """

    path: str
    size: int
    modified_ns: int
    sha256: str

    def is_unchanged(self, root: Path) -> bool:
        """True if the file has the same size and time of change (its content is not read)."""
        return (self.size, self.modified_ns) == measure_file(root / self.path)


def no_folder(path: Path) -> str:
    """What stands where a folder was expected, in words: a file, or nothing."""
    return f"{path} is a file" if path.exists() else f"there is no folder {path}"


def measure_file(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds; (-1, 0) where there is no such file.

    A folder has the size of its files together and the time of the latest change in it.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return -1, 0
    size, modified_ns = status.st_size, status.st_mtime_ns
    if path.is_dir():
        size = 0
        for name in folder_files(path):
            status = (path / name).stat()
            size, modified_ns = size + status.st_size, max(modified_ns, status.st_mtime_ns)
    return size, modified_ns


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits; of a folder, of its files' names and contents."""
    if path.is_dir():
        whole = hashlib.sha256()
        for name in folder_files(path):
            whole.update(f"{hash_file(path / name)} {name}\n".encode())
        return whole.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_files(folder: Path) -> list[str]:
    """Names of the files that lie in a folder itself, sorted; hidden ones do not count."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))


def describe_file(root: Path, path: str) -> InputFile:
    """Reads a raw file's size, time of change and hash; a missing one has size -1."""
    size, modified_ns = measure_file(root / path)
    return InputFile(path, size, modified_ns, hash_file(root / path) if size >= 0 else "")
