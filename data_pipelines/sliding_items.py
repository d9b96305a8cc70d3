"""Windows that slide over a long recording, and the label of each."""

from __future__ import annotations

import collections

import numpy as np

from data_pipelines import item_counts, windows
from data_pipelines.grid import Grid
from data_pipelines.recording import Recording
from data_pipelines.tasks import NOT_ANNOTATED, Task

LEAST_ANNOTATED = 0.5
"""Share of a window that has to be annotated."""

Window = tuple[float, np.ndarray, np.ndarray]  # its begin in seconds, its label, the label's mask
Counts = collections.Counter[tuple[str, str]]  # see item_counts.ItemCounts


def cut(recording: Recording, seconds: float, task: Task, grid: Grid) -> tuple[list[Window], Counts]:
    """All windows of a recording that get a label, and what became of each window.

    A window's label is that of all its annotated moments, or with ``grid.mixed="majority"`` the most frequent
    one. A label that is left out is a label: a window with some of it is mixed, and one that it is the label
    of is left out. At least `LEAST_ANNOTATED` of a window has to be annotated.

    Args:
      recording: The recording.
      seconds: Its length.
      task: The question.
      grid: A ``sliding`` grid.

    Returns:
      The windows in order of time, and the counts; a recording shorter than one window counts once.
    """
    starts = windows.sliding_starts(seconds, grid.window_seconds, grid.step_seconds)
    counts: Counts = collections.Counter()
    spans = _Spans(recording, grid)
    if task.is_classification:
        found = _of_classes(recording, starts, task, grid, spans, counts)
    else:
        found = _of_values(recording, starts, task, spans, counts)
    return found, counts


class _Spans:
    """Which rows of a recording's annotation lie in a window, and how many have to be annotated."""

    def __init__(self, recording: Recording, grid: Grid) -> None:
        self._times, self._seconds = recording.annotation.times_seconds, grid.window_seconds
        self.needed = 1.0
        if self._times is not None and len(self._times) > 1:
            spacing = float(np.median(np.diff(self._times)))
            self.needed = LEAST_ANNOTATED * grid.window_seconds / spacing
        elif self._times is not None:
            self.needed = LEAST_ANNOTATED

    def of(self, start: float) -> slice:
        """The rows of the window that begins there."""
        if self._times is None:
            return slice(0, 1)
        return slice(*np.searchsorted(self._times, [start, start + self._seconds]).tolist())


def _of_classes(
    recording: Recording, starts: np.ndarray, task: Task, grid: Grid, spans: _Spans, counts: Counts
) -> list[Window]:
    kinds, names = task.kinds(recording.annotation)
    if not len(starts):
        counts[item_counts.SHORTER_THAN_WINDOW, _most_frequent(kinds, names)] += 1
    found = []
    for start in starts:
        inside = kinds[spans.of(start)]
        known = inside[inside != NOT_ANNOTATED]
        name = _most_frequent(known, names)
        kind = names.index(name) if len(known) else NOT_ANNOTATED
        if not len(known):
            fate = item_counts.UNLABELLED
        elif len(known) < spans.needed:
            fate = item_counts.PARTLY_LABELLED
        elif grid.mixed == "drop" and np.any(known != known[0]):
            fate = item_counts.MIXED
        elif kind >= len(task.outputs):
            fate = item_counts.LEFT_OUT
        else:
            fate = item_counts.KEPT
            found.append((float(start), np.int32(kind), np.True_))
        counts[fate, name] += 1
    return found


def _of_values(
    recording: Recording, starts: np.ndarray, task: Task, spans: _Spans, counts: Counts
) -> list[Window]:
    values, mask = task.labels(recording.annotation)
    annotated = task.annotated(recording.annotation)
    if not len(starts):
        counts[item_counts.SHORTER_THAN_WINDOW, "values"] += 1
    found = []
    for start in starts:
        rows = spans.of(start)
        count = mask[rows].sum(0)
        if np.any(count >= spans.needed):
            mean = np.where(mask[rows], values[rows], 0).sum(0) / np.maximum(count, 1)
            found.append((float(start), mean.astype(np.float32), count >= spans.needed))
            fate = item_counts.KEPT
        elif np.any(annotated[rows].sum(0) >= spans.needed):
            fate = item_counts.LEFT_OUT
        else:
            fate = item_counts.PARTLY_LABELLED if annotated[rows].any() else item_counts.UNLABELLED
        counts[fate, "values"] += 1
    return found


def _most_frequent(kinds: np.ndarray, names: tuple[str, ...]) -> str:
    """The name of the most frequent label, the first of equally frequent ones."""
    known = kinds[kinds != NOT_ANNOTATED]
    if not len(known):
        return item_counts.NO_LABEL
    return names[int(np.argmax(np.bincount(known)))]
