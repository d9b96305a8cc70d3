"""Evaluation: predictions of one part of a split, their metrics, and the files that a run leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.loader import PADDING
from data_pipelines.normalise import LOOKS_AHEAD
from data_pipelines.splits import EVALUATED
from jmt_jax import (
    control_models,
    divergence,
    frame_tables,
    logging,
    metrics,
    moves,
    one_answer,
    paper_facts,
    results,
    results_text,
    run_folder,
    run_pictures,
    statistics,
    stop,
)
from jmt_jax.experiment import Data, Experiment
from jmt_jax.models.model import present
from jmt_jax.models.parameters import abstract_init
from jmt_jax.runtime import Runtime
from jmt_jax.statistics import Predictions
from jmt_jax.steps import make_eval_step
from jmt_jax.train_state import Params


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one fold with one seed said of one part.

    Attributes:
      split: The split as JSON values, with the seed.
      table: The model's predictions.
      controls: Name to what a control says of the same rows.
      seconds: Part of the run to its wall-clock time.
      facts: What else a paper's table says, from `paper_facts.of_run`.
    """

    split: dict[str, Any]
    table: Predictions
    controls: Mapping[str, control_models.Control]
    seconds: Mapping[str, float]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def check(experiment: Experiment) -> None:
    """Raises UsageError at once for what would otherwise be found out when training is over."""
    if experiment.config.eval.split not in EVALUATED:
        raise UsageError(f"eval.split={experiment.config.eval.split!r}; it is one of {', '.join(EVALUATED)}")
    # Without data there are no rows yet.
    if experiment.rows and not len(experiment.rows[experiment.config.eval.split]):
        held = ", ".join(part for part in EVALUATED if len(experiment.rows[part]))
        raise UsageError(
            f"protocol {experiment.split.name} has no {experiment.config.eval.split} part here; set "
            f"--config.eval.split to one of {held}"
        )
    _ = experiment.selection_metric, experiment.stages, control_models.names(experiment)
    if experiment.data.has_frames:
        frame_tables.options(experiment.config).check(experiment.data.task.outputs)


def validate(
    experiment: Experiment, runtime: Runtime, eval_step: Callable, variables: Params
) -> dict[str, Any]:
    """Metrics and loss on the part that chooses the checkpoint; of smoothed values where frames have them.

    Args:
      experiment: The fold.
      runtime: Devices.
      eval_step: Compiled by the runtime.
      variables: Of the state as the train step returns it.
    """
    rows = experiment.rows[experiment.split.selection]
    logits = predict(experiment, runtime, eval_step, variables, rows)
    data = experiment.data
    labels, mask = data.items.labels[rows], data.items.label_mask[rows]
    table = make_table(experiment.config, data, rows, logits)
    if data.has_frames:
        mask = mask & np.isfinite(logits)
        table = frame_tables.smoothed(table, frame_tables.options(experiment.config))
    loss = float(experiment.loss.value(experiment.loss.moments(logits, labels, mask)))
    return {"loss": loss, **_metrics(data, table)}


def predict(
    experiment: Experiment, runtime: Runtime, eval_step: Callable, variables: Params, rows: np.ndarray
) -> np.ndarray:
    """Logits of rows of the item table; each row is evaluated once, padding is dropped.

    Returns:
      float32 [N, K]; or [N, S, A] where tokens have frames of their own, NaN for a token without any stream.
    """
    batch_size = experiment.config.eval.global_batch_size
    runtime.check_batch_size("eval.global_batch_size", batch_size)
    has_frames, tokens = experiment.data.has_frames, experiment.data.grid.tokens
    shape = (tokens, experiment.num_outputs) if has_frames else (experiment.num_outputs,)
    logits = np.full((len(rows), *shape), np.nan, np.float32)
    place_of = {int(row): place for place, row in enumerate(rows)}
    for batch in experiment.model_loader.evaluate(rows, global_batch_size=batch_size, shard=runtime.shard):
        stop.check("everything up to this evaluation is kept")
        moves.made("a batch of an evaluation")
        batch = runtime.put_batch(batch)
        found, index, masks = runtime.fetch_rows(
            (eval_step(variables, batch), batch["index"], batch["masks"] if has_frames else {})
        )
        index, found = np.asarray(index), np.asarray(found)
        known = np.asarray(present(masks)) if has_frames else np.ones(len(found), bool)
        divergence.check_outputs(found[index != PADDING], known[index != PADDING])
        for row, values in zip(index, np.where(known[..., None], found, np.nan), strict=True):
            if row != PADDING:
                logits[place_of[int(row)]] = values
    return logits


