"""With which sentence and which exit code a command ends, whatever was raised."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import NamedTuple

from data_pipelines.errors import BadDataError, Interrupted, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Read-only folders, folders of others, files where a folder is named.
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
_GO_ON = "the same command goes on where it was"


class Ending(NamedTuple):
    """How a command ends.

    Attributes:
      kind: ``usage error``, ``data error`` or ``interrupted``.
      sentence: What was found, what was expected, what to do next.
      code: The exit code.
    """

    kind: str
    sentence: str
    code: int


def of(error: BaseException) -> Ending | None:
    """The ending that an error asks for; None for what no user can cause: a fault of the program."""
    if isinstance(error, UsageError):
        return Ending("usage error", str(error), error.exit_code)
    if isinstance(error, BadDataError):
        return Ending("data error", str(error), error.exit_code)
    if isinstance(error, Interrupted):
        return Ending("interrupted", str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", _GO_ON, Interrupted.exit_code)
    if isinstance(error, OSError):
        return Ending("data error", _of_storage(error), BadDataError.exit_code)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        said = " ".join(str(error).split())[:200] or "no more could be had"
        return Ending(
            "data error",
            f"memory ran out ({said}); lower the global_batch_size of training and eval, or raise "
            "accumulation_steps, then run the command again",
            BadDataError.exit_code,
        )
    return None


def guarded(work: Callable[[], None], *, name: str = "") -> int:
    """Does a command's work; what a user can cause becomes one line on standard error.

    Args:
      work: The command.
      name: Stands before the sentence instead of the kind of error.

    Returns:
      The exit code.
    """
    try:
        work()
    except BaseException as error:
        ending = of(error)
        if ending is None:
            raise
        print(f"{name or ending.kind}: {ending.sentence}", file=sys.stderr)
        return ending.code
    return 0


def _of_storage(error: OSError) -> str:
    where = error.filename or "a file"
    said = error.strerror or str(error)
    if error.errno in _FULL:
        return (
            f"{where} cannot be written: {said}; make room there (what was saved before is kept), then run "
            "the same command again"
        )
    if error.errno in _REFUSED:
        return f"{where} cannot be written or read: {said}; give permission for it, or name another place"
    if error.errno == errno.EISDIR:
        return f"{where} is a folder; a file was expected: name the file"
    if error.errno == errno.ENOENT:
        return f"{where} is not there; see that the path is right, then run the command again"
    return f"{where} cannot be used: {said}; mend that, then run the same command again"
