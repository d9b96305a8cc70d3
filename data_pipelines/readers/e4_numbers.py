"""Numbers and moments as programs write them: decimal commas, semicolons, clock times with a zone."""

from __future__ import annotations

import datetime
import math
import re

from data_pipelines.errors import BadDataError

_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)$", re.IGNORECASE)
_CLOCK = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|\d{1,2}:\d\d")
# Later than any session in seconds, earlier than any in milliseconds.
_LATEST_UNIX_SECONDS = 1e11


def split_cells(line: str, channels: int) -> list[str]:
    """The cells of a line of samples, with decimal points.

    Cells are apart by semicolons or tabs, and a comma is then a decimal one; or by commas. A single channel
    needs nothing between cells, so that one comma on a line without a point is a decimal one.
    """
    for separator in (";", "\t"):
        if separator in line:
            # Programs that write tables fill short lines up.
            filled = line.rstrip("\r\n").rstrip(separator)
            return [cell.replace(",", ".") for cell in filled.split(separator)]
    if channels == 1 and line.count(",") == 1 and "." not in line:
        return [line.replace(",", ".")]
    return line.split(",")


def number(text: str, place: object, line: int, what: str, advice: str = "mend or remove the file") -> float:
    """The number in a cell.

    Raises:
      BadDataError: There is none; the message has the file, the line and what stands there.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e30:  # Also catches NaN.
        raise BadDataError(
            f"{place} line {line}: {what} is {text.strip()[:40]!r}, expected a number; {advice}"
        )
    return value


def moment(text: str, place: object, line: int, what: str) -> float:
    """UNIX seconds of a cell: a number, or a date and a clock time with its zone (ISO 8601).

    Raises:
      BadDataError: It is neither, lacks the zone, or counts milliseconds.
    """
    text = text.strip()
    if not _CLOCK.search(text):
        value = number(text, place, line, what)
        if abs(value) >= _LATEST_UNIX_SECONDS:
            raise BadDataError(
                f"{place} line {line}: {what} is {text[:40]!r}, too late for UNIX seconds; divide "
                "milliseconds by 1000 and microseconds by 1000000"
            )
        return value
    zoned = re.sub(r"\s*(?:UTC|GMT|Z)$", "+00:00", text, flags=re.IGNORECASE)
    zoned = re.sub(r"\s+(?=[+-]\d\d:?\d\d$)", "", zoned)
    if not _ZONE.search(zoned):
        raise BadDataError(
            f"{place} line {line}: {what} is {text[:40]!r}, a clock time without its zone; write the zone, "
            "e.g. 2022-02-07T10:52:54+01:00, or UNIX seconds"
        )
    try:
        return datetime.datetime.fromisoformat(zoned).timestamp()
    except ValueError:
        raise BadDataError(
            f"{place} line {line}: {what} is {text[:40]!r}; expected UNIX seconds, or a clock time such as "
            "2022-02-07T10:52:54+01:00"
        ) from None
