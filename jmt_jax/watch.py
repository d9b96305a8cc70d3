"""Evaluation beside a training: a process of its own that follows the run's finished checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jmt_jax import evaluate, extract, files, logging, paper_facts, run_folder, run_record, stop
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.experiment import Experiment
from jmt_jax.runtime import Runtime
from jmt_jax.stage import is_better
from jmt_jax.steps import make_eval_step
from jmt_jax.train_state import Params
from jmt_jax.weights import load_weights, save_weights

DONE = "done"
_POLL_SECONDS, _SAY_SECONDS = 2.0, 600.0


def mark_done(folder: Path) -> None:
    """Says to whoever follows a run that no further checkpoint will come."""
    files.write_text(folder / DONE, "trained and evaluated\n")


def wait_for(path: Path) -> None:
    """Waits until a file is there.

    Raises:
      Interrupted: A signal came first.
    """
    logging.info(f"waiting for {run_folder.named(path)}")
    while not _is_there(path):
        stop.check("nothing has been evaluated yet")
        time.sleep(_POLL_SECONDS)


def _is_there(path: Path) -> bool:
    run_folder.fetch(path)
    return path.exists()


def follow(watchers: Sequence[Watcher]) -> list[dict[str, Any]]:
    """Follows runs to their ends.

    Returns:
      What each watcher published at its run's end.

    Raises:
      Interrupted: A signal came first; what is evaluated is kept.
    """
    last = time.monotonic()
    while not all(watcher.is_done for watcher in watchers):
        if sum(watcher.look() for watcher in watchers):
            last = time.monotonic()
            continue
        stop.check("what has been evaluated is kept")
        if time.monotonic() - last > _SAY_SECONDS:
            logging.info("no new checkpoint; the trainer's folder has no file 'done' yet")
            last = time.monotonic()
        time.sleep(_POLL_SECONDS)
    return [watcher.published for watcher in watchers]


class Watcher:
    """Evaluates every checkpoint of a run's last stage once, on the part that chooses; keeps the best.

    ``watch/metrics.jsonl`` has a row for each, ``watch/best.safetensors`` is a copy of the best so far (its
    step and scores are beside it in ``best.json``), so nothing is lost when the trainer removes its
    checkpoints, or when this process ends and is started again. When the run is done the best is evaluated
    on ``eval.split``, and only then: ``watch/results.json``.

    Args:
      experiment: The fold.
      runtime: Devices.
      folder: The run's.
    """

    def __init__(self, experiment: Experiment, runtime: Runtime, folder: Path) -> None:
        self._experiment, self._runtime = experiment, runtime
        self._run, self._folder = folder, folder / "watch"
        self._stage = experiment.stages[-1]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._metrics = logging.MetricsFile(self._folder)
        self._eval_step = self._compile_step()
        self._like = evaluate.abstract_variables(experiment, experiment.model("evaluation", None), runtime)
        self._best: dict[str, Any] = {"best_step": -1, "best_value": None, "best_loss": None}
        self._seen: set[int] = set()
        self.published: dict[str, Any] = {}
        self._metrics.rewind(self._stage, np.iinfo(np.int64).max)  # half a line that a killed process left
        for row in self._metrics.rows():
            self._take_note(row["step"], row)
        self._recover()

    @property
    def is_done(self) -> bool:
        """Whether the run is over and its best checkpoint published."""
        return bool(self.published)

    def look(self) -> int:
        """Evaluates what is new; publishes if the run is done; how many checkpoints were new."""
        if self.is_done:
            return 0
        done = _is_there(self._run / DONE)  # before looking: whatever comes later is seen next time
        checkpoints = Checkpoints(run_folder.checkpoints(self._run, self._stage), read_only=True)
        new = [step for step in checkpoints.steps() if step not in self._seen]
        for step in new:
            self._evaluate(checkpoints, step)
        checkpoints.close()
        if done and not new:
            self._publish()
        return len(new)

    def _evaluate(self, checkpoints: Checkpoints, step: int) -> None:
        try:
            progress = checkpoints.progress(step)
            variables = checkpoints.restore_variables(step, self._like)
        except Exception as error:  # whatever it is that half a folder leads to
            if step in checkpoints.steps():
                self._seen.add(step)
                logging.warning(f"checkpoint {step} is not evaluated: {error}")
            else:
                logging.info(f"checkpoint {step} was removed before it could be evaluated")
            return
        # The fold may have begun after this process did.
        named = f"checkpoint {step} of stage {self._stage} in {run_folder.named(self._run)}"
        run_record.check_checkpoint(progress, run_record.of(self._experiment), named)
        self._use_features(variables)
        placed = self._runtime.put_state(variables)
        scores = evaluate.validate(self._experiment, self._runtime, self._eval_step, placed)
        is_best = self._take_note(step, scores)
        if is_best:
            note = {"stage": self._stage, "step": step, "part": self._experiment.split.selection, **scores}
            save_weights(self._best_path, jax.tree.map(np.asarray, variables), note)
        self._metrics.write(self._stage, step, "validation", scores)
        value = scores[self._experiment.selection_metric]
        shown = "none" if value is None else f"{value:.4f}"
        logging.info(
            f"checkpoint {step}: {self._experiment.selection_metric} {shown}{' (best)' if is_best else ''}"
        )

    def _compile_step(self) -> Callable:
        model = self._experiment.model("evaluation", self._runtime.axis_name)
        return self._runtime.compile(make_eval_step(model), rows_out=True)

    def _use_features(self, variables: Params) -> None:
        """Looks at what frozen backbones said, where the trainer has extracted that into our cache."""
        if self._experiment.features is None and extract.is_wanted(self._experiment, self._stage):
            self._experiment = extract.find(self._experiment, variables)
            if self._experiment.features is not None:
                self._eval_step = self._compile_step()

    def _take_note(self, step: int, scores: dict[str, Any]) -> bool:
        """Counts a checkpoint as evaluated; whether it is the best so far."""
        self._seen.add(step)
        value = scores[self._experiment.selection_metric]
        if not is_better(value, scores["loss"], self._best):
            return False
        self._best = {"best_step": step, "best_value": value, "best_loss": scores["loss"]}
        return True

    @property
    def _best_path(self) -> Path:
        return self._folder / "best.safetensors"

    def _recover(self) -> None:
        """A process that ended between keeping a new best and its row: the row is written now."""
        note = logging.read_json(self._best_path.with_suffix(".json"))
        if note and note["step"] not in self._seen:
            scores = {name: value for name, value in note.items() if name not in ("stage", "step", "part")}
            self._take_note(note["step"], scores)
            self._metrics.write(self._stage, note["step"], "validation", scores)

    def _publish(self) -> None:
        """The best on the part ``eval.split``, once."""
        part = self._experiment.config.eval.split
        path = evaluate.results_path(self._folder, part)
        if path.exists():
            self.published = evaluate.results.read(path)
            return
        variables = self._best_variables()
        best = self._best
        checkpoint = paper_facts.checkpoint(self._experiment, best["best_step"], best["best_value"])
        facts = paper_facts.of_run(self._experiment, variables, checkpoint)
        self._use_features(variables)
        logging.info(f"the run is done; checkpoint {self._best['best_step']} is the best by validation")
        self.published = evaluate.evaluate_run(
            self._experiment,
            self._runtime,
            variables,
            self._folder,
            part=part,
            seconds={},
            facts=facts,
        )

    def _best_variables(self) -> Params:
        found = {"batch_stats": {}, **load_weights(self._best_path)}
        return jax.tree.map(
            lambda like, value: jax.device_put(np.asarray(value, like.dtype), like.sharding),
            self._like,
            found,
        )
