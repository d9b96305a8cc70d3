"""Recordings cut into items by the token grid, with their labels."""

from __future__ import annotations

import numpy as np

from data_pipelines import frame_items, item_counts, sliding_items
from data_pipelines.errors import BadDataError
from data_pipelines.grid import Grid
from data_pipelines.item_counts import ItemCounts
from data_pipelines.item_table import ItemTable
from data_pipelines.recording import Recording
from data_pipelines.source import PreparedSet
from data_pipelines.tasks import Task, check_labels


def make_items(prepared: PreparedSet, task: Task, grid: Grid) -> ItemTable:
    """Cuts all recordings of a prepared set into items and labels them.

    Raises:
      BadDataError: The task does not know a label (`tasks.check_labels`), or no item is left for it.
      UsageError: A ``frames`` grid, but the task is none of values that every frame has.
    """
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
