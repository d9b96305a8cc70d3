"""What is sure about a score: intervals by bootstrap over subjects, and paired differences.

The unit that is drawn is the *subject*, never the row: rows of one person are alike, and an interval over
rows would be far too narrow. All runs (seeds) of a comparison share every draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.special

from jmt_jax import metrics

# Rows times draws that are weighted at once: 16 MB of float64.
_CELLS_AT_ONCE = 2_000_000
# An interval needs this share of the draws to be defined (an AUROC is not where a class was not drawn).
_DEFINED_SHARE = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about rows (clips or windows), beside the truth.

    Attributes:
      subjects: N names.
      recordings: N recording ids.
      labels: int [N] for classes, -1 where unlabelled; or float [N, A], NaN where unlabelled.
      outputs: float [N, K] class probabilities, or float [N, A] predictions.
      mask: bool, the labels' shape; True where labelled.
      times_seconds: float64 [N] since the recording's start; None where a row is a whole recording.
      logits: float32 [N, K], whose softmax the probabilities are; None for values, and for models that give
        probabilities themselves.
    """

    subjects: Sequence[str]
    recordings: Sequence[str]
    labels: np.ndarray
    outputs: np.ndarray
    mask: np.ndarray
    times_seconds: np.ndarray | None = None
    logits: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Checks the shapes."""
        rows = len(self.outputs)
        lengths = {len(self.subjects), len(self.recordings), len(self.labels), len(self.mask)}
        if self.times_seconds is not None:
            lengths.add(len(self.times_seconds))
        if self.logits is not None and self.logits.shape != self.outputs.shape:
            raise ValueError(
                f"logits {self.logits.shape} beside outputs {self.outputs.shape}; expected one each"
            )
        expected = self.outputs.shape if self.labels.ndim == 2 else (rows,)
        if lengths != {rows} or self.labels.shape != expected or self.mask.shape != expected:
            raise ValueError(
                f"outputs {self.outputs.shape}, labels {self.labels.shape}, mask {self.mask.shape}, "
                f"{len(self.subjects)} subjects, {len(self.recordings)} recordings; expected equal lengths"
            )

    @classmethod
    def of_logits(cls, *, logits: np.ndarray, **fields: Any) -> Predictions:
        """Predictions of classes from their logits [N, K]; probabilities are their softmax in float64."""
        logits = np.asarray(logits, np.float32)
        outputs = scipy.special.softmax(logits.astype(np.float64), axis=-1)
        return cls(outputs=outputs, logits=logits, **fields)

    @property
    def scores(self) -> np.ndarray:
        """What classes are decided and rows ranked by: float64 [N, K], monotone in the probabilities.

        Of logits it is the log-odds of each class (the logits themselves for K = 2), which stay apart where
        probabilities are all 1; else the outputs.
        """
        if self.logits is None:
            return self.outputs
        logits = self.logits.astype(np.float64)
        if logits.shape[1] == 2:
            return logits
        others = np.where(np.eye(logits.shape[1], dtype=bool), -np.inf, logits[:, None, :])
        return logits - scipy.special.logsumexp(others, axis=-1)

    def labelled_subjects(self) -> tuple[str, ...]:
        """The subjects with at least one label, sorted, each once."""
        labelled = self.mask if self.mask.ndim == 1 else self.mask.any(axis=1)
        return tuple(sorted({s for s, real in zip(self.subjects, labelled, strict=True) if real}))


class Interval(NamedTuple):
    """A value and how sure it is.

    Attributes:
      value: The metric (or difference), mean over the runs; None where it is undefined.
      ci95: The 2.5 and 97.5 percentile over the draws; None with fewer than two subjects, or where the metric
        is undefined in more than a tenth of the draws.
      subjects: How many labelled subjects it rests on.
    """

    value: float | None
    ci95: tuple[float, float] | None
    subjects: int


# (table, row weights float64 [R, N]) -> name to float64 [R], NaN where undefined.
MetricFn = Callable[[Predictions, np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class RegressionMetric:
    """``metrics.regression`` as a ``MetricFn`` that also takes weights of whole subjects.

    Its metrics are made of sums over rows, so a draw costs as much as there are subjects, however many rows
    (frames) they have.

    Attributes:
      names: Of the outputs.
    """

    names: tuple[str, ...]

    def __call__(self, table: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics [R] for row weights [R, N]."""
        return metrics.weighted_regression(table.labels, table.outputs, table.mask, self.names, weights)

    def of_groups(self, table: Predictions, groups: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics [R] for weights [R, G] of groups of rows; ``groups`` int [N] says which row is in which."""
        return metrics.grouped_regression(
            table.labels, table.outputs, table.mask, self.names, groups, weights
        )


def classification_metric(table: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """``metrics.classification`` as a ``MetricFn``."""
    return metrics.weighted_classification(table.labels, table.scores, table.mask, weights)


def regression_metric(names: Sequence[str]) -> RegressionMetric:
    """``metrics.regression`` for outputs of these names as a ``MetricFn``."""
    return RegressionMetric(tuple(names))


def join(tables: Sequence[Predictions]) -> Predictions:
    """One table with the rows of all: the folds of one seed make one run."""
    times = [table.times_seconds for table in tables]
    logits = [table.logits for table in tables]
    return Predictions(
        subjects=tuple(s for table in tables for s in table.subjects),
        recordings=tuple(r for table in tables for r in table.recordings),
        labels=np.concatenate([table.labels for table in tables]),
        outputs=np.concatenate([table.outputs for table in tables]),
        mask=np.concatenate([table.mask for table in tables]),
        times_seconds=None if any(t is None for t in times) else np.concatenate(times),
        logits=None if any(one is None for one in logits) else np.concatenate(logits),
    )


def subject_bootstrap(
    metric_fn: MetricFn, runs: Sequence[Predictions], num_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """The mean of a metric over runs, with an interval by bootstrap over subjects.

    Args:
      metric_fn: ``classification_metric``, ``regression_metric(names)`` or one's own.
      runs: One table a seed. ``join`` the folds of a seed first. Tables may hold different subjects (seeds
        that test other people); a draw leaves out a run of whose subjects it has none.
      num_resamples: How many draws.
      seed: Of the draws; the same seed and subjects give the same draws.

    Returns:
      Metric name to its interval.

    Raises:
      ValueError: No run, or a run of one subject among several (unjoined leave-one-out folds).
    """
    subjects = _all_subjects(runs)
    value = _mean_over_runs(metric_fn, runs, subjects, np.ones((1, len(subjects))))
    drawn = None
    if len(subjects) > 1:
        drawn = _mean_over_runs(metric_fn, runs, subjects, _draws(len(subjects), num_resamples, seed))
    return {
        name: _interval(v[0], drawn[name] if drawn is not None else None, len(subjects))
        for name, v in value.items()
    }


def paired_difference(
    metric_fn: MetricFn,
    runs_a: Sequence[Predictions],
    runs_b: Sequence[Predictions],
    num_resamples: int = 1000,
    seed: int = 0,
    unit: Literal["pooled", "subject"] = "pooled",
) -> dict[str, Interval]:
    """How much better A is than B on the same subjects.

    Args:
      metric_fn: See ``subject_bootstrap``.
      runs_a: One table a seed.
      runs_b: One table a seed; the number may differ from A's.
      num_resamples: How many draws; each is used for A and for B.
      seed: Of the draws.
      unit: ``pooled``: metric of all rows of A minus that of B. ``subject``: the mean over subjects of the
        difference within each (subjects without a defined metric, e.g. an AUROC with one class, left out).

    Returns:
      Metric name to the interval of A minus B; zero outside of it is a difference beyond chance.

    Raises:
      ValueError: The two sides do not hold the same labelled subjects.
    """
    subjects = _all_subjects(runs_a)
    other = _all_subjects(runs_b)
    if subjects != other:
        odd = sorted(set(subjects) ^ set(other))
        raise ValueError(
            f"A holds {len(subjects)} subjects, B {len(other)}, {len(odd)} not in both (first: {odd[0]}); "
            "expected the same subjects on both sides"
        )
    weights = np.ones((1, len(subjects)))
    if len(subjects) > 1:
        weights = np.concatenate([weights, _draws(len(subjects), num_resamples, seed)])
    if unit == "subject":
        one_each = np.eye(len(subjects))
        a, b = (_mean_over_runs(metric_fn, runs, subjects, one_each) for runs in (runs_a, runs_b))
        return {name: _mean_of_defined(a[name] - b[name], weights) for name in a}
    a, b = (_mean_over_runs(metric_fn, runs, subjects, weights) for runs in (runs_a, runs_b))
    return {name: _interval(a[name][0] - b[name][0], a[name][1:] - b[name][1:], len(subjects)) for name in a}


def subject_mean(
    metric_fn: MetricFn, runs: Sequence[Predictions], num_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """The mean over subjects of each one's own metric, with an interval by bootstrap over subjects.

    Args:
      metric_fn: See ``subject_bootstrap``.
      runs: One table a seed.
      num_resamples: How many draws.
      seed: Of the draws.

    Returns:
      Metric name to its interval; subjects for whom it is undefined are left out.
    """
    subjects = _all_subjects(runs)
    weights = np.ones((1, len(subjects)))
    if len(subjects) > 1:
        weights = np.concatenate([weights, _draws(len(subjects), num_resamples, seed)])
    each = _mean_over_runs(metric_fn, runs, subjects, np.eye(len(subjects)))
    return {name: _mean_of_defined(values, weights) for name, values in each.items()}


def per_subject(metric_fn: MetricFn, runs: Sequence[Predictions]) -> dict[str, dict[str, float | None]]:
    """Each subject's own metrics, mean over the runs that hold the subject; None where undefined."""
    subjects = sorted({s for table in runs for s in table.labelled_subjects()})
    values = _mean_over_runs(metric_fn, runs, tuple(subjects), np.eye(len(subjects)))
    return {
        subject: {name: _number(value[row]) for name, value in values.items()}
        for row, subject in enumerate(subjects)
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _all_subjects(runs: Sequence[Predictions]) -> tuple[str, ...]:
    """The labelled subjects of all runs, sorted."""
    if not runs:
        raise ValueError("no runs; expected at least one table of predictions")
    each = [table.labelled_subjects() for table in runs]
    subjects = tuple(sorted(set().union(*each)))
    if len(subjects) > 1 and any(len(held) == 1 for held in each):
        raise ValueError(
            f"a run holds one of {len(subjects)} subjects; expected the folds of one seed joined to one table"
        )
    return subjects


def _draws(subjects: int, num_resamples: int, seed: int) -> np.ndarray:
    """How often each subject is drawn: float64 [num_resamples, subjects], each row sums to ``subjects``."""
    generator = np.random.default_rng(seed)
    share = np.full(subjects, 1 / subjects)
    return generator.multinomial(subjects, share, size=num_resamples).astype(np.float64)


def _mean_over_runs(
    metric_fn: MetricFn, runs: Sequence[Predictions], subjects: tuple[str, ...], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics [R] for subject weights [R, S], mean over the runs that hold any weighted subject."""
    sums: dict[str, np.ndarray] = {}
    counts = np.zeros(len(weights))
    column = {subject: i for i, subject in enumerate(subjects)}
    for table in runs:
        held = [column[subject] for subject in table.labelled_subjects()]
        weighted = weights[:, held].sum(axis=1) > 0
        counts += weighted
        for name, value in _in_blocks(metric_fn, table, column, weights).items():
            total = sums.setdefault(name, np.zeros(len(weights)))
            total += np.where(weighted, value, 0.0)
    with np.errstate(invalid="ignore"):
        return {name: total / counts for name, total in sums.items()}


def _in_blocks(
    metric_fn: MetricFn, table: Predictions, column: Mapping[str, int], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """One table's metrics [R], with bounded memory."""
    # Rows of unlabelled subjects have no column; whatever weight they get, their mask is False.
    columns = np.array([column.get(subject, 0) for subject in table.subjects], np.int64)
    if isinstance(metric_fn, RegressionMetric):
        return metric_fn.of_groups(table, columns, weights)
    size = max(1, _CELLS_AT_ONCE // max(1, len(columns)))
    blocks = [
        metric_fn(table, weights[start : start + size, columns]) for start in range(0, len(weights), size)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]} if blocks else {}


def _interval(value: float, drawn: np.ndarray | None, subjects: int) -> Interval:
    number = _number(value)
    if number is None or drawn is None or subjects < 2:
        return Interval(number, None, subjects)
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < _DEFINED_SHARE * len(drawn):
        return Interval(number, None, subjects)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(number, (float(low), float(high)), subjects)


def _mean_of_defined(values: np.ndarray, weights: np.ndarray) -> Interval:
    """The mean [S] -> interval over the defined values; the first row of the weights is all ones."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights[:, defined] @ values[defined]) / weights[:, defined].sum(axis=1)
    return _interval(means[0], means[1:], int(defined.sum()))
