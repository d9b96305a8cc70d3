"""The controls of a run: simple models that see the same rows of the same folds.

All that they learn, and all that is chosen of them, is of the training part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import simple_numbers
from data_pipelines.errors import UsageError
from data_pipelines.simple_numbers import Numbers
from jmt_jax import controls, frame_tables, frames, metrics, results, statistics
from jmt_jax.experiment import Data, Experiment, comma_separated
from jmt_jax.statistics import Predictions

NEED_NUMBERS = frozenset({"one_number", "linear"})
# Of one number there is nothing to hold back: this only keeps separable classes finite.
_ONE_NUMBER_L2 = 1e-2


class Control(NamedTuple):
    """What a control says of a part.

    Attributes:
      table: Its predictions, on the rows of the model's.
      facts: What was chosen for it on the training part, and figures beside the metrics, as JSON values:
        ``control_run`` in ``results.schema.json``.
    """

    table: Predictions
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What the controls see of some rows.

    Attributes:
      labels: int [N] or float [N, A].
      mask: bool, of that shape.
      subjects: N names.
      seconds: float64 [N] since the recording's start.
      numbers: Plain numbers of each row; None where no control asks for them.
      table: Outputs [N, K] to a table of predictions.
    """

    labels: np.ndarray
    mask: np.ndarray
    subjects: np.ndarray
    seconds: np.ndarray
    numbers: Numbers | None
    table: Callable[[np.ndarray], Predictions]


def descriptions(classes: bool) -> dict[str, str]:
    """Every control and what it is, for a task of classes or of values."""
    numbers = (
        "plain numbers of every stream (signals: mean, deviation, slope and range of a channel; faces: "
        "brightness and change; sound: loudness), its penalty chosen on training subjects"
    )
    return {
        "majority": "always the majority class of training" if classes else "always the mean of training",
        "one_number": "the one plain number of all streams' that tells most on training subjects, alone",
        "linear": f"{'logistic' if classes else 'ridge'} regression on {numbers}",
        "time": f"{'logistic' if classes else 'ridge'} regression on the time since the recording's start",
    }


def names(experiment: Experiment) -> tuple[str, ...]:
    """The controls that ``config.controls`` asks for.

    Raises:
      UsageError: One is unknown, or cannot be had from these data.
    """
    wanted = comma_separated(experiment.config.controls)
    for name in wanted:
        known = descriptions(experiment.data.task.is_classification)
        if name not in known:
            raise UsageError(f"controls names {name!r}; a control is one of {', '.join(known)}")
    if "time" in wanted and experiment.data.grid.kind == "clip":
        raise UsageError("the control 'time' needs a sliding or frames grid; clips have no time of their own")
    is_open = experiment.loader is not None  # before that nobody knows what the streams hold
    if NEED_NUMBERS & set(wanted) and is_open and not _streams(experiment):
        raise UsageError(
            f"the controls {' and '.join(sorted(NEED_NUMBERS))} need a stream of signals, faces or sound; "
            "set --config.controls=majority"
        )
    return wanted


def _streams(experiment: Experiment) -> dict[str, simple_numbers.Windows]:
    """The streams that plain numbers are known of."""
    streams = experiment.loader.streams
    return {name: stream for name, stream in streams.items() if simple_numbers.has_numbers(stream)}


def predict_controls(experiment: Experiment, rows: np.ndarray) -> dict[str, Control]:
    """Fits each control on the training rows and predicts ``rows`` (of every frame of them, by frame)."""
    wanted = names(experiment)
    if not wanted:
        return {}
    see = _see_frames if experiment.data.has_frames else _see_items
    with_numbers = bool(NEED_NUMBERS & set(wanted))
    train, tested = (see(experiment, own, with_numbers) for own in (experiment.rows["train"], rows))
    outputs = experiment.data.task.outputs
    found = {}
    for name in wanted:
        values, facts = _MODELS[name](train, tested, outputs)
        found[name] = Control(
            tested.table(values), {"fold": experiment.fold, "seed": experiment.seed, **facts}
        )
    return found


