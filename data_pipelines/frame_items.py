"""Items of a ``frames`` grid: sequences of tokens, each of which is about one frame of its recording.

A block of frames (512 in the paper) makes as many sequences as a step between tokens has frames (32), each
one frame later than the one before, so that every frame is a target exactly once (reference facts B2).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines import item_counts, windows
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.grid import Grid
from data_pipelines.item_counts import ItemCounts
from data_pipelines.item_table import ItemTable
from data_pipelines.recording import Annotation, Recording
from data_pipelines.source import PreparedSet
from data_pipelines.tasks import Task

PADDING = -1


@dataclasses.dataclass(frozen=True)
class StoredFrames:
    """Which of a recording's frames a stream of frames holds, between two times.

    Attributes:
      numbers: int64 [N], ascending; frame numbers from 1: row i of the annotation is frame i + 1.
      places: int64 [N], each one's place within its source, over all its chunks.
    """

    numbers: np.ndarray
    places: np.ndarray


def stored_frames(
    prepared: PreparedSet, recording: Recording, stream: str, first_row: int = 0, last_row: int | None = None
) -> StoredFrames:
    """The frames of a stream whose rows of the annotation are from ``first_row`` to ``last_row``.

    Raises:
      BadDataError: A stored frame's time is none of the annotation's.
    """
    if stream not in recording.sources:
        return StoredFrames(np.zeros(0, np.int64), np.zeros(0, np.int64))
    table = prepared.table(stream)
    rows = table.rows_of(recording.sources[stream])
    # A source's chunks stand together, so this is a view.
    times = table.times_seconds[table.offsets[rows[0]] : table.offsets[rows[-1] + 1]]
    clock = _clock(recording)
    last_row = len(clock) - 1 if last_row is None else min(last_row, len(clock) - 1)
    low = int(np.searchsorted(times, clock[max(first_row, 0)]))
    high = int(np.searchsorted(times, clock[last_row], side="right"))
    found = np.searchsorted(clock, times[low:high])
    if not np.array_equal(clock[found], times[low:high]):
        raise BadDataError(
            f"frames of stream {stream!r} of recording {recording.id!r} have times that its annotation does "
            "not have; a frames grid needs an annotation with a row for every frame"
        )
    return StoredFrames(found.astype(np.int64) + 1, np.arange(low, high))


def make_frame_items(prepared: PreparedSet, task: Task, grid: Grid) -> ItemTable:
    """Cuts all recordings into sequences.

    ``every_frame``: all frames of all recordings are targets once; the tokens past a recording's end are
    padding, and nothing else is left out: a target without annotation has a label mask that is False.
    Sequences without any label are left for whoever draws training rows to drop.

    ``paper``: the reference's sequences (`windows.paper_sequences`) over the frames with a face and a label.
    Which it drops depends on the part; it is the recording's own official one (``group``). A recording
    without one, or of another protocol, is cut as its group says, a recording without a group as in
    validation, where nothing is dropped. A token's label is that of the newest frame that it sees (facts A8,
    5). Deviation: a recording without any annotation has the frames with a face alone.

    Raises:
      UsageError: The task is a classification, an annotation has no times, or the paper's schedule is asked
        for where no stream holds frames.
      BadDataError: There are no recordings with frames, or the paper's schedule drops all that are to be
        trained on.
    """
    if task.is_classification:
        raise UsageError(f"a frames grid predicts values for every frame; task {task.name!r} is of classes")
    parts: dict[str, list[np.ndarray]] = {}
    blocks, counts = 0, {}
    for number, recording in enumerate(prepared.recordings):
        values, mask = task.labels(recording.annotation)
        rows = len(_clock(recording))
        if not rows:
            continue
        if grid.schedule == "paper":
            targets, labelled = _paper_targets(prepared, recording, mask)
        else:
            targets = labelled = _targets_of_every_frame(rows, grid)
        targets, labelled = targets.astype(np.int32), labelled.astype(np.int32)
        labels, label_mask = _labels(values, mask, recording.annotation, labelled, grid.label_shift_seconds)
        counts[number] = _counts(task.annotated(recording.annotation), mask, labelled)
        block = targets[:, 0] // grid.block_frames
        own = {
            "recording": np.full(len(targets), number, np.int32),
            "start_seconds": recording.annotation.times_seconds[np.minimum(targets[:, 0], rows - 1)],
            "labels": labels,
            "label_mask": label_mask,
            "token_frames": np.where(targets < rows, targets, PADDING).astype(np.int32),
            "targets": targets,
            "block": blocks + block.astype(np.int64),
        }
        blocks += int(block.max(initial=-1)) + 1
        for name, array in own.items():
            parts.setdefault(name, []).append(array)
    if not parts:
        raise BadDataError(f"none of the {len(prepared.recordings)} recordings in {prepared.path} has frames")
    items = ItemTable(
        prepared.recordings,
        **{name: np.concatenate(part) for name, part in parts.items()},
        counts=ItemCounts("frame", counts),
    )
    groups = [recording.group for recording in prepared.recordings]
    if "train" in groups and not any(groups[number] == "train" for number in np.unique(items.recording)):
        raise BadDataError(
            f"grid.schedule='paper' makes no sequence of the {groups.count('train')} training recordings in "
            f"{prepared.path}: it needs {grid.block_frames} frames with a face every "
            f"{grid.token_step_frames} at most; choose every_frame"
        )
    return items


def _counts(annotated: np.ndarray, mask: np.ndarray, labelled: np.ndarray) -> dict[tuple[str, str], int]:
    """What became of the frames of one recording (`item_counts.ItemCounts`).

    Args:
      annotated, mask: bool [F, A], with any value and with one that the task uses.
      labelled: Rows that are in sequences.
    """
    annotated, known = annotated.any(1), mask.any(1)
    used = np.zeros(len(known), bool)
    used[labelled[(labelled >= 0) & (labelled < len(used))]] = True
    sums = {
        item_counts.KEPT: known & used,
        item_counts.NOT_IN_A_SEQUENCE: known & ~used,
        item_counts.LEFT_OUT: annotated & ~known,
        item_counts.UNLABELLED: ~annotated,
    }
    return {(fate, "values"): int(rows.sum()) for fate, rows in sums.items() if rows.any()}


def usable_frames(
    prepared: PreparedSet,
    recording: Recording,
    stream: str,
    grid: Grid,
    first_row: int = 0,
    last_row: int | None = None,
) -> StoredFrames:
    """The frames that tokens of this grid may see: those stored; in the paper's schedule, with a label.

    Deviation: of a recording without any label (the test part) the paper's schedule sees all as well.
    """
    stored = stored_frames(prepared, recording, stream, first_row, last_row)
    if grid.schedule != "paper" or not recording.annotation.mask.any():
        return stored
    kept = recording.annotation.mask[stored.numbers - 1].all(-1)
    return StoredFrames(stored.numbers[kept], stored.places[kept])


def _targets_of_every_frame(rows: int, grid: Grid) -> np.ndarray:
    """int64 [N, S], every row once, from 0; `PADDING` past the end."""
    starts = np.arange(0, rows, grid.block_frames)[:, None] + np.arange(grid.token_step_frames)
    starts = starts[starts < rows]
    targets = starts[:, None] + grid.token_step_frames * np.arange(grid.tokens)
    return np.where(targets < rows, targets, PADDING)


def _paper_targets(
    prepared: PreparedSet, recording: Recording, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of the reference's sequences, and the rows whose label each token has; both from 0."""
    faces = next((name for name, spec in prepared.streams.items() if spec.kind == "frames"), None)
    if faces is None:
        raise UsageError(
            f"grid.schedule='paper' goes by the frames with a face, but {prepared.path} has no "
            "stream of frames; choose every_frame"
        )
    grid = Grid("frames", windows.PAPER_TOKENS, schedule="paper")
    seen = usable_frames(prepared, recording, faces, grid)
    split = recording.group or "validation"
    sequences = windows.paper_sequences(len(mask), seen.numbers, split)
    newest = sequences.frames[..., -1]
    return sequences.targets - 1, np.where(newest == windows.NO_FRAME, PADDING, newest - 1)


