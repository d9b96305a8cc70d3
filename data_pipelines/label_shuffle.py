"""The control whose labels tell nothing: they are shuffled, and it is measured what is left of them.

Labels never leave their part of the split, nor does one appear where nobody annotated: the rows that a run
trains on and predicts are those of the run that it is a control of. `data_pipelines.label_draws` says how
rows are moved.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import label_draws
from data_pipelines.errors import BadDataError
from data_pipelines.grid import Grid
from data_pipelines.item_table import ItemTable
from data_pipelines.items import make_items
from data_pipelines.recording import Recording
from data_pipelines.source import PreparedSet
from data_pipelines.tasks import Task

MODES = ("within_subject",)


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels of some rows, of one part of a split.

    Attributes:
      values: int [N] class numbers, or float [N, A].
      mask: bool, of the same shape; False where nobody annotated.
      subjects: int [N], the number of each one's subject; rows of one recording stand together, in order of
        time.
    """

    values: np.ndarray
    mask: np.ndarray
    subjects: np.ndarray


def shuffle(
    prepared: PreparedSet,
    task: Task,
    grid: Grid,
    items: ItemTable,
    parts: Mapping[str, np.ndarray],
    names: Sequence[object],
) -> tuple[ItemTable, dict[str, Any]]:
    """The items with shuffled labels, and what is left of the true ones.

    In a ``frames`` grid it is the recordings' annotations that move, so that a frame has one label in all
    sequences, and results are about the moved annotations too.

    Args:
      prepared: The data set.
      task: The question.
      grid: The token grid.
      items: All items, with their true labels.
      parts: Part name to rows of the table.
      names: Of the draw, e.g. its seeds; the same names and data give the same labels.

    Returns:
      The table, and the report as JSON values: ``results.schema.json`` describes it (``shuffled_labels``).

    Raises:
      BadDataError: More than `label_draws.LIMIT` is left, over the training part or over all parts.
    """
    serial = grid.kind != "clip"
    before, after, levels = {}, {}, {}
    recordings, labels = list(items.recordings), items.labels.copy()
    _, subjects = np.unique(items.subjects, return_inverse=True)
    for part, rows in parts.items():
        if not len(rows):
            continue
        if grid.kind == "frames":
            numbers = np.unique(items.recording[rows])
            before[part] = _of_recordings(items.recordings, numbers, task)
        else:
            order = rows[np.lexsort((items.start_seconds[rows], items.recording[rows], subjects[rows]))]
            before[part] = Labels(items.labels[order], items.label_mask[order], subjects[order])
        source, levels[part] = order_of(before[part], serial=serial, names=(*names, part))
        after[part] = dataclasses.replace(before[part], values=before[part].values[source])
        if grid.kind == "frames":
            _move_annotations(recordings, numbers, task, source)
        else:
            labels[order] = after[part].values
    if grid.kind == "frames":
        moved = copy.copy(prepared)
        moved.recordings = recordings
        items = make_items(moved, task, grid)
    else:
        items = dataclasses.replace(items, labels=labels)
    report = _report(before, after, levels, task)
    _check(report)
    return items, report


def order_of(
    labels: Labels, *, serial: bool, names: Sequence[object]
) -> tuple[np.ndarray, label_draws.Level | None]:
    """Where each row's label comes from; rows move among those with labels of the same outputs.

    Args:
      labels: Of one part.
      serial: Whether neighbouring rows have labels in common.
      names: Of the draw.

    Returns:
      int64 [N], a permutation; and the wider of the levels that were needed, None without labels.
    """
    mask = labels.mask.reshape(len(labels.mask), -1)
    patterns, index = np.unique(mask, axis=0, return_inverse=True)
    index = index.reshape(-1)
    source, level = np.arange(len(mask)), None
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(index == number)
        if not pattern.any() or len(rows) < 2:
            continue
        classes = labels.values.ndim == 1
        codes = _codes(labels.values[rows]) if classes else labels.values[rows][:, pattern]
        drawn = label_draws.draw(
            codes, labels.subjects[rows], classes=classes, serial=serial, names=(*names, number)
        )
        source[rows] = rows[drawn.rows]
        level = "between_subjects" if "between_subjects" in (level, drawn.level) else drawn.level
    return source, level


def left_over(
    true: Labels, moved: np.ndarray, outputs: Sequence[str], parts: np.ndarray | None = None
) -> dict[str, Any]:
    """What moved labels still tell of the true ones.

    Args:
      true: The labels as they were.
      moved: Those that stand in their place, of the same shape.
      outputs: Names of the values; unused for classes.
      parts: int [N], which part of the split a row is in, for a figure over several: labels are then taken
        from their part's mean, since what a model may learn of the truth it learns and shows within parts.

    Returns:
      ``rows`` with a label; ``left``: of classes ``phi`` (of more than two: their correlation, Gorodkin
      2004), of values ``ccc_<name>``, None where labels do not vary; ``unchanged``, the share of labels that
      stayed what they were, and ``unchanged_by_chance``, that of labels drawn anew from the same ones;
      ``subjects_of_one_label``: how many subjects have one label only, which no order within them changes.
    """
    kept = true.mask.reshape(len(true.mask), -1).any(axis=1)
    known, now = true.values[kept], moved[kept]
    parts = np.zeros(len(known), np.int64) if parts is None else parts[kept]
    if true.values.ndim == 1:
        found = {"phi": _phi(known, now, parts)}
        columns = [(known, now)]
    else:
        masks = true.mask[kept].T
        columns = [(known[m, a], now[m, a]) for a, m in enumerate(masks)]
        found = {
            f"ccc_{name}": _ccc(*column, parts[m])
            for name, column, m in zip(outputs, columns, masks, strict=True)
        }
    same = [np.mean(one == other) for one, other in columns if len(one)]
    chance = [
        np.sum((np.unique(one, return_counts=True)[1] / len(one)) ** 2) for one, _ in columns if len(one)
    ]
    subjects = true.subjects[kept]
    constant = sum(len(np.unique(known[subjects == name], axis=0)) == 1 for name in np.unique(subjects))
    return {
        "rows": int(kept.sum()),
        "left": found,
        "unchanged": float(np.mean(same)) if same else None,
        "unchanged_by_chance": float(np.mean(chance)) if chance else None,
        "subjects_of_one_label": int(constant),
    }