def save(folder: Path, part: str, said: Mapping[str, Control], outputs: Sequence[str]) -> None:
    """Writes the predictions of each control to ``<part>_<name>.csv``."""
    for name, control in said.items():
        results.save_predictions(folder / f"{part}_{name}.csv", control.table, outputs)


def load(folder: Path, part: str, wanted: Sequence[str], written: Mapping[str, Any]) -> dict[str, Control]:
    """What `save` wrote, with the facts that the run's ``results.json`` holds."""
    return {
        name: Control(
            results.load_predictions(folder / f"{part}_{name}.csv")[0], written["controls"][name]["runs"][0]
        )
        for name in wanted
    }


def summarise(
    config: Any,
    data: Data,
    by_seed: Sequence[Sequence[Mapping[str, Control]]],
    metric: statistics.MetricFn,
    runs: Sequence[Predictions],
    draws: Mapping[str, int],
) -> tuple[dict[str, results.Control], dict[str, dict[str, statistics.Interval]]]:
    """Metrics of each control, and how much better the model is on the same subjects.

    Args:
      config: The configuration.
      data: The data set.
      by_seed: What the controls said of each fold, seed by seed.
      metric: Of a table.
      runs: The model's tables, one a seed, as its metrics are of.
      draws: Arguments of the intervals.

    Returns:
      Name to the control; and name of a difference to metrics.
    """
    described = descriptions(data.task.is_classification)
    found, differences = {}, {}
    for name in by_seed[0][0]:
        said = [[fold[name] for fold in folds] for folds in by_seed]
        tables = [statistics.join([control.table for control in folds]) for folds in said]
        if data.has_frames:
            tables = frame_tables.headline(config, tables)
        found[name] = results.Control(
            described[name],
            statistics.estimate(metric, tables, **draws),
            [control.facts for folds in said for control in folds],
        )
        for unit in ("pooled", "subject"):
            differences[f"model - {name} ({unit})"] = statistics.paired_difference(metric, runs, tables, unit)
    return found, differences


def _see_items(experiment: Experiment, rows: np.ndarray, with_numbers: bool) -> _Rows:
    data = experiment.data
    items, is_classes = data.items, data.task.is_classification
    labels, mask = items.labels[rows], items.label_mask[rows]

    def table(values: np.ndarray) -> Predictions:
        return Predictions(
            subjects=tuple(items.subjects[rows]),
            recordings=tuple(items.recordings[number].id for number in items.recording[rows]),
            labels=np.where(mask, labels, -1 if is_classes else np.nan),
            outputs=values,
            mask=mask,
            times_seconds=items.start_seconds[rows] if data.grid.kind == "sliding" else None,
        )

    numbers = None
    if with_numbers:
        numbers = simple_numbers.of_items(data.prepared, _streams(experiment), items, rows)
    return _Rows(labels, mask, items.subjects[rows], items.start_seconds[rows], numbers, table)


def _see_frames(experiment: Experiment, rows: np.ndarray, with_numbers: bool) -> _Rows:
    """Every frame of the rows' recordings."""
    data = experiment.data
    recordings = np.unique(data.items.recording[rows])
    value_range = frame_tables.options(experiment.config).value_range
    streams = _streams(experiment)
    labels, masks, subjects, seconds, found = [], [], [], [], []
    for number in recordings:
        recording = data.items.recordings[number]
        values, mask = data.task.labels(recording.annotation)
        labels.append(values)
        masks.append(mask)
        subjects += [recording.subject] * len(values)
        seconds.append(recording.annotation.times_seconds)
        if with_numbers:
            found.append(simple_numbers.of_frames(data.prepared, streams, recording))
    numbers = Numbers(found[0].names, np.concatenate([own.values for own in found])) if found else None
    return _Rows(
        np.concatenate(labels),
        np.concatenate(masks),
        np.array(subjects, dtype=str),
        np.concatenate(seconds),
        numbers,
        lambda values: frame_tables.table_of_values(data, recordings, frames.clip(values, value_range)),
    )


