"""The items of a data set: one entry of a batch each, with its labels.

An item is a moment range of one recording: the whole clip, or one of the sliding windows of a long
recording. The token grid divides it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import windows
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.recording import Recording
from data_pipelines.source import PreparedSet
from data_pipelines.tasks import Task


@dataclasses.dataclass(frozen=True)
class Grid:
    """How recordings become items and items tokens.

    Attributes:
      kind: ``clip`` (one item a recording) or ``sliding`` (windows of a long recording).
      tokens: S.
      window_seconds, step_seconds: Of the sliding windows.
      mixed: What to do with a sliding window that has more than one label: ``drop`` it, or give it the
        ``majority`` label.
    """

    kind: str = "clip"
    tokens: int = 1
    window_seconds: float = 0.0
    step_seconds: float = 0.0
    mixed: str = "drop"

    def __post_init__(self) -> None:
        if self.kind not in ("clip", "sliding"):
            raise UsageError(f"grid.kind={self.kind!r} is unknown; it is clip or sliding")
        if self.mixed not in ("drop", "majority"):
            raise UsageError(f"grid.mixed={self.mixed!r} is unknown; it is drop or majority")
        if self.tokens < 1:
            raise UsageError(f"grid.tokens={self.tokens} is too small; a grid has at least one token")
        if self.kind == "sliding" and not (self.window_seconds > 0 and self.step_seconds > 0):
            raise UsageError("a sliding grid needs a positive window_seconds and step_seconds")


@dataclasses.dataclass(frozen=True)
class ItemTable:
    """All items of a data set for one task; arrays of length N.

    Attributes:
      recordings: The recordings that ``recording`` points into.
      recording: int32 [N].
      start_seconds: float64 [N], where the item begins.
      labels: int32 [N] (classification), float32 [N, A] (regression) or float32 [N, S, A] (of every token).
      label_mask: bool, of the labels' shape.
      token_frames: int32 [N, S] where every token is about a frame of its own: the row of the recording's
        annotation (which then has one row for every frame, unannotated ones masked), from 0; -1 for padding.
        None where a label is of the whole item.
    """

    recordings: Sequence[Recording]
    recording: np.ndarray
    start_seconds: np.ndarray
    labels: np.ndarray
    label_mask: np.ndarray
    token_frames: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.recording)

    @property
    def subjects(self) -> np.ndarray:
        """Who each item is of, str [N]."""
        return np.array([self.recordings[i].subject for i in self.recording], dtype=str)

    @property
    def ids(self) -> np.ndarray:
        """One readable name an item: the recording's id, with the start time where it has several."""
        names = [self.recordings[i].id for i in self.recording]
        if len(set(names)) < len(names):
            names = [f"{name}@{start:g}s" for name, start in zip(names, self.start_seconds, strict=True)]
        return np.array(names, dtype=str)


def make_items(prepared: PreparedSet, task: Task, grid: Grid) -> ItemTable:
    """Cuts all recordings of a prepared set into items and labels them.

    Raises:
      BadDataError: No item is left for the task.
    """
    recording_index, starts, labels, masks = [], [], [], []
    for i, recording in enumerate(prepared.recordings):
        values, mask = task.labels(recording.annotation)
        if grid.kind == "clip":
            found = [(0.0, values[0], mask[0])] if np.any(mask[0]) else []
        else:
            found = _sliding_items(prepared, recording, values, mask, task, grid)
        for start, label, label_mask in found:
            recording_index.append(i)
            starts.append(start)
            labels.append(label)
            masks.append(label_mask)
    if not recording_index:
        raise BadDataError(
            f"none of the {len(prepared.recordings)} recordings in {prepared.path} has a label that task "
            f"{task.name!r} uses; choose another --config.data.task or prepare all classes"
        )
    return ItemTable(
        recordings=prepared.recordings,
        recording=np.array(recording_index, np.int32),
        start_seconds=np.array(starts, np.float64),
        labels=np.stack(labels),
        label_mask=np.stack(masks),
    )


def duration_seconds(prepared: PreparedSet, recording: Recording) -> float:
    """Length of what all sampled streams of a recording cover together, in seconds."""
    ends = []
    for stream, source in recording.sources.items():
        table = prepared.table(stream)
        last = table.rows_of(source)[-1]
        if table.rate_hz[last] > 0:
            ends.append(table.start_seconds[last] + table.length[last] / table.rate_hz[last])
        else:
            ends.append(table.times_seconds[table.offsets[last + 1] - 1])
    return float(min(ends))


def _sliding_items(
    prepared: PreparedSet, recording: Recording, values: np.ndarray, mask: np.ndarray, task: Task, grid: Grid
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Windows of one recording with at least half of their seconds annotated."""
    times = recording.annotation.times_seconds
    starts = windows.sliding_starts(
        duration_seconds(prepared, recording), grid.window_seconds, grid.step_seconds
    )
    if times is None:
        return [(float(start), values[0], mask[0]) for start in starts if np.any(mask[0])]
    spacing = float(np.median(np.diff(times))) if len(times) > 1 else grid.window_seconds
    needed = 0.5 * grid.window_seconds / spacing
    items = []
    for start in starts:
        first, last = np.searchsorted(times, [start, start + grid.window_seconds])
        inside, known = values[first:last], mask[first:last]
        if task.is_classification:
            inside = inside[known]
            if len(inside) < needed:
                continue
            classes, counts = np.unique(inside, return_counts=True)
            if len(classes) > 1 and grid.mixed == "drop":
                continue
            items.append((float(start), classes[np.argmax(counts)], np.True_))
        else:
            count = known.sum(0)
            mean = np.where(known, inside, 0).sum(0) / np.maximum(count, 1)
            if np.any(count >= needed):
                items.append((float(start), mean.astype(np.float32), count >= needed))
    return items