def make_table(config: Any, data: Data, rows: np.ndarray, logits: np.ndarray) -> Predictions:
    """Predictions with probabilities (classification) or values (regression), a row an item or a frame."""
    if data.has_frames:
        return frame_tables.make_table(data, rows, logits, frame_tables.options(config))
    items = data.items
    labels, mask = items.labels[rows], items.label_mask[rows]
    fields = {
        "subjects": tuple(items.subjects[rows]),
        "recordings": tuple(items.recordings[number].id for number in items.recording[rows]),
        "mask": mask,
        "times_seconds": items.start_seconds[rows] if data.grid.kind == "sliding" else None,
    }
    if data.task.is_classification:
        return Predictions.of_logits(logits=logits, labels=np.where(mask, labels, -1), **fields)
    return Predictions(outputs=logits, labels=np.where(mask, labels, np.nan), **fields)


def evaluate_run(
    experiment: Experiment,
    runtime: Runtime,
    variables: Params,
    workdir: Path,
    *,
    part: str = "test",
    seconds: Mapping[str, float],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Predicts one part, with its controls, and writes all files of it.

    Args:
      experiment: The fold.
      runtime: Devices.
      variables: Parameters and batch statistics of the last stage's model.
      workdir: The run's folder.
      part: ``test``, ``validation`` or ``train``.
      seconds: What the parts of the run took.
      facts: From `paper_facts.of_run`, of the fold before features took the place of its streams.

    Returns:
      What was written to ``results.json``.
    """
    eval_step = runtime.compile(
        make_eval_step(experiment.model("evaluation", runtime.axis_name)), rows_out=True
    )
    rows = experiment.rows[part]
    with divergence.explained(experiment.config, experiment.stages[-1]):
        logits = predict(experiment, runtime, eval_step, runtime.put_state(variables), rows)
    outcome = Outcome(
        split=experiment.split_facts,
        table=make_table(experiment.config, experiment.data, rows, logits),
        controls=control_models.predict_controls(experiment, rows),
        seconds=seconds,
        facts=dict(facts),
    )
    if runtime.is_main:
        names = experiment.data.task.outputs
        results.save_predictions(workdir / "predictions" / f"{part}.csv", outcome.table, names)
        control_models.save(workdir / "predictions", part, outcome.controls, names)
        if experiment.data.has_frames:
            frame_tables.write(experiment, rows, logits, outcome.table, workdir, part)
    config, data = experiment.config, experiment.data
    return summarise(config, data, [outcome], workdir, part=part, is_main=runtime.is_main)


def load_outcome(experiment: Experiment, workdir: Path, part: str = "test") -> Outcome:
    """The outcome of a finished run, from its files."""
    table, _ = results.load_predictions(workdir / "predictions" / f"{part}.csv")
    written = results.read(results_path(workdir, part))
    wanted = control_models.names(experiment)
    controls = control_models.load(workdir / "predictions", part, wanted, written)
    facts = paper_facts.of_results(written)
    return Outcome(experiment.split_facts, table, controls, written["seconds"], facts)


def abstract_variables(experiment: Experiment, model: nn.Module, runtime: Runtime) -> Params:
    """Shapes, types and placement of a model's variables, to restore into; nothing is computed."""
    shapes = {"batch_stats": {}, **abstract_init(model, experiment.loader.example_batch(1))}
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        runtime.shardings(shapes),
    )


