"""Whether a person's labels and wristband sessions lie on one clock, and how long the streams are."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.readers.e4_files import Extent

# A session is one wearing of the band: its streams start within seconds.
_MAX_START_SPREAD_SECONDS = 3600.0
_SHORT_SHARE = 0.5
# Labels are given for whole seconds, streams stop within a second or so of each other.
_SLACK_SECONDS = 2.0
_MOST_OUTSIDE = 0.1
_EARLIEST_UNIX_SECONDS = 1e8
# Zones are whole quarters of an hour, at most 14 hours, from UTC.
_QUARTER_SECONDS, _MOST_QUARTERS = 900, 56


@dataclasses.dataclass(frozen=True)
class Span:
    """When a session was, in UNIX seconds: from the start of its first stream to the end of its last."""

    begin: float
    end: float

    def holds(self, times: np.ndarray) -> np.ndarray:
        """Which of these moments lie in it, bool [N]."""
        return (times >= self.begin - _SLACK_SECONDS) & (times <= self.end + _SLACK_SECONDS)


def span_of(extents: Mapping[str, Extent]) -> Span | None:
    """When a session was; None if no header could be read."""
    if not extents:
        return None
    return Span(min(e.start for e in extents.values()), max(e.end for e in extents.values()))


def spread_problem(extents: Mapping[str, Extent]) -> str:
    """Why these streams are not of one session; "" if they may be."""
    starts = [extent.start for extent in extents.values()]
    spread = max(starts) - min(starts) if starts else 0.0
    if spread > _MAX_START_SPREAD_SECONDS:
        return f"its streams start {spread:.0f} s apart, so they are not of one session"
    return ""


def short_streams(extents: Mapping[str, Extent]) -> str:
    """Which streams last less than half as long as the longest, in words; "" if none does."""
    longest = max((extent.seconds for extent in extents.values()), default=0.0)
    short = [
        f"{stream} lasts {extent.seconds:.4g} s"
        for stream, extent in extents.items()
        if extent.seconds < _SHORT_SHARE * longest
    ]
    return f"{' and '.join(short)} beside {longest:.0f} s of the longest stream" if short else ""


def share_outside(times: np.ndarray, spans: Sequence[Span]) -> float:
    """Share of these moments, [N] UNIX seconds, that lie in none of the sessions."""
    return 1.0 - float(np.any([span.holds(times) for span in spans], axis=0).mean())


def label_problem(times: np.ndarray, spans: Sequence[Span], added_seconds: float = 0.0) -> str:
    """Why labels at these moments cannot belong to these sessions; "" if they can.

    They cannot if all lie outside, or if more than a tenth do and another time zone would bring all inside.

    Args:
      times: UNIX seconds of the labels, float64 [N], ascending.
      spans: When the sessions were.
      added_seconds: What has been added to the label table's own times.
    """
    outside = share_outside(times, spans)
    if outside <= _MOST_OUTSIDE:
        return ""
    offset = _zone_offset(times, spans)
    if outside < 1.0 and offset is None:
        return ""
    if times[-1] < _EARLIEST_UNIX_SECONDS:
        where = f"{times[0]:g} to {times[-1]:g}"
        return f"its labels are at {where}, which are no UNIX seconds; add the start to them"
    begin, end = min(span.begin for span in spans), max(span.end for span in spans)
    if times[-1] < begin:
        where = f"its labels end {_words(begin - times[-1])} before the recording starts"
    elif times[0] > end:
        where = f"its labels begin {_words(times[0] - end)} after the recording ends"
    else:
        where = f"{outside:.0%} of its labels lie outside the recording"
    text = (
        f"{where} (labels from {_clock(times[0])} to {_clock(times[-1])}, recording from {_clock(begin)} to "
        f"{_clock(end)} UTC): they are not on one clock"
    )
    if offset is None:
        return text
    return (
        f"{text}. Moved by {'-' if offset < 0 else '+'}{_words(abs(offset))} all lie inside: another time "
        f"zone? If so, label_offset_seconds={offset + added_seconds:g}"
    )


def labels_outside(times: np.ndarray, spans: Sequence[Span]) -> str:
    """How many labels lie outside, in words, if they are more than a tenth; else ""."""
    outside = share_outside(times, spans)
    if outside <= _MOST_OUTSIDE:
        return ""
    return f"{outside:.0%} of the labels ({round(outside * len(times))}) lie outside the recording"


def _zone_offset(times: np.ndarray, spans: Sequence[Span]) -> int | None:
    """The smallest shift between time zones, whole hours first, that brings the labels inside."""
    quarters = sorted(range(1, _MOST_QUARTERS + 1), key=lambda n: (n % 4 != 0, n))
    for offset in (sign * n * _QUARTER_SECONDS for n in quarters for sign in (1, -1)):
        if share_outside(times + offset, spans) <= 0.01:
            return offset
    return None


def _words(seconds: float) -> str:
    """A duration as h:mm:ss, or in days."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.1f} days"
    return str(datetime.timedelta(seconds=round(seconds)))


def _clock(unix_seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
