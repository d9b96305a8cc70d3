"""The items of a data set: one entry of a batch each, with its labels.

An item is a moment range of one recording: the whole clip, or one of the sliding windows of a long
recording. The token grid divides it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import item_counts, windows
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.item_counts import ItemCounts
from data_pipelines.recording import Recording
from data_pipelines.source import PreparedSet
from data_pipelines.tasks import Task, check_labels


@dataclasses.dataclass(frozen=True)
class Grid:
    """How recordings become items and items tokens.

    Attributes:
      kind: ``clip`` (one item a recording), ``sliding`` (windows of a long recording) or ``frames`` (every
        frame is the target of a token; see `data_pipelines.frame_items`).
      tokens: S.
      window_seconds, step_seconds: Of the sliding windows.
      mixed: What to do with a sliding window that has more than one label: ``drop`` it, or give it the
        ``majority`` label.
      token_step_frames: Between the targets of two tokens of a ``frames`` grid.
      schedule: Of a ``frames`` grid: ``every_frame``, or ``paper``, the reference's.
      label_shift_seconds: Of a ``frames`` grid: how much later than a frame the label is taken that training
        sees for it: annotators react late. Predictions are moved by as much before they are written and
        scored, on the frames' own annotation.
    """

    kind: str = "clip"
    tokens: int = 1
    window_seconds: float = 0.0
    step_seconds: float = 0.0
    mixed: str = "drop"
    token_step_frames: int = windows.PAPER_STEP_FRAMES
    schedule: str = "every_frame"
    label_shift_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("clip", "sliding", "frames"):
            raise UsageError(f"grid.kind={self.kind!r} is unknown; it is clip, sliding or frames")
        if self.mixed not in ("drop", "majority"):
            raise UsageError(f"grid.mixed={self.mixed!r} is unknown; it is drop or majority")
        if self.tokens < 1:
            raise UsageError(f"grid.tokens={self.tokens} is too small; a grid has at least one token")
        if self.kind == "sliding" and not (self.window_seconds > 0 and self.step_seconds > 0):
            raise UsageError("a sliding grid needs a positive window_seconds and step_seconds")
        if self.label_shift_seconds and self.kind != "frames":
            raise UsageError(
                f"grid.label_shift_seconds={self.label_shift_seconds:g} moves the labels of a frames grid; "
                f"set it to 0 with grid.kind={self.kind!r}"
            )
        if self.schedule not in ("every_frame", "paper"):
            raise UsageError(f"grid.schedule={self.schedule!r} is unknown; it is every_frame or paper")
        if self.token_step_frames < 1 or self.label_shift_seconds < 0:
            raise UsageError(
                f"grid.token_step_frames={self.token_step_frames} and label_shift_seconds="
                f"{self.label_shift_seconds:g}; expected at least 1 and at least 0"
            )
        paper = (windows.PAPER_TOKENS, windows.PAPER_STEP_FRAMES)
        if self.schedule == "paper" and (self.tokens, self.token_step_frames) != paper:
            raise UsageError(
                f"grid.schedule='paper' has {paper[0]} tokens {paper[1]} frames apart, not {self.tokens} "
                f"and {self.token_step_frames}; set both so, or choose every_frame"
            )

    @property
    def block_frames(self) -> int:
        """Frames of a block of a ``frames`` grid: as many sequences as a step has frames share its frames."""
        return self.tokens * self.token_step_frames


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
      targets: int32 [N, S] beside ``token_frames``: the row that a token's streams look back from. The same
        but where it lies past the recording's end (the paper's schedule has such tokens); -1 for padding.
      block: int64 [N] beside ``token_frames``: items with the same number look at the same frames, and are
        cheap to load together.
      counts: What became of every item, those that were dropped too.
    """

    recordings: Sequence[Recording]
    recording: np.ndarray
    start_seconds: np.ndarray
    labels: np.ndarray
    label_mask: np.ndarray
    token_frames: np.ndarray | None = None
    targets: np.ndarray | None = None
    block: np.ndarray | None = None
    counts: ItemCounts | None = None

    def __len__(self) -> int:
        return len(self.recording)

    @property
    def subjects(self) -> np.ndarray:
        """Who each item is of, str [N]."""
        return np.array([self.recordings[i].subject for i in self.recording], dtype=str)

    def describe(self, row: int) -> dict[str, str | float]:
        """Which item a row is, for people: recording, subject and where it begins."""
        recording = self.recordings[self.recording[row]]
        start = float(self.start_seconds[row])
        return {"recording": recording.id, "subject": recording.subject, "start_seconds": start}

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
      BadDataError: The task does not know a label (`tasks.check_labels`), or no item is left for it.
      UsageError: A ``frames`` grid, but the task is none of values that every frame has.
    """
    # Here, because those modules make the tables of this one.
    from data_pipelines import frame_items, sliding_items

    check_labels(task, prepared.recordings)
    if grid.kind == "frames":
        return frame_items.make_frame_items(prepared, task, grid)
    recording_index, starts, labels, masks = [], [], [], []
    counts = {}
    for i, recording in enumerate(prepared.recordings):
        if grid.kind == "clip":
            found, counts[i] = _clip(recording, task)
        else:
            seconds = duration_seconds(prepared, recording)
            found, counts[i] = sliding_items.cut(recording, seconds, task, grid)
        for start, label, label_mask in found:
            recording_index.append(i)
            starts.append(start)
            labels.append(label)
            masks.append(label_mask)
    unit = "clip" if grid.kind == "clip" else "window"
    table = ItemCounts(unit, counts)
    if not recording_index:
        raise BadDataError(
            f"none of the {len(prepared.recordings)} recordings in {prepared.path} has a label that task "
            f"{task.name!r} uses ({item_counts.sentence(table.of(counts), unit)}); choose another "
            "--config.data.task or prepare all classes"
        )
    return ItemTable(
        recordings=prepared.recordings,
        recording=np.array(recording_index, np.int32),
        start_seconds=np.array(starts, np.float64),
        labels=np.stack(labels),
        label_mask=np.stack(masks),
        counts=table,
    )


def _clip(
    recording: Recording, task: Task
) -> tuple[list[tuple[float, np.ndarray, np.ndarray]], dict[tuple[str, str], int]]:
    """The item of a clip, if it has a label, and what became of it."""
    values, mask = task.labels(recording.annotation)
    name = "values"
    if task.is_classification:
        kinds, names = task.kinds(recording.annotation)
        name = names[kinds[0]] if kinds[0] >= 0 else item_counts.NO_LABEL
    if np.any(mask[0]):
        return [(0.0, values[0], mask[0])], {(item_counts.KEPT, name): 1}
    annotated = task.annotated(recording.annotation)[0].any()
    return [], {(item_counts.LEFT_OUT if annotated else item_counts.UNLABELLED, name): 1}


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
