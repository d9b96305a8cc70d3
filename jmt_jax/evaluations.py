"""``--mode=eval``: checkpoints of a run again, on a part of its split or on other recordings.

Nothing that is there is written over. Every evaluation has a folder of its own in ``evaluations`` of the
run's folder, named by what was evaluated, and laid out as a run's: ``config.json``, results, predictions.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.errors import BadDataError
from jmt_jax import evaluate, extract, files, logging, paper_facts, run_config, run_folder, run_record
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.distributed import agreed_text
from jmt_jax.experiment import Experiment
from jmt_jax.runtime import Runtime

FOLDER = "evaluations"


def run_of(folder: Path) -> Path:
    """The folder of the run that an evaluation is of; of a run itself its own."""
    return folder.parent.parent if folder.parent.name == FOLDER else folder


class Trained(NamedTuple):
    """One fold with one seed that has been trained.

    Attributes:
      experiment: The fold, as its record says.
      folder: Where it was trained.
    """

    experiment: Experiment
    folder: Path


def run(trained: Sequence[Trained], workdir: Path, *, started: float, called: str = "") -> dict[str, Any]:
    """Evaluates ``eval.checkpoint`` of every fold and seed on the part ``eval.split``.

    Args:
      trained: The folds.
      workdir: The run's folder.
      started: When, by `time.monotonic`.
      called: What is evaluated, in the folder's name; "" for the part.

    Returns:
      What the evaluation's ``results.json`` (``results_<part>.json``) holds.

    Raises:
      BadDataError: A fold has no such checkpoint.
    """
    experiment = trained[0].experiment
    config, data, part = experiment.config, experiment.data, experiment.config.eval.split
    is_main = jax.process_index() == 0
    for one in trained:
        evaluate.check(one.experiment)
    found = [_find(one) for one in trained]
    out = workdir / FOLDER / _new_folder(workdir, f"{called or part}_{config.eval.checkpoint}")
    with _removed_on_failure(out):
        outcomes, written = [], {}
        for one, (checkpoints, step) in zip(trained, found, strict=True):
            folder = out / one.folder.relative_to(workdir)
            seconds = {"evaluation": time.monotonic() - started}
            written = _evaluate(one, checkpoints, step, folder, seconds)
            run_folder.share(folder)
            outcomes.append(evaluate.load_outcome(one.experiment, folder, part))
        if len(trained) > 1:
            written = evaluate.summarise(config, data, outcomes, out, part=part, is_main=is_main)
    # The last file: a folder without it, of a process that was killed, is taken for no evaluation.
    if is_main:
        files.write_text(out / "config.json", run_config.text(config))
    return written


@contextlib.contextmanager
def _removed_on_failure(out: Path) -> Iterator[None]:
    """Removes this evaluation's own folder where it ends early: half a folder looks like a result."""
    try:
        yield
    except BaseException:
        if jax.process_index() == 0:
            run_folder.remove(out)
        raise


def _find(one: Trained) -> tuple[Checkpoints, int]:
    """The checkpoints of the last stage, and which one is meant."""
    stage = one.experiment.stages[-1]
    folder = run_folder.checkpoints(one.folder, stage)
    if not folder.is_dir():
        raise BadDataError(
            f"there is no checkpoint of stage {stage} in {run_folder.named(one.folder)}; train first, with "
            "that --workdir"
        )
    checkpoints = Checkpoints(folder, read_only=True)
    return checkpoints, checkpoints.find(str(one.experiment.config.eval.checkpoint))


def _evaluate(
    one: Trained, checkpoints: Checkpoints, step: int, out: Path, seconds: dict[str, float]
) -> dict[str, Any]:
    experiment = one.experiment
    config, runtime, stage = experiment.config, Runtime.of(experiment.config), experiment.stages[-1]
    named = f"checkpoint {step} of stage {stage} in {run_folder.named(one.folder)}"
    run_record.check_checkpoint(checkpoints.progress(step), run_record.read(one.folder), named)
    like = evaluate.abstract_variables(experiment, experiment.model("evaluation", None), runtime)
    variables = checkpoints.restore_variables(step, like)
    logging.info(f"evaluating checkpoint {step} of stage {stage} on the {config.eval.split} part")
    value = paper_facts.value_at(one.folder, experiment, step)
    facts = paper_facts.of_run(experiment, variables, paper_facts.checkpoint(experiment, step, value))
    if experiment.data.other is None and extract.is_wanted(experiment, stage):
        experiment = extract.find(experiment, variables)
    return evaluate.evaluate_run(
        experiment, runtime, variables, out, part=config.eval.split, seconds=seconds, facts=facts
    )


def _new_folder(workdir: Path, wanted: str) -> str:
    """Makes a folder that nobody has used; its name is the wanted one, or that with a number behind it."""
    name, number = wanted, 1
    while jax.process_index() == 0:
        try:
            (workdir / FOLDER / name).mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
            name = f"{wanted}_{number}"
    return agreed_text(name)
