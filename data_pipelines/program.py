"""How a command begins and ends, whatever signals arrive."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and leaves with its exit code.

    Until the work begins and takes signals itself, each of `SIGNALS` is a KeyboardInterrupt. Once it is over
    none is heard: Python, taking itself apart, would let one of them end a command that is done as if it had
    failed.

    Args:
      main: Returns the exit code.
    """
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    code = main()
    hear_nothing_more()
    sys.exit(code)


def hear_nothing_more() -> None:
    """Ignores `SIGNALS` from here to the end of the process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
