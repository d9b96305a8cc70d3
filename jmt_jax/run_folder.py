"""A run's folder, on a disk or in an object store (``gs://bucket/run``).

An object store can neither append nor rename. So the small files of a run there (metrics, log, results) are
written in a passing folder of this machine, and copied to the store before each checkpoint and at the
end; what is in the store when the program starts is what counts. Checkpoints are in the store alone: all
processes write them there directly. Everything that works with a run's files takes the local folder.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath

from jmt_jax import addresses
from jmt_jax.distributed import wait_for_all

_CHECKPOINTS = "checkpoints"


class _Copy:
    """A run of an object store, and its files here.

    Args:
      remote: The run's folder there.
      local: Here.
    """

    def __init__(self, remote: epath.Path, local: Path) -> None:
        self.remote, self.local = remote, local
        self._sent: dict[Path, tuple[int, int]] = {}

    def address(self, path: Path) -> epath.Path:
        """What a file or folder here is in the store."""
        return self.remote / path.relative_to(self.local).as_posix()

    def pull(self, path: Path) -> None:
        """Copies a file, or all files of a folder but for checkpoints, from the store here."""
        there = self.address(path)
        if there.is_dir():
            for entry in there.iterdir():
                if entry.name != _CHECKPOINTS:
                    self.pull(path / entry.name)
        elif there.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(there.read_bytes())
            self._sent[path] = _state(path)

    def push(self) -> None:
        """Copies to the store what has changed here since the last time."""
        for path in sorted(self.local.rglob("*")):
            if path.is_file() and not path.name.startswith(".") and self._sent.get(path) != _state(path):
                state = _state(path)
                there = self.address(path)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(path.read_bytes())
                self._sent[path] = state


_copies: dict[Path, _Copy] = {}


def open_folder(text: str) -> Path:
    """The folder of this machine in which a run's small files are, for a folder or an address.

    Raises:
      UsageError: The address's kind of store is not known, or what reads it is not installed.
    """
    if not addresses.is_remote(text):
        return Path(text)
    copy = _Copy(addresses.path_of(text), Path(tempfile.mkdtemp(prefix="jmt_run_")))
    atexit.register(shutil.rmtree, copy.local, ignore_errors=True)
    copy.pull(copy.local)
    _copies[copy.local] = copy
    return copy.local


def checkpoints(folder: Path, stage: str) -> epath.Path:
    """Where a run, or one of its folds, keeps the checkpoints of a stage."""
    return _address(folder) / _CHECKPOINTS / stage


def named(path: Path) -> str:
    """A run's file or folder as people find it: the address, where the run is in a store."""
    return str(_address(path))


def push(folder: Path) -> None:
    """Brings what has changed to the store, where the run is in one."""
    if (copy := _copy_of(folder)) is not None:
        copy.push()


@contextlib.contextmanager
def pushed(folder: Path) -> Iterator[None]:
    """Brings what has changed to the store at the end, whatever that is."""
    try:
        yield
    finally:
        push(folder)


def fetch(path: Path) -> None:
    """Brings a file, or all of a folder, from the store, as it is there now; where the run is in one."""
    if (copy := _copy_of(path)) is not None:
        copy.pull(path)


def remove(folder: Path) -> None:
    """Removes a folder of a run and all in it, here and in the store."""
    shutil.rmtree(folder)
    if (copy := _copy_of(folder)) is not None:
        copy.address(folder).rmtree(missing_ok=True)


def share(folder: Path) -> None:
    """Returns when all processes see what the first has written; all of them have to call it."""
    push(folder)
    wait_for_all(f"files of {folder.name}")
    if jax.process_index() != 0:
        fetch(folder)


def _address(path: Path) -> epath.Path:
    copy = _copy_of(path)
    return epath.Path(path) if copy is None else copy.address(path)


def _copy_of(path: Path) -> _Copy | None:
    return next((copy for local, copy in _copies.items() if path.is_relative_to(local)), None)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