def _labels(
    values: np.ndarray, mask: np.ndarray, annotation: Annotation, rows: np.ndarray, shift_seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    """Labels float32 [N, S, A] of the rows [N, S], and their mask; False for padding."""
    rows = rows_later(annotation.times_seconds, rows, shift_seconds)
    inside = rows != PADDING
    rows = np.where(inside, rows, 0)
    known = mask[rows] & inside[..., None]
    return np.where(known, values[rows], 0).astype(np.float32), known


def rows_later(clock: np.ndarray, rows: np.ndarray, seconds: float) -> np.ndarray:
    """The rows nearest to ``seconds`` after others.

    Args:
      clock: float64 [F], ascending, the time of every row.
      rows: int of any shape, from 0.
      seconds: At least 0.

    Returns:
      int64 of the same shape; `PADDING` for rows that are none of the clock's, or whose time has none later.
    """
    rows = np.asarray(rows, np.int64)
    inside = (rows >= 0) & (rows < len(clock))
    rows = np.where(inside, rows, 0)
    if seconds:
        later = clock[rows] + seconds
        inside &= later <= clock[-1]
        right = np.clip(np.searchsorted(clock, later), 1, max(len(clock) - 1, 1))
        right = np.minimum(right, len(clock) - 1)
        left = np.maximum(right - 1, 0)
        rows = np.where(later - clock[left] < clock[right] - later, left, right)
    return np.where(inside, rows, PADDING)


def _clock(recording: Recording) -> np.ndarray:
    """float64 [F], the time of every frame.

    Raises:
      UsageError: The annotation has none.
    """
    if recording.annotation.times_seconds is None:
        raise UsageError(
            f"recording {recording.id!r} has one annotation for all of it; a frames grid needs one for every "
            "frame: choose grid.kind='clip'"
        )
    return recording.annotation.times_seconds
