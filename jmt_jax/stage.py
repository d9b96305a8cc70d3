"""One stage of training: a stream's backbone alone, the fusion over frozen backbones, or everything."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from etils import epath

from data_pipelines.errors import BadDataError, Interrupted, UsageError
from data_pipelines.loader import Shard
from data_pipelines.worker_batches import LostWorker
from jmt_jax import (
    evaluate,
    extract,
    files,
    logging,
    moves,
    run_folder,
    run_record,
    stop,
    trained_backbones,
)
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.divergence import Diverged, what_to_lower
from jmt_jax.experiment import Experiment
from jmt_jax.models.parameters import count_parameters, parameter_table
from jmt_jax.optimizer import make_optimizer, make_schedule
from jmt_jax.runtime import Runtime
from jmt_jax.step_monitor import StepMonitor
from jmt_jax.steps import make_eval_step, make_train_step
from jmt_jax.torch_networks import BACKBONE
from jmt_jax.train_state import Params, TrainState
from jmt_jax.weights import apply_fusion_weights, apply_weights

_SHOWN = {"classification": ("loss", "accuracy", "auroc"), "regression": ("loss", "ccc_mean")}
_LOG_EVERY_SECONDS = 30.0


class Stage:
    """A stage that can be begun, gone on with, and asked for its best variables.

    Args:
      experiment: The fold.
      name: A stream's name, ``fusion`` (backbones frozen) or ``joint``.
      runtime: Devices.
      workdir: The run's folder.
      metrics_file: Takes the rows.
    """

    def __init__(
        self,
        experiment: Experiment,
        name: str,
        runtime: Runtime,
        workdir: Path,
        metrics_file: logging.MetricsFile,
    ) -> None:
        self._record = run_record.of(experiment)  # of all streams, as the run's
        experiment = experiment.of_stage(name)
        options = experiment.config.training[name]
        runtime.check_batch_size(f"training.{name}.global_batch_size", options.global_batch_size)
        self._accumulation_steps, self._ema_decay = check_options(name, options, runtime)
        self._experiment, self._name, self._runtime = experiment, name, runtime
        self._workdir, self._metrics_file = workdir, metrics_file
        self._seed = _fold_in(experiment.seed, name)
        # Part of an epoch is rounded: an epoch is a unit of bookkeeping, the order of batches is endless.
        steps_per_epoch = max(1, round(len(experiment.rows["train"]) / options.global_batch_size))
        self._steps_per_epoch, self._total_steps = steps_per_epoch, steps_per_epoch * options.epochs
        self._eval_every_steps = max(1, round(steps_per_epoch * options.eval_every_epochs))
        self._model = experiment.model(name, runtime.axis_name)
        self._optimizer = make_optimizer(options, make_schedule(options, self._total_steps, steps_per_epoch))
        self._checkpoints = Checkpoints(run_folder.checkpoints(workdir, name))
        self._batches = self._train_batches()
        self._best: dict[str, Any] = {"best_step": -1, "best_value": None, "best_loss": None}
        training = experiment.config.training
        self._save_every_steps = training.checkpoint_every_steps
        self._monitor = StepMonitor(
            name, workdir, experiment.data.items.describe, training.max_bad_steps, runtime.shard.process_index
        )
        # What the checkpoint on disk is of; an evaluation that was broken off is due when it is gone on from.
        self._saved_step, self._evaluation_due = -1, False

    def train(self, backbones: Params) -> Params:
        """Trains from the last checkpoint, or from the start, to the end; returns the best variables.

        Args:
          backbones: Backbones that earlier stages trained, ``{"params": {"backbone_x": ..}, ..}``.
        """
        variables = self._initial_variables(backbones)
        if extract.is_wanted(self._experiment, self._name):
            self._use(extract.with_features(self._experiment, variables, self._runtime))
        trainable = self._experiment.trainable(self._name, variables["params"])
        create = functools.partial(
            TrainState.create,
            optimizer=self._optimizer,
            trainable=trainable,
            averaged=self._ema_decay > 0,
        )
        state = self._runtime.compile_once(create)(variables)
        state = self._restore(state)
        if int(state.step) < self._total_steps or self._evaluation_due:
            self._say_what_begins(state, trainable)
            try:
                state = self._loop(state, trainable)
            except Diverged as error:
                raise self._with_advice(error) from error
        self._checkpoints.keep_last_and_best()
        best = self._checkpoints.restore_variables(self._checkpoints.best_step(), state.evaluated_variables)
        self._checkpoints.close()
        return best

    def _say_what_begins(self, state: TrainState, trainable: tuple[str, ...]) -> None:
        """A line of the log, and the table of parameters in a file of its own."""
        name, options = self._name, self._experiment.config.training[self._name]
        learned = sum(x.size for part in trainable for x in jax.tree.leaves(state.params[part]))
        total = count_parameters(state.variables)
        path = self._workdir / f"parameters_{name}.txt"
        if self._runtime.is_main:
            files.write_text(path, f"{parameter_table(state.variables)}\ntrained: {learned:,}\n")
        parts = f" in {self._accumulation_steps} micro-batches" if self._accumulation_steps > 1 else ""
        logging.info(
            f"stage {name}: {options.epochs} epochs of {self._steps_per_epoch} steps, {self._total_steps} "
            f"steps; learning rate {options.learning_rate:g} ({options.optimizer}, {options.schedule}, "
            f"{options.warmup_epochs:g} epochs of warm-up); global batch {options.global_batch_size}{parts}; "
            f"trains {learned:,} of {total:,} parameters, listed in {path.name}"
        )

    @property
    def experiment(self) -> Experiment:
        """The fold as this stage looks at it; on features once it has been trained on them."""
        return self._experiment

    @property
    def chosen(self) -> dict[str, Any]:
        """``best_step``, ``best_value`` and ``best_loss`` of the checkpoint that `train` returned."""
        return dict(self._best)

    def extract(self, backbones: Params, shard: Shard | None) -> bool:
        """Extracts the features that `train` would train on; of one shard alone where one is given.

        Returns:
          Whether all of them are there.
        """
        self._checkpoints.close()
        variables = self._initial_variables(backbones)
        if shard is None:
            extract.with_features(self._experiment, variables, self._runtime)
            return True
        extractions = extract.plan(self._experiment, variables)
        extract.run(extractions, shard)
        return extract.finish(extractions)

    def _use(self, experiment: Experiment) -> None:
        """Trains on what this experiment's loader and model are instead."""
        self._experiment = experiment
        self._model = experiment.model(self._name, self._runtime.axis_name)
        self._batches = self._train_batches()

    def _train_batches(self) -> Any:
        return self._experiment.model_loader.train(
            self._experiment.rows["train"],
            global_batch_size=self._experiment.config.training[self._name].global_batch_size,
            seed=self._seed,
            shard=self._runtime.shard,
        )

    def adopt(self, folder: epath.Path) -> Params:
        """The best variables out of the checkpoints of another run's same stage.

        Args:
          folder: Of that stage's checkpoints.

        Raises:
          BadDataError: That stage is not finished, or does not say whom it was trained on.
        UsageError: It was trained on people whom this run evaluates, or on other data.
        """
        self._checkpoints.close()
        checkpoints = Checkpoints(folder, read_only=True)
        latest = checkpoints.latest_step()
        done = latest is not None and latest >= self._total_steps
        if not done or checkpoints.progress(latest)["evaluation_due"]:
            raise BadDataError(
                f"{folder} is at step {latest} of {self._total_steps}; run that study to its end first"
            )
        like = evaluate.abstract_variables(self._experiment, self._model, self._runtime)
        best_step = checkpoints.best_step()
        for step in {latest, best_step}:
            theirs = checkpoints.progress(step).get("record") or {}
            trained_backbones.check_checkpoint(self._record, theirs, f"checkpoint {step} in {folder}")
        best = checkpoints.restore_variables(best_step, like)
        checkpoints.close()
        logging.info(f"stage {self._name}: taken from {folder}")
        return best

    def _initial_variables(self, backbones: Params) -> Params:
        """Fresh variables, made already in place, with the backbones that earlier stages trained."""
        example = self._experiment.loader.example_batch(1)
        key = jax.random.fold_in(jax.random.key(self._experiment.seed), _fold_in(0, self._name))

        def init(batch: Any) -> Params:
            return self._model.init(key, batch["inputs"], batch["masks"], train=False)

        variables = dict(self._runtime.compile_once(init)(example))
        variables.setdefault("batch_stats", {})
        for stream, part, path in self._experiment.initial_weights(self._name):
            if not stream:
                variables = apply_fusion_weights(variables, path, logging.info)
            elif f"{BACKBONE}_{stream}" not in backbones["params"]:
                variables = apply_weights(variables, stream, path, logging.info, part=part)
        for kind, tree in backbones.items():
            known = {name: value for name, value in tree.items() if name in variables[kind]}
            variables[kind] = {**variables[kind], **self._runtime.place(known)}
        return variables

    def _restore(self, state: TrainState) -> TrainState:
        """The last checkpoint's state, with everything else put back to where it was; else ``state``."""
        latest = self._checkpoints.resume_step()
        if latest is None:
            self._metrics_file.rewind(self._name, -1)
            return state
        named = f"checkpoint {latest} of stage {self._name} in {run_folder.named(self._workdir)}"
        run_record.check_checkpoint(self._checkpoints.progress(latest), self._record, named)
        state, progress = self._checkpoints.restore(latest, state)
        self._best = {key: progress[key] for key in self._best}
        self._monitor.restore(progress["interval"])
        self._saved_step, self._evaluation_due = latest, progress["evaluation_due"]
        self._batches.set_state(progress["data"])
        self._metrics_file.rewind(self._name, latest - self._evaluation_due)
        position = (
            "is finished" if latest >= self._total_steps else f"goes on at {latest} of {self._total_steps}"
        )
        logging.info(f"stage {self._name} {position}")
        return state

    def _loop(self, state: TrainState, trainable: tuple[str, ...]) -> TrainState:
        """Step, and now and then evaluate on the selecting part and save."""
        runtime = self._runtime
        body = make_train_step(
            self._model,
            self._experiment.loss,
            self._optimizer,
            trainable=trainable,
            seed=self._seed,
            axis_name=runtime.axis_name,
            accumulation_steps=self._accumulation_steps,
            ema_decay=self._ema_decay,
        )
        train_step = runtime.compile(body, donate_state=True)
        eval_step = runtime.compile(make_eval_step(self._model), rows_out=True)
        first = step = int(state.step)
        state = runtime.put_state(state)
        clock = logging.Clock(self._total_steps, first)
        if self._evaluation_due:
            self._evaluate_and_save(state, step, eval_step, clock)
        while step < self._total_steps:
            if stop.requested():
                self._save_and_leave(state, step)
            batch = self._next_batch(state, step)
            moves.made(f"step {step + 1} of stage {self._name}")
            state, measured = train_step(state, runtime.put_batch(batch))
            step += 1
            self._monitor.add(step, batch, runtime.single(measured))
            if step == first + 1:
                jax.block_until_ready(measured)
                logging.info(f"stage {self._name}: first training step done")
                clock.start(step)
            if step % self._eval_every_steps == 0 or step == self._total_steps:
                self._evaluate_and_save(state, step, eval_step, clock)
            elif self._save_every_steps and step % self._save_every_steps == 0:
                self._save(state, step)
            elif clock.seconds_since_line() > _LOG_EVERY_SECONDS:
                self._log(step, f"loss {self._monitor.last_loss():.4f}", clock)
        return runtime.single(state)

    def _next_batch(self, state: TrainState, step: int) -> Any:
        try:
            return next(self._batches)
        except LostWorker:
            # All processes save together, and the others do not know of it.
            if jax.process_count() == 1:
                if stop.heard():
                    self._save_and_leave(state, step)
                self._save_here(state, step)
            raise

    def _evaluate_and_save(self, state: TrainState, step: int, eval_step: Any, clock: logging.Clock) -> None:
        trained = self._monitor.summary()
        try:
            scores = evaluate.validate(self._experiment, self._runtime, eval_step, state.evaluated_variables)
        except Interrupted:
            self._evaluation_due = True
            self._save_and_leave(state, step)
        except Diverged as error:
            raise Diverged(f"at step {step} of {self._total_steps}, {error}") from error
        if not math.isfinite(scores["loss"]):
            raise Diverged(f"at step {step} of {self._total_steps}, the loss is {scores['loss']}")
        value = scores[self._experiment.selection_metric]
        if is_better(value, scores["loss"], self._best):
            self._best = {"best_step": step, "best_value": value, "best_loss": scores["loss"]}
        self._metrics_file.write(self._name, step, "train", trained)
        self._metrics_file.write(self._name, step, "validation", scores)
        self._monitor.clear()
        self._evaluation_due = False
        self._save(state, step)
        names = _SHOWN[self._experiment.data.task.kind]
        shown = "  ".join(f"{name} {scores[name]:.4f}" for name in names if scores[name] is not None)
        best = " (best)" if self._best["best_step"] == step else ""
        part = self._experiment.split.selection
        loss = "none" if trained["loss"] is None else f"{trained['loss']:.4f}"
        self._log(step, f"train loss {loss}  {part}: {shown}{best}", clock)

    def _with_advice(self, error: Diverged) -> Diverged:
        """The sentence of a training that has diverged, once what was saved before is whole."""
        self._checkpoints.wait()
        good = self._checkpoints.best_step()
        kept = "no checkpoint was saved yet" if good is None else f"checkpoint {good} of before is kept"
        advice = what_to_lower(self._name, self._experiment.config.training[self._name])
        return Diverged(f"stage {self._name} has diverged: {error}; {kept}; {advice}")

    def _save(self, state: TrainState, step: int) -> None:
        """Starts saving all that going on from here needs."""
        progress = {
            **self._best,
            "data": self._batches.get_state(),
            "interval": self._monitor.as_json(),
            "evaluation_due": self._evaluation_due,
            "record": self._record,
        }
        run_folder.push(self._workdir)
        self._checkpoints.save(self._runtime.single(state), progress)
        self._saved_step = step

    def _save_here(self, state: TrainState, step: int) -> None:
        """Returns when where we are is on disk."""
        if self._saved_step != step:
            self._save(state, step)
        self._checkpoints.finish()

    def _save_and_leave(self, state: TrainState, step: int) -> NoReturn:
        """Saves where we are, and ends the program."""
        self._save_here(state, step)
        at = f"{step} of {self._total_steps}"
        raise Interrupted(f"stage {self._name} is saved at step {at}; {stop.GO_ON}")

    def _log(self, step: int, what: str, clock: logging.Clock) -> None:
        logging.info(
            f"stage {self._name}: step {step}/{self._total_steps}  {what}  "
            f"{clock.steps_per_second(step):.1f} steps/s  {clock.time_left(step)} left"
        )
        clock.line_was_written()


