"""Reads tables that come with wristband exports: labels by participant and time, and who is who."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.readers.e4_numbers import moment, number
from data_pipelines.readers.e4_places import Place

SUBJECT_COLUMNS = ("session", "subject")
_SEPARATORS = (",", ";", "\t")

Track = tuple[np.ndarray, np.ndarray]
"""Times (float64 [N], UNIX seconds, ascending) and labels (float64 [N], NaN where nobody annotated)."""


def label_numbers(text: str) -> dict[str, float]:
    """What words of a label column stand for, of ``"rest=0,stress=1"``; keys are in small letters.

    Raises:
      UsageError: It is no such list.
    """
    numbers: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        word, _, value = item.partition("=")
        try:
            numbers[word.strip().lower()] = float(value)
        except ValueError:
            raise UsageError(
                f"label_values={text!r}: {item!r} is not word=number; expected e.g. rest=0,stress=1"
            ) from None
    return numbers


def has_columns(path: Path, columns: tuple[str, ...]) -> bool:
    """True if the table's first line names all these columns."""
    try:
        return _separator(Place(str(path)), columns) is not None
    except BadDataError:
        return False


def read_labels(
    path: Path, columns: tuple[str, str, str], values: Mapping[str, float], added_seconds: float = 0.0
) -> dict[str, Track]:
    """Reads a label table.

    Args:
      path: A CSV file that has the columns; commas, semicolons or tabs between cells, with the latter two
        also decimal commas.
      columns: Names of the columns of participant, moment (UNIX seconds, or a clock time with its zone) and
        label.
      values: Number of each label that is a word, in small letters.
      added_seconds: Added to each moment.

    Returns:
      The labels of each participant.

    Raises:
      BadDataError: A line is cut off or not a number, or labels a second twice.
    """
    place = Place(str(path))
    separator = _separator(place, columns) or ","
    rows = csv.reader(place.lines(), delimiter=separator)
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
        if separator != ",":
            row = [cell.replace(",", ".") if index != who else cell for index, cell in enumerate(row)]
        time = moment(row[when], path, rows.line_num, columns[1]) + added_seconds
        label = _label(row[what].strip(), values, path, rows.line_num, columns[2])
        found.setdefault(row[who].strip(), []).append((time, label))
    return {participant: _track(pairs, participant, path) for participant, pairs in found.items()}


def read_subjects(path: Path) -> dict[str, str]:
    """Reads who is who: a CSV file with the columns ``session`` and ``subject``.

    Returns:
      Subject of each session; a session is its folder below the raw folder.

    Raises:
      BadDataError: The file or a column is missing, a line is cut off, or a session has two subjects.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not there"
        raise BadDataError(f"the table of subjects {path} {found}; expected a CSV file 'session,subject'")
    place = Place(str(path))
    separator = _separator(place, SUBJECT_COLUMNS)
    if separator is None:
        raise BadDataError(f"{path} lacks one of the columns {', '.join(SUBJECT_COLUMNS)} in its first line")
    rows = csv.reader(place.lines(), delimiter=separator)
    names = [name.strip() for name in next(rows)]
    session_at, subject_at = (names.index(column) for column in SUBJECT_COLUMNS)
    subjects: dict[str, str] = {}
    for row in rows:
        if not any(text.strip() for text in row):
            continue
        if len(row) != len(names) or not row[session_at].strip() or not row[subject_at].strip():
            raise BadDataError(f"{path} line {rows.line_num} lacks a session or a subject; mend the line")
        session, subject = row[session_at].strip().replace("\\", "/").strip("/"), row[subject_at].strip()
        if subjects.setdefault(session, subject) != subject:
            raise BadDataError(
                f"{path} line {rows.line_num}: session {session} is of {subject} and of {subjects[session]}; "
                "keep one of them"
            )
    return subjects


def _separator(place: Place, columns: tuple[str, ...]) -> str | None:
    """What stands between the cells, if the first line names all these columns; None if it does not."""
    first = next(place.lines(), "")
    for separator in _SEPARATORS:
        names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        if all(column in names for column in columns):
            return separator
    return None


def _label(text: str, values: Mapping[str, float], path: Path, line: int, column: str) -> float:
    if not text:
        return math.nan
    if text.lower() in values:
        return values[text.lower()]
    advice = f"give words their numbers by the option label_values, e.g. label_values={text[:20]}=1"
    return number(text, path, line, column, advice)


def _track(pairs: list[tuple[float, float]], participant: str, path: Path) -> Track:
    values = np.asarray(sorted(pairs, key=lambda pair: pair[0]), np.float64)
    twice = np.flatnonzero(np.diff(values[:, 0]) <= 0)
    if len(twice):
        second = f"{values[twice[0], 0]:.0f}"
        raise BadDataError(
            f"{path} labels second {second} of participant {participant} twice; keep one line for it"
        )
    return values[:, 0], values[:, 1]
