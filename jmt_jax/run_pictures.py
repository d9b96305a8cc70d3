"""The pictures of a run: what ``report`` draws, with this run's words, chosen steps and chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.splits import fold_words
from jmt_jax import paper_facts, report
from jmt_jax.experiment import Experiment
from jmt_jax.statistics import Predictions

_CHANCE_OF_VALUES = {"ccc": 0.0, "pcc": 0.0}


def learning_curves(
    path: Path, rows: Iterable[Mapping[str, Any]], experiment: Experiment, chosen: Mapping[str, int]
) -> None:
    """Draws ``metrics.jsonl`` of one fold with one seed.

    Args:
      path: The PNG to write.
      rows: Of the file.
      experiment: The fold.
      chosen: Stage to the step that was chosen of it.
    """
    data, split = experiment.data, experiment.split
    # The rows of the part that chooses are called validation, whichever part the protocol lets choose.
    named = [{**row, "part": split.selection if row["part"] == "validation" else row["part"]} for row in rows]
    report.learning_curves(
        path,
        named,
        first=experiment.selection_metric,
        chosen=chosen,
        chance=chance(experiment),
        title=f"{data.name}, {data.task.name}, {split.name}, {fold_words(split.fold, split.folds)}, "
        f"seed {experiment.seed}; fusion {experiment.config.model.fusion}",
        sample=data.is_sample,
    )


def chance(experiment: Experiment) -> dict[str, float]:
    """Metric to what knowing nothing scores on the selecting part; no metric without such a value.

    Accuracy: always the most frequent class of that part. AUROC .5, balanced accuracy 1 / classes; CCC and
    Pearson's correlation 0.
    """
    outputs = experiment.data.task.outputs
    if not experiment.data.task.is_classification:
        names = (*outputs, "mean")
        return {f"{kind}_{name}": value for kind, value in _CHANCE_OF_VALUES.items() for name in names}
    found = {"auroc": 0.5, "balanced_accuracy": 1 / len(outputs)}
    rate = (paper_facts.majority(experiment) or {})[experiment.split.selection]["rate"]
    return found if rate is None else {**found, "accuracy": rate}


def confusion_matrix(path: Path, written: Mapping[str, Any], part: str, fusion: str) -> None:
    """Draws the confusion matrix of ``results.json``.

    Args:
      path: The PNG to write.
      written: Content of ``results.json``.
      part: Which part it is about.
      fusion: Name of the model's fusion.
    """
    matrix, seeds = written["confusion_matrix"], {run["seed"] for run in written["split"]["parts"]}
    report.confusion_matrix(
        path,
        matrix["counts"],
        matrix["classes"],
        title=f"{_words(written, part, fusion)}{_seeds(seeds, 'counts summed over')}",
        sample=written["sample"],
    )


def over_time(
    path: Path,
    table: Predictions,
    written: Mapping[str, Any],
    names: Sequence[str],
    part: str,
    fusion: str,
) -> None:
    """Draws the best, the median and the worst recording by mean CCC; nothing without labels.

    Args:
      path: The PNG to write.
      table: What the metrics are of; of the first seed.
      written: Content of ``results.json``.
      names: Of the outputs.
      part: Which part it is about.
      fusion: Name of the model's fusion.
    """
    recordings = np.array(table.recordings, dtype=object)
    # One seed may have tested others than the first, whose table this is.
    held = set(table.recordings)
    scores = {
        name: values["ccc_mean"]
        for name, values in written["per_subject"].items()
        if values["ccc_mean"] is not None and name in held
    }
    if not scores:
        return
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    words: dict[str, str] = {}
    for word, place in {"best": 0, "median": (len(ranked) - 1) // 2, "worst": len(ranked) - 1}.items():
        words.setdefault(ranked[place], word)
    curves = []
    for name, word in words.items():
        rows = np.flatnonzero(recordings == name)
        title = f"{word}: {name} (mean CCC {scores[name]:.2f})"
        curves.append(
            report.Curves(title, table.times_seconds[rows], table.labels[rows], table.outputs[rows])
        )
    frames, seeds = written["data"]["frames"], {run["seed"] for run in written["split"]["parts"]}
    smoothing = "not smoothed" if frames["smoothing"] == "none" else f"smoothed ({frames['description']})"
    report.truth_and_prediction(
        path,
        curves,
        names,
        value_range=tuple(frames["value_range"]),
        title=f"{_words(written, part, fusion)}; predictions {smoothing}"
        f"{_seeds(seeds, 'CCC averaged, curves of the first, over')}",
        sample=written["sample"],
    )


def _words(written: Mapping[str, Any], part: str, fusion: str) -> str:
    data = written["data"]
    return (
        f"{data['name']}, {data['task']}, {part} part, {written['protocol']}; streams "
        f"{', '.join(data['streams'])}; fusion {fusion}"
    )


def _seeds(seeds: set[int], how: str) -> str:
    return f"; {how} {len(seeds)} seeds" if len(seeds) > 1 else ""
