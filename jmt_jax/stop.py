"""Being asked to stop: SIGTERM, SIGUSR1 (what schedulers send before it) or Ctrl-C.

The command line installs the handlers; importing or calling the library never does. Who works looks at
`requested` between two steps or batches, saves, and raises `Interrupted`: exit code 75, the same command goes
on. With several processes all have to stop at the same step; then JAX's preemption service agrees on it, as
long as every process looks equally often.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from data_pipelines.errors import Interrupted
from data_pipelines.program import SIGNALS

_LIBC = ctypes.CDLL(None)
_LARGEST_SIGACTION_BYTES = 512
GO_ON = "the same command with the same --workdir goes on"


class _Asked:
    """What was heard so far.

    Attributes:
      signals: Numbers of the signals that arrived here.
      agreed: All processes stop now.
      looks: How often `requested` was asked.
      handler_of_jax: JAX's handler of SIGTERM, as the operating system knows it; None in a process alone.
    """

    def __init__(self) -> None:
        self.installed = self.agreed = False
        self.signals: list[int] = []
        self.looks = 0
        self.handler_of_jax: ctypes.Array | None = None


_asked = _Asked()


def install() -> None:
    """Installs the handlers; for the command line, once JAX's processes know each other."""
    _asked.installed = True
    for number in SIGNALS:
        # JAX's own handler of SIGTERM tells the other processes; ours would take its place.
        if not (jax.process_count() > 1 and number == signal.SIGTERM):
            signal.signal(number, _hear)
    if jax.process_count() > 1:
        _asked.handler_of_jax = ctypes.create_string_buffer(_LARGEST_SIGACTION_BYTES)
        _LIBC.sigaction(int(signal.SIGTERM), None, _asked.handler_of_jax)


def requested() -> bool:
    """Whether to save and leave now; the same answer in all processes at their n-th look."""
    _asked.looks += 1
    if _asked.installed and not _asked.agreed:
        if jax.process_count() > 1:
            # Preparing data has handlers of its own, and Python cannot put back what it did not install.
            _LIBC.sigaction(int(signal.SIGTERM), _asked.handler_of_jax, None)
            _asked.agreed = multihost_utils.reached_preemption_sync_point(_asked.looks)
        else:
            _asked.agreed = bool(_asked.signals)
    return _asked.agreed


def heard() -> bool:
    """Whether this process, alone, was asked to stop."""
    return bool(_asked.signals)


def check(kept: str) -> None:
    """For work that has nothing of its own to save, e.g. between two batches of an evaluation.

    Args:
      kept: What is on disk, for the message, e.g. "the trained model is kept".

    Raises:
      Interrupted: We were asked to stop.
    """
    if requested():
        raise Interrupted(f"{kept}; {GO_ON}")


def _hear(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and number in _asked.signals:
        raise KeyboardInterrupt  # twice: whoever sits there does not want to wait
    _asked.signals.append(number)
    with contextlib.suppress(OSError):  # nobody may be reading
        os.write(2, b"asked to stop: this takes until the current step or batch is done\n")
    if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)
