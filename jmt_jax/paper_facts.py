"""What a paper's table says beside the metrics: parameters, checkpoint, device, commit, majority rates."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jmt_jax
from jmt_jax import logging
from jmt_jax.experiment import Experiment
from jmt_jax.models.parameters import abstract_init, count_parameters
from jmt_jax.runtime import device_facts
from jmt_jax.statistics import Predictions
from jmt_jax.train_state import Params

_ROOT = Path(jmt_jax.__file__).resolve().parent.parent
# What `of_run` gives for the whole file; the rest is of one fold with one seed and lies in split.parts.
_OF_THE_FILE = ("parameters", "devices", "software")


def of_run(experiment: Experiment, variables: Params, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one fold with one seed, as ``results.schema.json`` describes them.

    Args:
      experiment: The fold.
      variables: Of the last stage's model.
      checkpoint: From `checkpoint`.
    """
    return {
        "parameters": parameters(experiment, variables),
        "devices": [device_facts()],
        "software": [software()],
        "checkpoint": dict(checkpoint),
        "majority": majority(experiment),
    }


def of_results(written: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts, out of the ``results.json`` of one fold with one seed."""
    part = written["split"]["parts"][0]
    found = {name: written[name] for name in _OF_THE_FILE if name in written}
    return {**found, **{name: part[name] for name in ("checkpoint", "majority") if name in part}}


def of_file(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of a file over several runs: parameters of one model, every device and commit once."""
    found: dict[str, Any] = {}
    for name in _OF_THE_FILE:
        values = [run[name] for run in runs if name in run]
        if name == "parameters" and values:
            found[name] = values[0]
        elif values:
            each = [value for of_one in values for value in of_one]
            found[name] = [value for place, value in enumerate(each) if value not in each[:place]]
    return found


def of_part(run: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an entry of ``split.parts``."""
    return {name: value for name, value in run.items() if name not in _OF_THE_FILE}


def checkpoint(experiment: Experiment, step: int, value: float | None) -> dict[str, Any]:
    """Which state of the last stage is evaluated.

    Args:
      experiment: The fold.
      step: Updates that the stage had done.
      value: The selecting metric at that step; None where it is unknown or undefined.
    """
    return {
        "stage": experiment.stages[-1],
        "step": int(step),
        "metric": experiment.selection_metric,
        "part": experiment.split.selection,
        "value": value,
    }


def value_at(folder: Path, experiment: Experiment, step: int) -> float | None:
    """The selecting metric of a checkpoint of the last stage, out of ``metrics.jsonl``; None if not there.

    Args:
      folder: The run's.
      experiment: The fold.
      step: Of the checkpoint.
    """
    at = (experiment.stages[-1], step, "validation")
    rows = logging.MetricsFile(folder, is_main=False).rows()
    found = [row for row in rows if (row["stage"], row["step"], row["part"]) == at]
    return found[-1].get(experiment.selection_metric) if found else None


def parameters(experiment: Experiment, variables: Params) -> dict[str, Any]:
    """How many values each part of the model has, and how many each stage trains.

    Args:
      experiment: The fold.
      variables: Of the last stage's model.
    """
    params = variables["params"]
    stages = {stage: _of_stage(experiment, stage) for stage in experiment.stages[:-1]}
    stages[experiment.stages[-1]] = _counts(experiment, experiment.stages[-1], params)
    return {
        "all": count_parameters(variables),
        "parts": {name: count_parameters({"params": params[name]}) for name in sorted(params)},
        "stages": stages,
    }


def _of_stage(experiment: Experiment, stage: str) -> dict[str, int]:
    one = experiment.of_stage(stage)
    shapes = abstract_init(one.model(stage), one.loader.example_batch(1))
    return _counts(one, stage, shapes["params"])


def _counts(experiment: Experiment, stage: str, params: Mapping[str, Any]) -> dict[str, int]:
    trained = {name: params[name] for name in experiment.trainable(stage, params)}
    return {"all": count_parameters({"params": params}), "trained": count_parameters({"params": trained})}


def majority(experiment: Experiment) -> dict[str, Any] | None:
    """Part to its most frequent class and that class's share of the labels; None for regression.

    A part without labels has None for both.
    """
    data = experiment.data
    if not data.task.is_classification:
        return None
    found = {}
    for part, rows in experiment.rows.items():
        labels = data.items.labels[rows][data.items.label_mask[rows]]
        counts = np.bincount(labels, minlength=len(data.task.outputs))
        most = int(counts.argmax())
        found[part] = {
            "class": data.task.outputs[most] if len(labels) else None,
            "rate": float(counts[most] / len(labels)) if len(labels) else None,
        }
    return found


def rows_behind(names: Sequence[str], outputs: Sequence[str], runs: Sequence[Predictions]) -> dict[str, int]:
    """Metric to the number of labelled rows (clips, windows, frames) that were handed to it.

    Args:
      names: Of the metrics; in regression ``<kind>_<output>``, or ``<kind>_mean`` over all outputs.
      outputs: Of the task.
      runs: One table a seed. Where these differ, it is the largest number.
    """
    found = {}
    for name in names:
        column = next((i for i, output in enumerate(outputs) if name.endswith(f"_{output}")), None)
        masks = (run.mask if run.mask.ndim == 1 or column is None else run.mask[:, column] for run in runs)
        found[name] = max(int((mask if mask.ndim == 1 else mask.any(axis=1)).sum()) for mask in masks)
    return found


@functools.cache
def software(root: Path = _ROOT) -> dict[str, Any]:
    """This software's version, and the git commit of the checkout that it runs from.

    Args:
      root: The folder that holds the package.

    Returns:
      ``version``; ``commit``, None where it is no checkout or git cannot read it; ``modified``: whether
      tracked files differ from that commit, None without one.
    """
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    changes = None if commit is None else _git(root, "status", "--porcelain", "--untracked-files=no")
    try:
        version = importlib.metadata.version("jmt-jax")
    except importlib.metadata.PackageNotFoundError:
        version = jmt_jax.__version__
    return {"version": version, "commit": commit, "modified": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None where there is no git, or it does not read this checkout."""
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
