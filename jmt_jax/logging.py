"""What a run says: readable lines, ``metrics.jsonl``, and TensorBoard files where the extra is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from data_pipelines import endings
from data_pipelines.errors import BadDataError, Interrupted, UsageError
from jmt_jax import files

LOGGER = logging.getLogger("jmt_jax")


def set_up(workdir: Path | None = None) -> None:
    """Sends the log to standard error and, given a folder, to its ``log.txt`` as well."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    formatter = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(workdir / "log.txt", encoding="utf-8"))
    # What Orbax finds wrong in the background it raises as well, and `Checkpoints` says it in one line.
    logging.getLogger("absl").addFilter(_is_no_traceback_of_orbax)
    sys.excepthook = _say_but_for_closed_loops
    threading.excepthook = lambda found: _say_but_for_closed_loops(*found[:3])
    for old in list(LOGGER.handlers):
        LOGGER.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        LOGGER.addHandler(handler)


def _is_no_traceback_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _say_but_for_closed_loops(kind: type, error: BaseException, trace: Any) -> None:
    """As Python does, but for TensorStore's writers: a save that failed leaves them no loop to report to."""
    if not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
        sys.__excepthook__(kind, error, trace)


class _LogFile(logging.FileHandler):
    """A log file on a disk that may be full: lines are lost then, and standard error says so once."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name that logging calls)
        """Instead of a stack trace a line."""
        if not self._said:
            self._said = True
            reason = sys.exc_info()[1]
            sys.stderr.write(f"{self.baseFilename} cannot be written ({reason}); lines are missing in it\n")

    def close(self) -> None:
        """Closes the file, whatever becomes of its last lines; that was said."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def ending_noted() -> Iterator[None]:
    """Writes what ends the work into ``log.txt``: whoever started it may not see standard error any more.

    For what is no error of our own, where it came from as well: standard error has one sentence.
    """
    try:
        yield
    except BaseException as error:
        ending = endings.of(error)
        lines = [f"{ending.kind}: {ending.sentence}"] if ending else []
        if not isinstance(error, (UsageError, BadDataError, Interrupted, KeyboardInterrupt)):
            lines += traceback.format_exception(error)
        record = LOGGER.makeRecord(LOGGER.name, logging.ERROR, "", 0, "\n".join(lines), (), None)
        for handler in LOGGER.handlers:
            if isinstance(handler, _LogFile):
                handler.handle(record)
        raise


def info(message: str, *args: Any) -> None:
    """One line of the log."""
    LOGGER.info(message, *args)


def warning(message: str, *args: Any) -> None:
    """One line of the log that should not be overlooked."""
    LOGGER.warning("WARNING: " + message, *args)


def say_as_process(*lines: str) -> None:
    """Writes lines to standard error that name this process; for when it ends at once."""
    name = f"process {jax.process_index()} of {jax.process_count()}"
    sys.stderr.write("".join(f"{name}: {line}\n" for line in lines))
    sys.stderr.flush()


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object out of a file; None where there is no such file."""
    return json.loads(path.read_text()) if path.exists() else None


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line with ``stage``, ``step``, ``part`` and values.

    Args:
      workdir: The run's folder.
      is_main: False on processes that do not write.
    """

    def __init__(self, workdir: Path, *, is_main: bool = True) -> None:
        self._path = workdir / "metrics.jsonl"
        self._is_main = is_main
        self._board = None
        if is_main and importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, stage: str, step: int, part: str, values: dict[str, float]) -> None:
        """Appends one row.

        Args:
          stage: Name of the training stage.
          step: Updates done in it.
          part: ``train`` or ``validation``.
          values: Plain numbers.
        """
        if not self._is_main:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step, "part": part, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(f"{stage}/{part}/{name}", value, step)

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far; a last line that a killed run left half written is none."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().split("\n")
        # Whatever follows the last newline is half a line.
        return [json.loads(line) for line in lines[:-1] if line]

    def rewind(self, stage: str, step: int) -> None:
        """Forgets what a killed run wrote of a stage after the checkpoint that it goes on from.

        Args:
          stage: Name of the training stage.
          step: Of the checkpoint; -1 where the stage begins anew.
        """
        if not self._is_main or not self._path.exists():
            return
        kept = [row for row in self.rows() if row["stage"] != stage or row["step"] <= step]
        files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Flushes the TensorBoard files."""
        if self._board is not None:
            self._board.close()


class Clock:
    """Steps a second and the time left.

    Args:
      total_steps: Where the count ends.
      first_step: Where it begins.
    """

    def __init__(self, total_steps: int, first_step: int = 0) -> None:
        self._total, self._first = total_steps, first_step
        self._start = self._last_line = time.monotonic()

    def start(self, step: int) -> None:
        """Counts from here on: the first step compiles and is no measure."""
        self._first, self._start = step, time.monotonic()

    def steps_per_second(self, step: int) -> float:
        """Mean rate since the start; 0 before the first step."""
        return (step - self._first) / max(time.monotonic() - self._start, 1e-9)

    def line_was_written(self) -> None:
        """The log has just said how far it is."""
        self._last_line = time.monotonic()

    def seconds_since_line(self) -> float:
        """How long the log has been silent."""
        return time.monotonic() - self._last_line

    def time_left(self, step: int) -> str:
        """As m:ss."""
        rate = self.steps_per_second(step)
        if rate <= 0:
            return "?"
        seconds = round((self._total - step) / rate)
        return f"{seconds // 60}:{seconds % 60:02d}"
