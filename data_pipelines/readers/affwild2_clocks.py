"""When the frames of an Affwild2 recording are: by its video, or by a table of frame rates instead."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.media.frame_times import FrameTimes

_HEADER = "video,rate_hz"
_MIN_RATE_HZ, _MAX_RATE_HZ = 1.0, 1000.0


def read_frame_rates(path: Path) -> dict[str, float]:
    """Reads a table of frame rates, for videos that are not in a copy.

    Args:
      path: CSV with the header ``video,rate_hz`` and a line a video: its name without an ending, frames a
        second (the steady rate of the whole video).

    Raises:
      BadDataError: It is missing, or a line is none of these; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise BadDataError(
            f"the table of frame rates {path} cannot be read ({error.strerror}); expected a file with the "
            f"header {_HEADER}"
        ) from None
    rates: dict[str, float] = {}
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if number == 1 and ",".join(cells).lower() == _HEADER or not any(cells):
            continue
        try:
            rate_hz = float(cells[1]) if number > 1 and len(cells) == 2 else math.nan
        except ValueError:
            rate_hz = math.nan
        if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ or cells[0] in rates:
            raise BadDataError(
                f"{path}, line {number}: {','.join(row)[:60]!r}; expected the header {_HEADER}, then each "
                f"video once with {_MIN_RATE_HZ:g} to {_MAX_RATE_HZ:g} frames a second, e.g. 105,29.97"
            )
        rates[cells[0]] = rate_hz
    return rates


def frame_seconds(clock: FrameTimes | float, first: int, last: int) -> np.ndarray:
    """Times of the frames with these numbers, from 1; float64 [last - first + 1].

    Args:
      clock: The video's, beyond whose end times go on at its mean rate; or a steady rate in frames a second.
      first, last: Numbers of the frames.

    Raises:
      BadDataError: Times beyond the end of a video that has one frame only: it has no rate.
    """
    numbers = np.arange(first, last + 1)
    if not isinstance(clock, FrameTimes):
        return (numbers - 1) / clock
    times = clock.times_seconds
    count = len(times)
    if last > count == 1:
        raise BadDataError(f"its video has one frame, but there are {last} of it in annotation or face crops")
    interval = 1 / clock.rate_hz if count > 1 else 0.0
    beyond = times[-1] + (numbers - count) * interval
    return np.where(numbers <= count, times[np.minimum(numbers, count) - 1], beyond)


def clock_of(
    video: str, clocks: Mapping[str, FrameTimes | str], rates_hz: Mapping[str, float]
) -> FrameTimes | float:
    """The clock of a video that was read, else its rate by the table.

    Args:
      video: Its name.
      clocks: Of each video that is there, or why it cannot be read.
      rates_hz: Frames a second of videos that are not there.

    Raises:
      BadDataError: It cannot be read, or there is neither it nor a rate: nothing tells when its frames are.
    """
    clock = clocks.get(video, rates_hz.get(video))
    if isinstance(clock, str):
        raise BadDataError(clock)
    if clock is None:
        raise BadDataError(
            f"its video is missing: without {video}.mp4 (or .avi, .mkv, .mov, ...) nothing tells when its "
            "frames are; copy it from the release, or give its frame rate in a table, frame_rates=FILE"
        )
    return clock
