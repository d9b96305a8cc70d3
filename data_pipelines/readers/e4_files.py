"""Reads the single files of a wristband export; errors name file, line and finding."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator

import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.readers.e4_numbers import moment, number, split_cells
from data_pipelines.readers.e4_places import Place

# No sample of any stream comes near, and every session since 1973 is beyond: tells a file without its header.
_EARLIEST_START_UNIX_SECONDS = 1e8


@dataclasses.dataclass(frozen=True)
class Extent:
    """When a file's samples were taken.

    Attributes:
      start: UNIX time of the first sample, in seconds.
      samples: Their number, by the lines of the file.
      rate_hz: Samples a second.
    """

    start: float
    samples: int
    rate_hz: float

    @property
    def seconds(self) -> float:
        """How long they last."""
        return self.samples / self.rate_hz

    @property
    def end(self) -> float:
        """UNIX time at which they end, in seconds."""
        return self.start + self.seconds


def read_header(place: Place, rate_hz: float, channels: int) -> float:
    """Start (UNIX seconds) of one file, whose rate has to be `rate_hz`.

    Raises:
      BadDataError: The file lacks one of the two lines, they are no start and rate, or the rate differs.
    """
    lines = list(itertools.islice(place.lines(), 2))
    if len(lines) < 2:
        found = "ends after one line" if lines else "is empty"
        raise BadDataError(f"{place} {found}; expected a start time, a rate and samples, one a line")
    starts, rates = (split_cells(line, channels) for line in lines)
    start = _one([moment(cell, place, 1, "the start time") for cell in starts], place, lines, 1)
    rate = _one([number(cell, place, 2, "the rate") for cell in rates], place, lines, 2)
    if start < _EARLIEST_START_UNIX_SECONDS:
        raise BadDataError(
            f"{place} has no header: its first lines are {start:g} and {rate:g}, "
            "expected a UNIX time and a rate in Hz; export the session again"
        )
    if rate != rate_hz:
        raise BadDataError(
            f"{place} runs at {rate:g} Hz, but the device writes {rate_hz:g} Hz; resample the file"
        )
    return start


def _one(values: list[float], place: Place, lines: list[str], line: int) -> float:
    """The number that the axes agree on."""
    if len(set(values)) != 1:
        what = ("the start time", "the rate")[line - 1]
        text = lines[line - 1].strip()[:60]
        raise BadDataError(f"{place} line {line}: {what} differs between the axes ({text})")
    return values[0]


def measure(place: Place, rate_hz: float, channels: int) -> Extent | None:
    """When a file's samples were taken; None if its header cannot be read, which its decoding reports."""
    status = os.stat(place.path)
    return _measure(place, rate_hz, channels, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _measure(place: Place, rate_hz: float, channels: int, size: int, modified_ns: int) -> Extent | None:
    try:
        start = read_header(place, rate_hz, channels)
        with place.open() as file:
            lines = file.read().rstrip(b"\0\r\n\t ;,").count(b"\n") + 1
    except BadDataError:
        return None
    return Extent(start, max(0, lines - 2), rate_hz)


def read_samples(place: Place, channels: int, count: int) -> Iterator[np.ndarray]:
    """The samples behind the header, float32 [count, channels] at a time; the last array may be shorter.

    Raises:
      BadDataError: A line holds text, NaN or another number of values, or is blank amid the samples.
    """
    lines = itertools.islice(place.lines(), 2, None)
    first_line = 3
    while block := list(itertools.islice(lines, count)):
        values = _parse(block, channels)
        if values is None:
            values = _parse_slowly(block, lines, channels, place, first_line)
        if len(values):
            yield values
        first_line += len(block)


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
    block: list[str], later: Iterator[str], channels: int, place: Place, first_line: int
) -> np.ndarray:
    """As `_parse`, for lines of which one is odd: says which, or drops the blank lines at the file's end."""
    rows: list[list[float]] = []
    for line, text in enumerate(block, first_line):
        if not text.strip():
            if any(other.strip() for other in itertools.chain(block[line - first_line :], later)):
                raise BadDataError(
                    f"{place} line {line} is blank in the midst of the samples; mend or remove the file"
                )
            break
        cells = split_cells(text, channels)
        if len(cells) != channels:
            raise BadDataError(
                f"{place} line {line} has {len(cells)} values, expected {channels}; "
                "is it cut off? Export the session again"
            )
        rows.append([number(cell, place, line, "a sample") for cell in cells])
    return np.asarray(rows, np.float32).reshape(-1, channels)
