"""How far a long job is: a bar on a terminal, now and then a plain line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

import tqdm

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Shows progress on stderr; a context manager.

    Args:
      total: How much there is to do.
      label: What is being done, e.g. "decoding".
      unit: What is counted, in the plural, e.g. "sources".
      done: How much was there from the start; it counts as done but not towards the rate.
      file: Where to, if not to stderr.

    Attributes:
      on_advance: Called whenever something more is done, in this process, by any of them.
    """

    on_advance: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self, total: int, label: str, unit: str, *, done: int = 0, file: TextIO | None = None
    ) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = self._first = done
        self._file = file or sys.stderr
        self._bar: tqdm.tqdm | None = None

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        if self._file.isatty():
            self._bar = tqdm.tqdm(
                total=self._total,
                initial=self._first,
                desc=self._label,
                unit=f" {self._unit}",
                file=self._file,
                dynamic_ncols=True,
                smoothing=0.05,
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._first:
            self._write_line()

    def advance(self, amount: int = 1) -> None:
        """Says that `amount` more is done."""
        self._done += amount
        Progress.on_advance()
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._last_line >= LINE_EVERY_SECONDS and self._done < self._total:
            self._write_line()

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._start
        rate = (self._done - self._first) / max(seconds, 1e-9)
        line = f"{self._label}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s"
        if self._done < self._total and rate:
            line += f", {format_seconds((self._total - self._done) / rate)} left"
        else:
            line += f", {format_seconds(seconds)}"
        print(line, file=self._file, flush=True)


def format_seconds(seconds: float) -> str:
    """A duration as one reads it: ``42 s``, ``3 min 20 s``, ``5 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
