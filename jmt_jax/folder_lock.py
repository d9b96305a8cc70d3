"""One process writes into a run's folder at a time, and another one is told which.

The folder is held by an advisory lock of the operating system on ``.held_by.json``, which ends with its
process however that dies. Inside are host, process and start, for whoever comes second, and for file systems
that know no locks: there a holder of this host counts as gone when no such process is left, one of another
host until its file is removed.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from data_pipelines.errors import UsageError

FILE = ".held_by.json"


@contextlib.contextmanager
def held(folder: Path, named: str) -> Iterator[None]:
    """Holds a folder, which is made where it is not there.

    Args:
      folder: A folder of this machine, or of a shared file system.
      named: What messages call it.

    Raises:
      UsageError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    descriptor = _take(path, named)
    try:
        text = json.dumps(_self(), indent=1) + "\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
    finally:
        # Removed while it is held: whoever has opened it already finds out that it is no longer the one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path, named: str) -> int:
    """The descriptor of the file, locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = _read(path)
            if not holder:  # It has only just come.
                time.sleep(0.5)
                holder = _read(path)
            _refuse(named, holder, "")
        except OSError:  # No locks here: what the file says has to do.
            holder = _read(path)
            if holder and _may_live(holder):
                os.close(descriptor)
                _refuse(named, holder, f"; if that one is gone, remove {path}")
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)


def _refuse(named: str, holder: dict[str, Any], hint: str) -> NoReturn:
    who = f"process {holder.get('process', '?')} on {holder.get('host', 'an unknown host')}"
    since = f" (since {holder['started']})" if "started" in holder else ""
    raise UsageError(
        f"{named} is held by {who}{since}, which is writing into it; wait until that is done, stop it, or "
        f"give another --workdir{hint}"
    )


def _self() -> dict[str, Any]:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": now,
        "clock": _start_clock(os.getpid()),
    }


def _read(path: Path) -> dict[str, Any]:
    """What the holder has written; nothing where it has only just come, or has just gone."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _may_live(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(holder.get("process", 0)), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # Numbers of processes come again: the same number with another start is another process.
    return holder.get("clock") == _start_clock(int(holder["process"]))


def _start_clock(process: int) -> int | None:
    """When a process started, in ticks since the machine did; None where the system does not tell."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])
