"""Whether the parts of a split can be learnt from and measured on, and how many items each has of what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from data_pipelines import item_counts
from data_pipelines.errors import BadDataError
from data_pipelines.item_table import ItemTable
from data_pipelines.splits import PARTS, Split, fold_words
from data_pipelines.stream_windows import SignalWindows
from data_pipelines.tasks import Task


def check(task: Task, items: ItemTable, rows: Mapping[str, np.ndarray], split: Split) -> list[str]:
    """Refuses a fold that cannot be trained on, or whose classes cannot be tested.

    A fold that tests one class only is no error of its own: with one subject left out it may be all that
    there is of this subject. `check_tested` refuses a whole run that tests one class.

    Args:
      task: The question.
      items: All items.
      rows: Part name to rows of the table.
      split: The fold.

    Returns:
      Sentences about classes that a part does not hold.

    Raises:
      BadDataError: The training part has no label or a single class, or the test part has no label.
    """
    where = f"of {fold_words(split.fold, split.folds)} of protocol {split.name}"
    labelled = {part: _labelled(items, part_rows) for part, part_rows in rows.items()}
    if not len(labelled["train"]):
        raise BadDataError(
            f"the training part {where} has no label for task {task.name!r} in {len(rows['train'])} items; "
            "annotate more people, or choose another --config.protocol.name or --config.data.task"
        )
    if not task.is_classification:
        return []
    held = {part: _classes(items, found) for part, found in labelled.items()}
    if len(held["train"]) < 2:
        raise BadDataError(
            f"all {len(labelled['train'])} labelled items of the training part {where} are of class "
            f"{task.outputs[held['train'].pop()]!r}, expected at least two of {', '.join(task.outputs)}: "
            "there is nothing to learn; check the labels, or choose another --config.data.task"
        )
    # The challenge's test part has no labels, and a copy may lack it.
    if not held["test"] and split.selection != "set_aside":
        raise BadDataError(
            f"the test part {where} has no label for task {task.name!r} in {len(rows['test'])} items; "
            "choose another --config.protocol.name, or annotate its people"
        )
    everywhere = set.union(*held.values())
    sentences = []
    for part in rows:
        absent = [task.outputs[number] for number in sorted(everywhere - held[part])]
        if held[part] and absent:
            sentences.append(f"The {part} part holds no item of class {', '.join(absent)}.")
    return sentences


def check_tested(task: Task, items: ItemTable, splits: Iterable[Split], part: str) -> None:
    """Refuses a run all of whose folds together evaluate one class: no figure of it would mean anything.

    Args:
      task: The question.
      items: All items.
      splits: The folds that the run has.
      part: The part that is evaluated.

    Raises:
      BadDataError: Which class it is, and which the data have.
    """
    if not task.is_classification or part not in PARTS:  # Another part is refused elsewhere.
        return
    names = {name for split in splits for name in getattr(split, part)}
    inside = np.array([items.recordings[number].id in names for number in items.recording], bool)
    held = _classes(items, _labelled(items, np.flatnonzero(inside)))
    everywhere = _classes(items, _labelled(items, np.arange(len(items))))
    if len(held) == 1 and len(everywhere) > 1:
        absent = ", ".join(task.outputs[number] for number in sorted(everywhere - held))
        raise BadDataError(
            f"all items of the {part} part are of class {task.outputs[held.pop()]!r}, none is of class "
            f"{absent}: no figure would mean anything; test more people, by --config.protocol.folds=() (all "
            "folds), or choose another --config.protocol.name"
        )


def counts(items: ItemTable, split: Split) -> dict[str, Any] | None:
    """What became of the items of each part (`item_counts.ItemCounts.by_part`); None where nobody counted."""
    if items.counts is None:
        return None
    number_of = {recording.id: number for number, recording in enumerate(items.recordings)}
    parts = {part: [number_of[name] for name in getattr(split, part)] for part in split.parts}
    return items.counts.by_part(parts)


def masked_channels(windows: Mapping[str, Any]) -> list[str]:
    """A sentence a stream with channels that are masked for everybody (`SignalWindows.masked_channels`)."""
    return [
        f"Stream {name} is used without {', '.join(stream.masked_channels)}: the training part has no "
        "sample of it, or one value all along."
        for name, stream in windows.items()
        if isinstance(stream, SignalWindows) and stream.masked_channels
    ]


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The counts of `counts` in words, a line a part that holds any."""
    lines = []
    for part in (*PARTS, item_counts.NO_PART):
        if part in found and (found[part]["kept"] or found[part]["dropped"]):
            where = "in no part" if part == item_counts.NO_PART else part
            lines.append(f"{where}: {item_counts.sentence(found[part], found['unit'])}")
    return lines


def _labelled(items: ItemTable, rows: np.ndarray) -> np.ndarray:
    mask = items.label_mask[rows]
    return rows[mask.reshape(len(rows), -1).any(axis=1)] if len(rows) else rows


def _classes(items: ItemTable, rows: np.ndarray) -> set[int]:
    return {int(label) for label in np.unique(items.labels[rows])}