def check_options(name: str, options: Mapping[str, Any], runtime: Runtime) -> tuple[int, float]:
    """``accumulation_steps`` and ``ema_decay`` of a stage.

    Raises:
      UsageError: Micro-batches cannot be shared by the devices, or the decay is none.
    """
    parts, decay = options.get("accumulation_steps", 1), options.get("ema_decay", 0.0)
    whole, devices = options["global_batch_size"], runtime.num_row_shards
    if parts < 1 or whole % (parts * devices):
        raise UsageError(
            f"training.{name}.accumulation_steps={parts} cannot divide a global batch of {whole} on "
            f"{devices} devices; choose a global_batch_size that is a multiple of {max(parts, 1) * devices}"
        )
    if not 0.0 <= decay < 1.0:
        raise UsageError(f"training.{name}.ema_decay={decay}; expected 0 (no averages) or a number below 1")
    return parts, decay


def is_better(value: float | None, loss: float, best: Mapping[str, Any]) -> bool:
    """Whether a validation result beats the best so far (``best_step``, ``best_value``, ``best_loss``).

    Higher is better; the lower loss decides between equals, which small validation sets often give.
    """
    if best["best_step"] < 0:
        return True
    if value is None or best["best_value"] is None:
        return value is not None or loss < best["best_loss"]
    return (value, -loss) > (best["best_value"], -best["best_loss"])


def _fold_in(seed: int, name: str) -> int:
    """A seed that belongs to (seed, name) alone."""
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0] >> 1)