def sentence(report: Mapping[str, Any]) -> str:
    """The report's figures over all parts, for the log."""
    whole = report["all"]
    left = ", ".join(f"{name} {_shown(value)}" for name, value in whole["left"].items())
    return (
        f"the labels are shuffled: {left} is left between {whole['rows']} shuffled and true labels; "
        f"{_shown(whole['unchanged'])} of them are unchanged, {_shown(whole['unchanged_by_chance'])} would "
        f"be by chance; {whole['subjects_of_one_label']} subjects have one label only"
    )


def _report(
    before: Mapping[str, Labels],
    after: Mapping[str, Labels],
    levels: Mapping[str, str | None],
    task: Task,
) -> dict[str, Any]:
    parts = {
        part: {"level": levels[part], **left_over(labels, after[part].values, task.outputs)}
        for part, labels in before.items()
    }
    whole = Labels(*(_joined(before, field) for field in ("values", "mask", "subjects")))
    numbers = np.repeat(np.arange(len(before)), [len(labels.mask) for labels in before.values()])
    found = left_over(whole, _joined(after, "values"), task.outputs, numbers)
    return {"parts": parts, "all": found, "limit": label_draws.LIMIT}


def _check(report: Mapping[str, Any]) -> None:
    for where, found in (("all parts", report["all"]), ("the training part", report["parts"].get("train"))):
        if found is None:
            continue
        for name, value in found["left"].items():
            if value is None or abs(value) > label_draws.LIMIT:
                what = "do not vary" if value is None else f"still tell {abs(value):.2f} of the true ones"
                raise BadDataError(
                    f"the shuffled labels {what} ({name}, {found['rows']} labels of {where}); a control may "
                    f"be left with {label_draws.LIMIT:g} at most: take more people or recordings, or set "
                    "--config.data.shuffle_labels=''"
                )


def _of_recordings(recordings: Sequence[Recording], numbers: np.ndarray, task: Task) -> Labels:
    """Labels of every row of the recordings' annotations, subject after subject."""
    order = _by_subject(recordings, numbers)
    found = [task.labels(recordings[number].annotation) for number in order]
    _, subjects = np.unique([recordings[number].subject for number in order], return_inverse=True)
    rows = [len(values) for values, _ in found]
    values, masks = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Labels(values, masks, np.repeat(subjects, rows))


def _move_annotations(
    recordings: list[Recording], numbers: np.ndarray, task: Task, source: np.ndarray
) -> None:
    """Puts recordings with moved annotations in the place of those of these numbers."""
    order = _by_subject(recordings, numbers)
    annotations = [recordings[number].annotation for number in order]
    columns = [[a.names.index(name) for name in task.columns] for a in annotations]
    values = np.concatenate([a.values[:, c] for a, c in zip(annotations, columns, strict=True)])[source]
    begin = 0
    for number, annotation, own in zip(order, annotations, columns, strict=True):
        end = begin + len(annotation.values)
        moved = annotation.values.copy()
        moved[:, own] = values[begin:end]
        begin = end
        annotation = dataclasses.replace(annotation, values=moved)
        recordings[number] = dataclasses.replace(recordings[number], annotation=annotation)


def _by_subject(recordings: Sequence[Recording], numbers: np.ndarray) -> list[int]:
    return sorted(numbers.tolist(), key=lambda number: (recordings[number].subject, number))


def _joined(parts: Mapping[str, Labels], field: str) -> np.ndarray:
    return np.concatenate([getattr(labels, field) for labels in parts.values()])


def _codes(classes: np.ndarray) -> np.ndarray:
    """One column a class, float64 [N, K]."""
    return (classes[:, None] == np.unique(classes)).astype(np.float64)


def _phi(one: np.ndarray, other: np.ndarray, parts: np.ndarray) -> float | None:
    known = np.unique(np.concatenate([one, other]))
    a, b = (_centred((labels[:, None] == known) * 1.0, parts)[0] for labels in (one, other))
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else None


def _ccc(one: np.ndarray, other: np.ndarray, parts: np.ndarray) -> float | None:
    (a, mean), (b, other_mean) = (_centred(x.astype(np.float64)[:, None], parts) for x in (one, other))
    scale = (a**2).sum() + (b**2).sum() + ((mean - other_mean) ** 2).sum()
    return float(2 * (a * b).sum() / scale) if scale > 1e-12 * len(one) else None


def _centred(values: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [N, D] without the mean of their part, and that mean for each, [N, D]."""
    sums = np.zeros((parts.max(initial=0) + 1, values.shape[1]))
    np.add.at(sums, parts, values)
    mean = (sums / np.maximum(np.bincount(parts, minlength=len(sums)), 1)[:, None])[parts]
    return values - mean, mean


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"
