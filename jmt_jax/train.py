"""Training: the whole run, readable from top to bottom."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jmt_jax import evaluate, logging
from jmt_jax.checkpoint import Checkpoints, to_json
from jmt_jax.experiment import Config, Data, Experiment, make_experiment, open_data
from jmt_jax.models.parameters import parameter_table
from jmt_jax.optimizer import make_optimizer, make_schedule
from jmt_jax.runtime import Runtime
from jmt_jax.steps import make_eval_step, make_train_step
from jmt_jax.train_state import Params, TrainState

_SELECTED_BY = {"classification": "accuracy", "regression": "ccc_mean"}


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
    """Trains all stages of one fold with one seed, then evaluates the test part once.

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
    backbones: Params = {}
    variables: Params = {}
    for stage in experiment.stages:
        stage_started = time.monotonic()
        variables = train_stage(experiment, stage, runtime, workdir, backbones, metrics_file)
        for kind, tree in variables.items():
            trained = {name: value for name, value in tree.items() if name.startswith("backbone_")}
            backbones[kind] = {**backbones.get(kind, {}), **trained}
        seconds[stage] = time.monotonic() - stage_started
    metrics_file.close()
    seconds["total"] = time.monotonic() - started
    results = evaluate.evaluate_run(experiment, runtime, variables, workdir, seconds=seconds)
    return Run(variables, results)


def train_stage(
    experiment: Experiment,
    stage: str,
    runtime: Runtime,
    workdir: Path,
    backbones: Params,
    metrics_file: logging.MetricsFile,
) -> Params:
    """Trains one stage, or goes on with it, and returns its best variables.

    Args:
      experiment: The fold.
      stage: A stream's name (its backbone alone), ``fusion`` (backbones frozen) or ``joint``.
      runtime: Devices.
      workdir: The run's folder.
      backbones: Variables of backbones that earlier stages trained, ``{"params": {"backbone_x": ..}, ..}``.
      metrics_file: Takes the rows.
    """
    options = experiment.config.training[stage]
    batch_size = options.global_batch_size
    logging.info(f"stage {stage}: " + runtime.check_batch_size(f"training.{stage}.global_batch_size", batch_size))
    steps_per_epoch = max(1, round(len(experiment.rows["train"]) / batch_size))
    total_steps = steps_per_epoch * options.epochs
    eval_every_steps = max(1, round(steps_per_epoch * options.eval_every_epochs))

    model = experiment.model(stage, runtime.axis_name)
    variables = initial_variables(model, experiment, stage, runtime, backbones)
    trainable = experiment.trainable(stage, variables["params"])
    optimizer = make_optimizer(options, make_schedule(options, total_steps, steps_per_epoch))
    state = jax.jit(lambda v: TrainState.create(v, optimizer, trainable), out_shardings=runtime.replicated)(variables)
    checkpoints = Checkpoints(workdir / "checkpoints" / stage)
    batches = experiment.loader.train(
        experiment.rows["train"],
        global_batch_size=batch_size,
        seed=_fold_in(experiment.seed, stage),
        shard=runtime.shard,
    )
    best = {"best_step": -1, "best_value": None, "best_loss": None}
    if (latest := checkpoints.latest_step()) is not None:
        state, progress = checkpoints.restore(latest, state)
        best = {key: progress[key] for key in best}
        batches.set_state(progress["data"])
        metrics_file.rewind(stage, latest)
        done = "is finished" if latest >= total_steps else f"goes on at step {latest} of {total_steps}"
        logging.info(f"stage {stage} {done}")
    if int(state.step) < total_steps:
        logging.info(f"stage {stage}: {total_steps} steps, {steps_per_epoch} an epoch\n" + _table(state, trainable))
        state = _train_steps(
            experiment, stage, runtime, model, optimizer, trainable, state, batches,
            total_steps, eval_every_steps, best, checkpoints, metrics_file,
        )  # fmt: skip
    checkpoints.wait()
    best_variables = checkpoints.restore_variables(checkpoints.best_step(), state.variables)
    checkpoints.close()
    return best_variables


