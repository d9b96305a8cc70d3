"""Reads tables that come with wristband exports: labels by participant and time, and who is who."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.readers.e4_numbers import moment, number
from data_pipelines.readers.e4_places import Place
from data_pipelines.tasks import TASKS

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
    path: Path,
    columns: tuple[str, str, str],
    values: Mapping[str, float],
    added_seconds: float = 0.0,
    *,
    name: str = "",
) -> dict[str, Track]:
    """Reads a label table.

    Args:
      path: A CSV file that has the columns; commas, semicolons or tabs between cells, with the latter two
        also decimal commas.
      columns: Names of the columns of participant, moment (UNIX seconds, or a clock time with its zone) and
        label.
      values: Number of each label that is a word, in small letters.
      added_seconds: Added to each moment.
      name: What the label is called; messages say what its numbers mean in tasks.

    Returns:
      The labels of each participant.

    Raises:
      BadDataError: A line is cut off or not a number, or labels a second twice.
    """
    rows = _rows(path, columns)
    found: dict[str, list[tuple[float, float]]] = {}
    for line, (who, when, what) in rows:
        time = moment(when, path, line, columns[1]) + added_seconds
        text = what.strip().lower()
        if not text:
            label = math.nan
        elif text in values:
            label = values[text]
        else:
            advice = "" if _is_number(text) else _advice(text, values, rows, name)
            label = number(what, path, line, columns[2], advice)
        found.setdefault(who.strip(), []).append((time, label))
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
    if _separator(Place(str(path)), SUBJECT_COLUMNS) is None:
        raise BadDataError(f"{path} lacks one of the columns {', '.join(SUBJECT_COLUMNS)} in its first line")
    subjects: dict[str, str] = {}
    for line, cells in _rows(path, SUBJECT_COLUMNS):
        session, subject = cells[0].strip().replace("\\", "/").strip("/"), cells[1].strip()
        if not session or not subject:
            raise BadDataError(f"{path} line {line} lacks a session or a subject; mend the line")
        if subjects.setdefault(session, subject) != subject:
            raise BadDataError(
                f"{path} line {line}: session {session} is of {subject} and of {subjects[session]}; "
                "keep one of them"
            )
    return subjects


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Number of each line that is not blank, and its cells in these columns.

    In a table without commas between cells, a comma is a decimal one, but not in the first of these columns.
    """
    place = Place(str(path))
    separator = _separator(place, columns) or ","
    rows = csv.reader(place.lines(), delimiter=separator)
    try:
        names = [name.strip() for name in next(rows)]
        if twice := [column for column in columns if names.count(column) > 1]:
            raise BadDataError(f"{path} has the column {twice[0]} twice; rename one of them")
        places = [names.index(column) for column in columns]
        for row in rows:
            if not any(text.strip() for text in row):
                continue
            if len(row) != len(names):
                found = f"{len(row)} columns, expected {len(names)}"
                raise BadDataError(f"{path} line {rows.line_num} has {found}; mend the line")
            first, *others = (row[index] for index in places)
            if separator != ",":
                others = [cell.replace(",", ".") for cell in others]
            yield rows.line_num, [first, *others]
    except csv.Error as error:
        raise BadDataError(f"{path} line {rows.line_num} is no line of a table ({error})") from error


def _separator(place: Place, columns: Sequence[str]) -> str | None:
    """What stands between the cells, if the first line names all these columns; None if it does not."""
    first = next(place.lines(), "")
    for separator in _SEPARATORS:
        try:
            names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        except csv.Error:  # A line that is too long for names.
            return None
        if all(column in names for column in columns):
            return separator
    return None


def _advice(text: str, values: Mapping[str, float], later: Iterable[tuple[int, list[str]]], name: str) -> str:
    """What to do about a label that is a word: the option, with the words of the lines from there on."""
    others = (cells[2].strip().lower() for _, cells in later)
    found = dict.fromkeys([text, *(word for word in others if word and not _is_number(word))])
    known = [f"{word[:20]}={value:g}" for word, value in values.items()]
    asked = [f"{word[:20]}=NUMBER" for word in found if word not in values]
    listed = ",".join([*known, *asked][: max(6, len(known) + 1)])
    option = f"label_values={listed}"
    return f"give words their numbers by the option label_values, as in {option}{_meanings(name)}"


def _meanings(name: str) -> str:
    """What the numbers of the tasks about this label mean; none is guessed from words."""
    tasks = [task for task in TASKS.values() if task.columns == (name,)]
    listed = dict.fromkeys(
        f"{value} is {task.outputs[index]}" for task in tasks for value, index in sorted(task.classes.items())
    )
    return f" ({', '.join(listed)})" if listed else ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _track(pairs: list[tuple[float, float]], participant: str, path: Path) -> Track:
    values = np.asarray(sorted(pairs, key=lambda pair: pair[0]), np.float64)
    twice = np.flatnonzero(np.diff(values[:, 0]) <= 0)
    if len(twice):
        second = f"{values[twice[0], 0]:.0f}"
        raise BadDataError(
            f"{path} labels second {second} of participant {participant} twice; keep one line for it"
        )
    return values[:, 0], values[:, 1]
