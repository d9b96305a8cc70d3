"""What a run says: readable lines, ``metrics.jsonl``, and TensorBoard files where the extra is installed."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import jax

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
        handlers.append(logging.FileHandler(workdir / "log.txt"))
    # What Orbax finds wrong in the background it raises as well, and `Checkpoints` says it in one line.
    logging.getLogger("absl").addFilter(_is_no_traceback_of_orbax)
    for old in list(LOGGER.handlers):
        LOGGER.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        LOGGER.addHandler(handler)


def _is_no_traceback_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


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
