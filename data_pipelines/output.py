"""Output that nobody may be reading any more: a closed terminal, ``| head``, a full disk behind ``>``."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

_STANDARD = (0, 1, 2)


def outlive_readers() -> None:
    """From here on a write to standard output or error that cannot be delivered is dropped, not an error.

    What was closed at the start (``>&-``) is opened on nothing: the next file would get its number, and what
    libraries write to it.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Outliving):
            setattr(sys, name, _Outliving(stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")))


def say_no_more() -> None:
    """Ends standard error: the last sentence is said, what follows while Python ends is noise."""
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)


class _Outliving:
    """A text stream whose reader may go.

    Args:
      stream: Standard output or error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or drops what nobody takes."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self._stream.write(text.encode("ascii", "backslashreplace").decode())
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Flushes, or drops what nobody takes."""
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def writelines(self, lines: Any) -> None:
        """Writes them one by one."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _let_go(self) -> None:
        """The descriptor itself leads to nothing now, also for libraries and new processes."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)