def _train_steps(
    experiment: Experiment,
    stage: str,
    runtime: Runtime,
    model: nn.Module,
    optimizer: Any,
    trainable: tuple[str, ...],
    state: TrainState,
    batches: Any,
    total_steps: int,
    eval_every_steps: int,
    best: dict[str, Any],
    checkpoints: Checkpoints,
    metrics_file: logging.MetricsFile,
) -> TrainState:
    """The loop of one stage: step, and now and then evaluate on validation subjects and save."""
    body = make_train_step(
        model,
        experiment.loss,
        optimizer,
        trainable=trainable,
        seed=_fold_in(experiment.seed, stage),
        axis_name=runtime.axis_name,
    )
    train_step = runtime.compile(body, donate_state=True)
    eval_step = runtime.compile(make_eval_step(model), rows_out=True)
    step = int(state.step)
    state = runtime.put_state(state)
    clock = logging.Clock(total_steps, step)
    losses: list[jax.Array] = []
    while step < total_steps:
        state, measured = train_step(state, runtime.put_batch(next(batches)))
        losses.append(runtime.single(measured)["loss"])
        step += 1
        if len(losses) == 1 and clock.first_step == step - 1:
            losses[0].block_until_ready()
            logging.info(f"stage {stage}: first training step done")
            clock.start(step)
        if step % eval_every_steps and step < total_steps:
            continue
        train_loss = float(np.mean(jax.device_get(losses)))
        losses = []
        single = runtime.single(state)
        scores = evaluate.validate(experiment, runtime, eval_step, state)
        value = scores[_SELECTED_BY[experiment.data.task.kind]]
        if _is_better(value, scores["loss"], best):
            best.update(best_step=step, best_value=value, best_loss=scores["loss"])
        metrics_file.write(stage, step, "train", {"loss": train_loss})
        metrics_file.write(stage, step, "validation", scores)
        checkpoints.save(single, {**best, "data": to_json(batches.get_state())})
        logging.info(
            f"stage {stage}: step {step}/{total_steps}  loss {train_loss:.4f}  "
            + "  ".join(f"{name} {scores[name]:.4f}" for name in ("loss", *_shown(experiment)) if scores[name] is not None)
            + (" (best)" if best["best_step"] == step else "")
            + f"  {clock.steps_per_second(step):.1f} steps/s  {clock.time_left(step)} left"
        )
    return runtime.single(state)


def initial_variables(
    model: nn.Module, experiment: Experiment, stage: str, runtime: Runtime, backbones: Params
) -> Params:
    """Fresh variables, made already in place, with the backbones that earlier stages trained."""
    example = experiment.loader.example_batch(jax.device_count())
    key = jax.random.fold_in(jax.random.key(experiment.seed), _fold_in(0, stage))

    def init(batch: Any) -> Params:
        return model.init(key, batch["inputs"], batch["masks"], train=False)

    # The axis that pmap's batch statistics reduce over does not exist here; evaluation mode does not ask it.
    variables = dict(jax.jit(init, out_shardings=runtime.replicated)(example))
    variables.setdefault("batch_stats", {})
    for kind, tree in backbones.items():
        known = {name: value for name, value in tree.items() if name in variables.get(kind, {})}
        variables[kind] = {**variables[kind], **jax.device_put(known, runtime.replicated)}
    return variables


def _is_better(value: float | None, loss: float, best: dict[str, Any]) -> bool:
    """Higher is better; the lower loss decides between equals, which small validation sets often give."""
    if best["best_step"] < 0:
        return True
    if value is None or best["best_value"] is None:
        return value is not None or loss < best["best_loss"]
    return (value, -loss) > (best["best_value"], -best["best_loss"])


def _shown(experiment: Experiment) -> tuple[str, ...]:
    return ("accuracy", "auroc") if experiment.data.task.is_classification else ("ccc_mean",)


def _fold_in(seed: int, name: str) -> int:
    """A seed that belongs to (seed, name) alone."""
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0] >> 1)


def _log_experiment(experiment: Experiment) -> None:
    data, split, rows = experiment.data, experiment.split, experiment.rows
    if data.warning:
        logging.warning(data.warning)
    logging.info(
        f"{data.name}, task {data.task.name}, streams {', '.join(data.streams)}; protocol {split.name}, fold "
        f"{split.fold + 1} of {split.folds}, seed {experiment.seed}"
    )
    for part, numbers in rows.items():
        subjects = len(set(data.items.subjects[numbers]))
        logging.info(f"  {part}: {len(numbers)} items of {subjects} subjects")
    for sentence in split.warnings:
        logging.warning(sentence)


def _table(state: TrainState, trainable: tuple[str, ...]) -> str:
    learned = sum(x.size for name in trainable for x in jax.tree.leaves(state.params[name]))
    return parameter_table(state.variables) + f"\ntrained in this stage: {learned:,} parameters"
