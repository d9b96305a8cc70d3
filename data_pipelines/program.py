"""How a command and its worker processes begin and end, whatever signals arrive."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from data_pipelines import output

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# So long a worker that was asked to end is there for its parent, which may wait for it before it looks.
_WORKER_GRACE_SECONDS = 5.0


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and leaves with its exit code.

    It goes on when nobody reads its output any more, and when its terminal is closed (SIGHUP).

    Until the work begins and takes signals itself, each of `SIGNALS` is a KeyboardInterrupt. Once it is over
    none is heard: Python, taking itself apart, would let one of them end a command that is done as if it had
    failed.

    Where the locale is not one of UTF-8 the command begins again in Python's UTF-8 mode: libraries underneath
    take every name to be that.

    Args:
      main: Returns the exit code.
    """
    _use_utf8()
    output.outlive_readers()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    code = main()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    if code:
        output.say_no_more()
    sys.exit(code)


def _use_utf8() -> None:
    """Begins again in Python's UTF-8 mode where the locale is another: no accent would be found."""
    if sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            print(
                f"the name {ascii(argument)} is not UTF-8: it was written in another encoding; rename it",
                file=sys.stderr,
            )
            sys.exit(2)


def begin_worker(index: int = 0, count: int = 1) -> None:
    """Makes this process one that ends when its parent does, and not before.

    A terminal or a scheduler sends `SIGNALS` to all processes of a job; it is the parent who decides, saves
    what there is, and ends its workers. SIGTERM, which it may do that with, is obeyed a little later.

    Args:
      index, count: Number of the worker and of all, as Grain gives them; not used.
    """
    output.outlive_readers()
    for number in SIGNALS:
        signal.signal(number, _end_later if number == signal.SIGTERM else signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end_later(number: int, frame: FrameType | None) -> None:
    timer = threading.Timer(_WORKER_GRACE_SECONDS, os._exit, (128 + number,))
    timer.daemon = True
    timer.start()
