"""Tables of signals: read by column name, checked, and cut into chunks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.recording import MAX_CHUNK_SECONDS, Chunk


def read_column_names(path: str | os.PathLike[str], *, delimiter: str = "\t") -> tuple[str, ...]:
    """The names in a table's first line, without blanks and quotes.

    Raises:
      BadDataError: The file is missing or empty.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline()
    except FileNotFoundError:
        raise BadDataError(f"{path} is missing; expected a table of signals") from None
    if not line.strip():
        raise BadDataError(f"{path} is empty; expected a line of column names and rows of numbers")
    return tuple(_cell(name) for name in line.split(delimiter))


def read_columns(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    *,
    delimiter: str = "\t",
    minimum_rows: int = 1,
) -> np.ndarray:
    """Reads columns of a table by their names; other columns are not looked at.

    Args:
      path: The file: a line of names, then rows of numbers.
      columns: Names of the columns wanted, in the order wanted.
      delimiter: What separates the cells.
      minimum_rows: The file is damaged if it has fewer.

    Returns:
      float64 [T, C], all finite.

    Raises:
      BadDataError: The file is missing or empty, a column is missing or named twice, a cell is no finite
        number (the message has its line), or there are too few rows.
    """
    path = Path(path)
    names = read_column_names(path, delimiter=delimiter)
    positions = []
    for column in columns:
        if names.count(column) != 1:
            found = "no column" if column not in names else f"{names.count(column)} columns"
            raise BadDataError(
                f"{path} has {found} named {column!r}; expected one. Its columns are {', '.join(names)}"
            )
        positions.append(names.index(column))
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [line for line in file.read().splitlines()[1:] if line.strip()]
    if len(lines) < minimum_rows:
        raise BadDataError(
            f"{path} has {len(lines)} rows; expected at least {minimum_rows}: it is cut short, copy it again"
        )
    if not lines:
        return np.empty((0, len(positions)))
    try:
        values = np.loadtxt(lines, delimiter=delimiter, usecols=positions, ndmin=2, comments=None)
    except ValueError:
        values = None
    if values is None or not np.isfinite(values).all():
        raise _bad_cell(path, positions, names, delimiter)
    return values


def _cell(text: str) -> str:
    return text.strip().strip("\"'").strip()


def _bad_cell(path: Path, positions: Sequence[int], names: Sequence[str], delimiter: str) -> BadDataError:
    """Finds the first cell that is no finite number, for the sentence."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file.read().splitlines(), start=1):
            if number == 1 or not line.strip():
                continue
            cells = line.split(delimiter)
            for position in positions:
                if position >= len(cells):
                    return BadDataError(
                        f"{path}, line {number}: {len(cells)} cells, none for {names[position]!r}; "
                        "the row is cut short, copy the file again"
                    )
                try:
                    good = math.isfinite(float(cells[position]))
                except ValueError:
                    good = False
                if not good:
                    return BadDataError(
                        f"{path}, line {number}, column {names[position]!r}: "
                        f"{cells[position].strip()[:40]!r} is not a finite number; mend or remove the file"
                    )
    return BadDataError(f"{path} holds cells that are not plain numbers; expected numbers such as 0.25")


def check_times(
    path: str | os.PathLike[str],
    times_seconds: np.ndarray,
    *,
    rate_hz: float,
    tolerance: float = 0.05,
) -> None:
    """Checks the time column of a table of regular samples, some of which may be missing.

    Args:
      path: For the message; line 2 is taken as the first row.
      times_seconds: [T].
      rate_hz: The rate that the rows should have.
      tolerance: Largest relative deviation of their usual rate from it.

    Raises:
      BadDataError: The times do not ascend strictly, the rows have another rate, or more of them are missing
        than are there.
    """
    if len(times_seconds) < 2:
        return
    steps = np.diff(times_seconds)
    wrong = np.flatnonzero(steps <= 0)
    if len(wrong):
        raise BadDataError(
            f"{path}, line {wrong[0] + 3}: the time {times_seconds[wrong[0] + 1]:.6f} s does not come after "
            f"{times_seconds[wrong[0]]:.6f} s; times must ascend: sort the rows, or copy the file again"
        )
    # The mean would take missing rows for a lower rate.
    measured = 1.0 / float(np.median(steps))
    if not abs(measured / rate_hz - 1.0) <= tolerance:
        raise BadDataError(
            f"{path} has {measured:.6g} rows a second by its time column; expected {rate_hz:g}: "
            "it was sampled at another rate, or many rows are missing"
        )
    promised = float(times_seconds[-1] - times_seconds[0]) * rate_hz + 1
    if promised > 2 * len(times_seconds):
        raise BadDataError(
            f"{path} has {len(times_seconds)} rows of the {promised:.0f} that its time column spans; "
            "expected at least half of them: copy it again"
        )


def place_rows(times_seconds: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Where the rows of a table belong in a regular signal by their own times: missing ones leave gaps.

    Rows that follow each other stay so, even where the clock of the table drifts a little against the rate.

    Args:
      times_seconds: [T], checked by `check_times`.
      rate_hz: The rate of the signal.

    Returns:
      int64 [T], strictly ascending, from 0.
    """
    steps = np.maximum(np.rint(np.diff(times_seconds, prepend=times_seconds[:1]) * rate_hz), 1)
    steps[:1] = 0
    return np.cumsum(steps).astype(np.int64)


def fill_gaps(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A signal with NaN where rows are missing: float32 [rows[-1] + 1, C] of values [T, C] at `rows`."""
    filled = np.full((int(rows[-1]) + 1 if len(rows) else 0, values.shape[1]), np.nan, np.float32)
    filled[rows] = values
    return filled


def signal_chunks(
    values: np.ndarray,
    *,
    stream: str,
    source: str,
    rate_hz: float,
    start_seconds: float = 0.0,
    left_out: tuple[str, ...] = (),
) -> Iterator[Chunk]:
    """Cuts a regular signal into chunks of at most 10 s.

    Args:
      values: [T, C], in the stream's dtype (float32 with NaN for missing samples, or int16).
      stream: The stream's name.
      source: The source's id.
      rate_hz: Samples a second.
      start_seconds: Time of the first sample.
      left_out: What the chunks lack, a sentence each; it goes with the first of them.

    Yields:
      At least one chunk, in time order; only the last may be shorter than the rest.
    """
    per_chunk = max(1, math.floor(MAX_CHUNK_SECONDS * rate_hz + 1e-9))
    for index, first in enumerate(range(0, max(len(values), 1), per_chunk)):
        yield Chunk(
            stream,
            source,
            index,
            np.array([start_seconds + first / rate_hz], np.float64),
            rate_hz=rate_hz,
            values=np.ascontiguousarray(values[first : first + per_chunk]),
            left_out=left_out if not index else (),
        )
