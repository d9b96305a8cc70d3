"""Reads the single files of a wristband export and its label table; errors name file, line and finding."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.errors import BadDataError

# No sample of any stream comes near, and every session since 1973 is beyond: tells a file without its header.
_EARLIEST_START_UNIX_SECONDS = 1e8


def read_header(path: str, rate_hz: float) -> tuple[float, float]:
    """Start (UNIX seconds) and rate (Hz), which is `rate_hz`, of one file.

    Raises:
      BadDataError: The file lacks one of the two lines, they are no start and rate, or the rate differs.
    """
    lines = list(itertools.islice(_lines(path), 2))
    if len(lines) < 2:
        found = "ends after one line" if lines else "is empty"
        raise BadDataError(f"{path} {found}; expected a start time, a rate and samples, one a line")
    numbers = []
    for number, (line, what) in enumerate(zip(lines, ("the start time", "the rate"), strict=True), 1):
        values = {_number(text, path, number, what) for text in line.split(",")}
        if len(values) != 1:
            raise BadDataError(f"{path} line {number}: {what} differs between the axes ({line.strip()[:60]})")
        numbers.append(values.pop())
    start, rate = numbers
    if start < _EARLIEST_START_UNIX_SECONDS:
        raise BadDataError(
            f"{path} has no header: its first lines are {start:g} and {rate:g}, "
            "expected a UNIX time and a rate in Hz; export the session again"
        )
    if rate != rate_hz:
        raise BadDataError(
            f"{path} runs at {rate:g} Hz, but the device writes {rate_hz:g} Hz; resample the file"
        )
    return start, rate


def read_samples(path: str, channels: int, count: int) -> Iterator[np.ndarray]:
    """The samples behind the header, float32 [count, channels] at a time; the last array may be shorter.

    Raises:
      BadDataError: A line holds text, NaN or another number of values, or is blank amid the samples.
    """
    lines = itertools.islice(_lines(path), 2, None)
    first_line = 3
    while block := list(itertools.islice(lines, count)):
        values = _parse(block, channels)
        if values is None:
            values = _parse_slowly(block, lines, channels, path, first_line)
        if len(values):
            yield values
        first_line += len(block)


def has_columns(path: Path, columns: tuple[str, ...]) -> bool:
    """True if the table's first line names all these columns."""
    try:
        first = next(_lines(path), "")
    except BadDataError:
        return False
    names = [name.strip() for name in next(csv.reader([first]), [])]
    return all(column in names for column in columns)


def read_labels(path: Path, columns: tuple[str, str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads a label table.

    Args:
      path: A CSV file that has the columns.
      columns: Names of the columns of participant, UNIX time and label.

    Returns:
      For each participant: times, float64 [N], UNIX seconds, ascending; labels, float64 [N], NaN where the
      cell is blank.

    Raises:
      BadDataError: A line is cut off or not a number, or labels a second twice.
    """
    rows = csv.reader(_lines(path))
    names = [name.strip() for name in next(rows)]
    who, when, what = (names.index(column) for column in columns)
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not any(text.strip() for text in row):
            continue
        if len(row) != len(names):
            raise BadDataError(
                f"{path} line {rows.line_num} has {len(row)} columns, expected {len(names)}; mend the line"
            )
        moment = _number(row[when], path, rows.line_num, columns[1])
        blank = not row[what].strip()
        label = math.nan if blank else _number(row[what], path, rows.line_num, columns[2])
        found.setdefault(row[who].strip(), []).append((moment, label))
    table = {}
    for participant, pairs in found.items():
        values = np.asarray(sorted(pairs, key=lambda pair: pair[0]), np.float64)
        twice = np.flatnonzero(np.diff(values[:, 0]) <= 0)
        if len(twice):
            second = f"{values[twice[0], 0]:.0f}"
            raise BadDataError(
                f"{path} labels second {second} of participant {participant} twice; keep one line for it"
            )
        table[participant] = values[:, 0], values[:, 1]
    return table


def _lines(path: str | Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise BadDataError(
            f"{path} is not a text file ({error.reason}); expected a CSV file, so export it again"
        ) from error


def _number(text: str, path: str | Path, line: int, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e30:  # Also catches NaN.
        raise BadDataError(
            f"{path} line {line}: {what} is {text.strip()[:40]!r}, expected a number; mend or remove the file"
        )
    return value


def _parse(block: list[str], channels: int) -> np.ndarray | None:
    """The numbers of these lines, float32 [len(block), channels]; None if anything is odd about them."""
    if any(line.count(",") != channels - 1 for line in block):
        return None
    try:
        values = np.asarray([float(text) for line in block for text in line.split(",")], np.float32)
    except ValueError:
        return None
    return values.reshape(-1, channels) if np.isfinite(values).all() else None


def _parse_slowly(
    block: list[str], later: Iterator[str], channels: int, path: str, first_line: int
) -> np.ndarray:
    """As `_parse`, for lines of which one is odd: says which, or drops the blank lines at the file's end."""
    rows: list[list[float]] = []
    for line, text in enumerate(block, first_line):
        if not text.strip():
            if any(other.strip() for other in itertools.chain(block[line - first_line :], later)):
                raise BadDataError(
                    f"{path} line {line} is blank in the midst of the samples; mend or remove the file"
                )
            break
        cells = text.split(",")
        if len(cells) != channels:
            raise BadDataError(
                f"{path} line {line} has {len(cells)} values, expected {channels}; "
                "is it cut off? Export the session again"
            )
        rows.append([_number(cell, path, line, "a sample") for cell in cells])
    return np.asarray(rows, np.float32).reshape(-1, channels)