def _majority(train: _Rows, tested: _Rows, outputs: tuple[str, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    if train.labels.ndim == 1:
        counts = np.bincount(train.labels[train.mask], minlength=len(outputs))
        chosen = {"class": outputs[int(counts.argmax())]}
        values = counts / counts.sum()
    else:
        values = np.array([train.labels[m, a].mean() for a, m in enumerate(train.mask.T)], np.float64)
        chosen = {name: f"{value:.4f}" for name, value in zip(outputs, values, strict=True)}
    return np.tile(values, (len(tested.labels), 1)), {"chosen": chosen}


def _linear(train: _Rows, tested: _Rows, outputs: tuple[str, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    return _regression(train, tested, outputs, train.numbers.values, tested.numbers.values)


def _time(train: _Rows, tested: _Rows, outputs: tuple[str, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    return _regression(train, tested, outputs, *controls.time_features(train.seconds, tested.seconds))


def _regression(
    train: _Rows, tested: _Rows, outputs: tuple[str, ...], train_x: np.ndarray, test_x: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Logistic or ridge regression, its penalty chosen on training subjects."""
    if train.labels.ndim == 1:
        m = train.mask
        values, penalty = controls.penalised_logistic_regression(
            train_x[m], train.labels[m], train.subjects[m], test_x, len(outputs)
        )
        return values, {"penalty": {"class": penalty}}
    columns, penalties = [], {}
    for a, name in enumerate(outputs):
        m = train.mask[:, a]
        column, penalties[name] = controls.ridge(train_x[m], train.labels[m, a], train.subjects[m], test_x)
        columns.append(column)
    return np.stack(columns, axis=1), {"penalty": penalties}


def _one_number(train: _Rows, tested: _Rows, outputs: tuple[str, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    """Each number alone; the headline is of the one that tells most on the training rows, for each output.

    How much it tells is the AUROC of classes, the CCC of values.
    """
    numbers, each = train.numbers.names, {}
    if train.labels.ndim == 1:
        m, known = train.mask, tested.mask
        found, scores = [], []
        for column in range(len(numbers)):
            both = np.concatenate([train.numbers.values[m, column], tested.numbers.values[:, column]])
            y = train.labels[m]
            values = controls.logistic_regression(
                both[: len(y), None], y, both[:, None], len(outputs), _ONE_NUMBER_L2
            )
            score = metrics.classification(y, values[: len(y)])["auroc"]
            scores.append(0.0 if score is None else score)
            found.append(values[len(y) :])
            tested_score = metrics.classification(tested.labels, found[-1], known)
            each[numbers[column]] = {"accuracy": tested_score["accuracy"], "auroc": tested_score["auroc"]}
        best = int(np.argmax(scores))
        return found[best], {"chosen": {"class": numbers[best]}, "each": each}
    columns, chosen = [], {}
    for a, name in enumerate(outputs):
        m, known = train.mask[:, a], tested.mask[:, a]
        y, found, scores = train.labels[m, a], [], []
        for column, number in enumerate(numbers):
            x = train.numbers.values[m, column]
            score = _ccc(y, controls.line(x, y, x))
            scores.append(0.0 if score is None else score)
            found.append(controls.line(x, y, tested.numbers.values[:, column]))
            own = _ccc(tested.labels[known, a], found[-1][known])
            each.setdefault(number, {})[f"ccc_{name}"] = own
        best = int(np.argmax(scores))
        chosen[name] = numbers[best]
        columns.append(found[best])
    return np.stack(columns, axis=1), {"chosen": chosen, "each": each}


def _ccc(labels: np.ndarray, values: np.ndarray) -> float | None:
    return metrics.regression(labels[:, None], values[:, None], names=("x",))["ccc_x"]


_MODELS: Mapping[str, Callable] = {
    "majority": _majority,
    "one_number": _one_number,
    "linear": _linear,
    "time": _time,
}
