"""Training: the whole run, readable from top to bottom."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from data_pipelines.errors import UsageError
from data_pipelines.loader import Shard
from data_pipelines.splits import fold_words
from jmt_jax import (
    config_checks,
    evaluate,
    logging,
    paper_facts,
    part_checks,
    run_folder,
    run_pictures,
    run_record,
    stop,
    trained_backbones,
)
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
    runtime = Runtime.of(config)
    data = data or open_data(config)
    experiment = make_experiment(config, data, fold=fold, seed=seed)
    run_record.keep(experiment, workdir, is_main=runtime.is_main)
    _log_experiment(experiment)
    if len(experiment.stages) > 1:  # a single one builds it at once
        config_checks.check_models(experiment, runtime)

    metrics_file = logging.MetricsFile(workdir, is_main=runtime.is_main)
    seconds: dict[str, float] = {}
    chosen: dict[str, int] = {}
    backbones: Params = {"params": {}, "batch_stats": {}}
    variables: Params = {}
    for name in experiment.stages:
        stop.check("the stages before this one are kept")
        stage_started = time.monotonic()
        one = Stage(experiment, name, runtime, workdir, metrics_file)
        trained = trained_backbones.find(experiment, name)
        variables = one.adopt(trained) if trained else one.train(backbones)
        _keep_backbones(backbones, variables)
        chosen[name] = one.chosen["best_step"]
        seconds[name] = time.monotonic() - stage_started
    metrics_file.close()
    if runtime.is_main:
        run_pictures.learning_curves(workdir / "learning_curves.png", metrics_file.rows(), experiment, chosen)

    seconds["total"] = time.monotonic() - started
    part = config.eval.split
    checkpoint = paper_facts.checkpoint(experiment, one.chosen["best_step"], one.chosen["best_value"])
    facts = paper_facts.of_run(experiment, variables, checkpoint)
    written = evaluate.evaluate_run(
        one.experiment, runtime, variables, workdir, part=part, seconds=seconds, facts=facts
    )
    return Run(variables, written)


def extract_features(
    config: Config, workdir: Path, *, data: Data, fold: int = 0, seed: int = 0, shard: Shard | None = None
) -> bool:
    """Extracts the features that the fusion of one fold with one seed trains on and is evaluated on.

    Args:
      config: The configuration.
      workdir: The run's folder; stages that come before the fusion are trained in it where they are not.
      data: From `open_data`.
      fold: Number of the fold.
      seed: Seed.
      shard: Which part of the recordings, where several jobs share them; nothing is trained then.

    Returns:
      Whether the features of all recordings are there.

    Raises:
      UsageError: No stage has frozen backbones, or ``training.extract`` is False.
      BadDataError: A shard is to be extracted, and a stage that comes before is not finished.
    """
    runtime = Runtime.of(config)
    experiment = make_experiment(config, data, fold=fold, seed=seed)
    if not config.training.extract:
        raise UsageError(
            "training.extract is False: training would not read the features; give "
            "--config.training.extract=True here and there"
        )
    if "fusion" not in experiment.stages:
        raise UsageError(
            f"training.stages={config.training.stages!r} has no fusion; only its backbones are frozen, so "
            "there are no features to extract"
        )
    run_record.keep(experiment, workdir, is_main=runtime.is_main and shard is None)
    metrics_file = logging.MetricsFile(workdir, is_main=runtime.is_main and shard is None)
    backbones: Params = {"params": {}, "batch_stats": {}}
    for name in experiment.stages[: experiment.stages.index("fusion")]:
        one = Stage(experiment, name, runtime, workdir, metrics_file)
        trained = trained_backbones.find(experiment, name)
        if trained is None and shard is not None:
            trained = run_folder.checkpoints(workdir, name)
        variables = one.adopt(trained) if trained else one.train(backbones)
        _keep_backbones(backbones, variables)
    metrics_file.close()
    return Stage(experiment, "fusion", runtime, workdir, metrics_file).extract(backbones, shard)


def _keep_backbones(backbones: Params, variables: Params) -> None:
    """Puts the backbones of a trained stage among those that later ones start from."""
    for kind, tree in variables.items():
        backbones[kind].update({part: tree[part] for part in tree if part.startswith("backbone_")})


def _log_experiment(experiment: Experiment) -> None:
    data, split = experiment.data, experiment.split
    if data.warning:
        logging.warning(data.warning)
    logging.info(
        f"{data.name}, task {data.task.name}, streams {', '.join(data.streams)}; protocol {split.name}, "
        f"{fold_words(split.fold, split.folds)}, seed {experiment.seed}"
    )
    for part, rows in experiment.rows.items():
        logging.info(f"  {part}: {len(rows)} items of {len(set(data.items.subjects[rows]))} subjects")
    counts = part_checks.counts(data.items, split)
    for sentence in part_checks.sentences(counts) if counts else []:
        logging.info(f"  {sentence}")
    for sentence in split.warnings:
        logging.warning(sentence)