def summarise(
    config: Any, data: Data, outcomes: Sequence[Outcome], workdir: Path, *, part: str, is_main: bool = True
) -> dict[str, Any]:
    """Metrics with intervals of one or more runs, ``results.json`` and the pictures.

    Args:
      config: The configuration.
      data: The data set.
      outcomes: One a fold and seed; the folds of a seed are joined, the seeds averaged. On other recordings
        than the run's own both are averaged.
      workdir: Where the files go.
      part: Which part the outcomes are of.
      is_main: Whether this process writes.
    """
    metric = _metric(data)
    draws = {"num_resamples": config.eval.num_resamples, "seed": 0}
    by_seed: dict[tuple[int, int], list[Outcome]] = {}
    for outcome in outcomes:
        # Of other recordings every fold predicts all.
        key = (outcome.split["seed"], outcome.split["fold"] if data.other else 0)
        by_seed.setdefault(key, []).append(outcome)
    runs = [statistics.join([outcome.table for outcome in group]) for group in by_seed.values()]
    variants = {}
    if data.has_frames:
        runs, variants = frame_tables.headline_and_variants(config, metric, runs, draws)
    found = statistics.estimate(metric, runs, **draws)
    said = [[outcome.controls for outcome in group] for group in by_seed.values()]
    controls, differences = control_models.summarise(config, data, said, metric, runs, draws)
    written = results.build(
        data=_facts(data, config),
        splits=[{**outcome.split, **paper_facts.of_part(outcome.facts)} for outcome in outcomes],
        sample=data.is_sample,
        warning=data.warning or None,
        metrics=found,
        per_subject=statistics.per_subject(metric, runs),
        seconds=_sum_seconds([outcome.seconds for outcome in outcomes]),
        config=config.to_dict(),
        confusion_matrix=_confusion(data, statistics.join(runs)) if data.task.is_classification else None,
        controls=controls,
        variants=variants,
        unit="recording" if data.has_frames else "subject",
        paired_differences=differences,
        reported=part,
        rows=paper_facts.rows_behind(list(found), data.task.outputs, runs),
        extra=paper_facts.of_file([outcome.facts for outcome in outcomes]),
    )
    if is_main:
        if written["confusion_matrix"]:
            run_pictures.confusion_matrix(
                workdir / f"confusion_matrix{_suffix(part)}.png", written, part, config.model.fusion
            )
        if data.has_frames:
            path = workdir / f"over_time{_suffix(part)}.png"
            run_pictures.over_time(path, runs[0], written, data.task.outputs, part, config.model.fusion)
        # The last file: a run that has it is finished.
        results.write(results_path(workdir, part), written)
        results_text.log(written, part, run_folder.named(results_path(workdir, part)))
        said = one_answer.sentence(
            "the model", runs, data.task.outputs if data.task.is_classification else ()
        )
        if said:
            logging.warning(said)
    return written


def _confusion(data: Data, table: Predictions) -> dict[str, Any]:
    counts = metrics.classification(table.labels, table.scores, table.mask)["confusion_matrix"]
    return {"classes": list(data.task.outputs), "counts": counts}


def results_path(workdir: Path, part: str) -> Path:
    """``results.json`` for the test part, else ``results_<part>.json``."""
    return workdir / f"results{_suffix(part)}.json"


def _suffix(part: str) -> str:
    """What tells the files of another part from those of the test part."""
    return "" if part == "test" else f"_{part}"


def _metrics(data: Data, table: Predictions) -> dict[str, Any]:
    return statistics.values(_metric(data), table)


def _metric(data: Data) -> statistics.MetricFn:
    if data.task.is_classification:
        return statistics.classification_metric
    return statistics.regression_metric(data.task.outputs)


def _facts(data: Data, config: Any) -> dict[str, Any]:
    card = data.prepared.card
    frames = {"frames": frame_tables.facts(config)} if data.has_frames else {}
    return {
        "name": data.name,
        "task": data.task.name,
        "streams": list(data.streams),
        "recordings": len(data.prepared.recordings),
        "items": len(data.items),
        "fingerprints": card.get("fingerprints", {}),
        "normalisation": {
            stream: {
                "mode": config.data.streams[stream].get("normalise", "none"),
                "looked_ahead": config.data.streams[stream].get("normalise", "none") in LOOKS_AHEAD,
            }
            for stream in data.streams
            if data.prepared.streams[stream].kind == "samples"
        },
        "labels_shuffled": config.data.shuffle_labels or "no",
        **frames,
        **({"other": dict(data.other)} if data.other else {}),
    }


def _sum_seconds(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: round(sum(part.get(name, 0.0) for part in parts), 2) for name in names}
