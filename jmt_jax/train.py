"""Training: the whole run, readable from top to bottom."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from jmt_jax import evaluate, logging, trained_backbones
from jmt_jax.experiment import Config, Data, Experiment, make_experiment, open_data
from jmt_jax.runtime import Runtime
from jmt_jax.stage import Stage
from jmt_jax.train_state import Params


@dataclasses.dataclass(frozen=True)
class Run:
    """What a finished run leaves in memory.

    Attributes:
      variables: Best parameters and batch statistics of the last stage.
      results: What ``results.json`` holds.
    """

    variables: Params
    results: dict[str, Any]


def train_and_evaluate(
    config: Config, workdir: Path, *, data: Data | None = None, fold: int = 0, seed: int = 0
) -> Run:
    """Trains all stages of one fold with one seed, then evaluates the part ``eval.split`` once.

    Called again with the same folder it goes on where it was.

    Args:
      config: The configuration, e.g. of configs/biovid.py.
      workdir: The run's folder.
      data: From `open_data`; opened here if None.
      fold: Number of the fold.
      seed: Seed of the initialisation, the order of the batches, augmentation and dropout.
    """
    started = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    runtime = Runtime.create(config.parallelism)
    data = data or open_data(config)
    experiment = make_experiment(config, data, fold=fold, seed=seed)
    _log_experiment(experiment)

    metrics_file = logging.MetricsFile(workdir, is_main=runtime.is_main)
    seconds: dict[str, float] = {}
    backbones: Params = {"params": {}, "batch_stats": {}}
    variables: Params = {}
    for name in experiment.stages:
        stage_started = time.monotonic()
        one = Stage(experiment, name, runtime, workdir, metrics_file)
        trained = trained_backbones.find(config, name, fold, seed)
        variables = one.adopt(trained) if trained else one.train(backbones)
        for kind, tree in variables.items():
            backbones[kind].update({part: tree[part] for part in tree if part.startswith("backbone_")})
        seconds[name] = time.monotonic() - stage_started
    metrics_file.close()

    seconds["total"] = time.monotonic() - started
    part = config.eval.split
    written = evaluate.evaluate_run(experiment, runtime, variables, workdir, part=part, seconds=seconds)
    return Run(variables, written)


def _log_experiment(experiment: Experiment) -> None:
    data, split = experiment.data, experiment.split
    if data.warning:
        logging.warning(data.warning)
    logging.info(
        f"{data.name}, task {data.task.name}, streams {', '.join(data.streams)}; protocol {split.name}, fold "
        f"{split.fold + 1} of {split.folds}, seed {experiment.seed}"
    )
    for part, rows in experiment.rows.items():
        logging.info(f"  {part}: {len(rows)} items of {len(set(data.items.subjects[rows]))} subjects")
    for sentence in split.warnings:
        logging.warning(sentence)
