"""What is sure about a score: what it averages over, its interval over people, and paired differences.

The unit is the *subject*, never the row: rows of one person are alike, and an interval over rows would be far
too narrow. How intervals are made and where there is none: ``intervals``; differences: ``differences``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jmt_jax import differences, intervals
from jmt_jax.tables import (
    MetricFn,
    Predictions,
    RegressionMetric,
    classification_metric,
    join,
    ranking_groups,
    regression_metric,
)

__all__ = [
    "MetricFn",
    "Predictions",
    "RegressionMetric",
    "classification_metric",
    "join",
    "regression_metric",
]

# Rows times weightings that are looked at at once: 16 MB of float64.
_CELLS_AT_ONCE = 2_000_000
# A bootstrap needs this share of its draws to be defined.
_DEFINED_SHARE = 0.9


class Interval(NamedTuple):
    """A value and how sure it is.

    Attributes:
      value: The metric (or difference), mean over the runs; None where it is undefined.
      ci95: The 95 % interval over people (of a difference: over people and seeds); None where none holds.
      subjects: How many labelled subjects it rests on.
      averaged_over: ``pooled``: one value of all rows. ``subject`` or ``fold``: the mean of each one's own.
      units: How many subjects or folds that are, those where it is defined; of a pooled one, the subjects.
      method: How the interval was made, see ``intervals``; None without one.
      reason: Why there is no interval; None with one.
    """

    value: float | None
    ci95: tuple[float, float] | None
    subjects: int
    averaged_over: Literal["pooled", "subject", "fold"] = "pooled"
    units: int = 0
    method: str | None = None
    reason: str | None = None


def values(metric_fn: MetricFn, table: Predictions) -> dict[str, float | None]:
    """The metrics of one table alone; None where undefined."""
    return {name: _number(v[0]) for name, v in metric_fn(table, np.ones((1, len(table.labels)))).items()}


def estimate(
    metric_fn: MetricFn, runs: Sequence[Predictions], num_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """The mean of a metric over runs, with an interval over subjects.

    The interval says where the mean of *these* trained models would lie on all such people; what other seeds
    would give is in ``paired_difference`` only.

    Args:
      metric_fn: ``classification_metric``, ``regression_metric(names)`` or one's own.
      runs: One table a seed. ``join`` the folds of a seed first. Tables may hold different subjects (seeds
        that test other people).
      num_resamples: How many draws, where a pooled correlation needs a bootstrap.
      seed: Of the draws; the same seed and subjects give the same draws.

    Returns:
      Metric name to its interval.

    Raises:
      ValueError: No run, or a run of one subject among several (unjoined leave-one-out folds).
    """
    subjects = _all_subjects(runs)
    value = _mean_over_runs(metric_fn, runs, subjects, np.ones((1, len(subjects))))
    left_out = _left_out(metric_fn, runs, subjects)
    drawn: dict[str, np.ndarray] = {}
    if isinstance(metric_fn, RegressionMetric) and len(subjects) >= intervals.FEWEST_FOR_POOLED_CORRELATION:
        drawn = _bootstrap(metric_fn, runs, subjects, num_resamples, seed)
    found = {}
    for name, v in value.items():
        unit, units, held = _averaged(name, metric_fn, runs, subjects)
        without = left_out[name][held] if left_out else None
        found[name] = _interval(name, v[0], without, len(subjects), unit, units, drawn.get(name))
    return found


def subject_mean(metric_fn: MetricFn, runs: Sequence[Predictions]) -> dict[str, Interval]:
    """The mean over subjects of each one's own metric, with an interval over subjects.

    Args:
      metric_fn: See ``estimate``.
      runs: One table a seed.

    Returns:
      Metric name to its interval; subjects for whom it is undefined are left out.
    """
    subjects = _all_subjects(runs)
    each = _mean_over_runs(metric_fn, runs, subjects, np.eye(len(subjects)))
    found = {}
    for name, own in each.items():
        own = own[np.isfinite(own)]
        n = len(own)
        mean = own.mean() if n else np.nan
        without = (own.sum() - own) / (n - 1) if n > 1 else None
        found[name] = _interval(name, mean, without, n, "subject", n)
    return found


def paired_difference(
    metric_fn: MetricFn,
    runs_a: Sequence[Predictions],
    runs_b: Sequence[Predictions],
    unit: Literal["pooled", "subject"] = "pooled",
) -> dict[str, Interval]:
    """How much better A is than B on the same subjects, with an interval over subjects and seeds.

    Args:
      metric_fn: See ``estimate``.
      runs_a: One table a seed.
      runs_b: One table a seed; the number may differ from A's.
      unit: ``pooled``: the metric of A minus that of B, as they are reported. ``subject``: the mean over
        subjects of the difference within each (subjects without a defined metric left out).

    Returns:
      Metric name to the interval of A minus B; zero outside of it is a difference between the methods beyond
      chance. None with one seed a side, which says nothing about methods.

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
    ones = np.ones((1, len(subjects))) if unit == "pooled" else np.eye(len(subjects))
    whole = [_mean_over_runs(metric_fn, runs, subjects, ones) for runs in (runs_a, runs_b)]
    each = [[_shares(metric_fn, run, subjects, unit) for run in runs] for runs in (runs_a, runs_b)]
    found = {}
    for name in whole[0]:
        difference = whole[0][name] - whole[1][name]
        difference = difference[np.isfinite(difference)]
        sides = [np.stack([shares[name] for shares in side]) for side in each]
        over, units, held = "subject", len(difference), np.ones(len(subjects), bool)
        if unit == "pooled":
            over, units, held = _averaged(name, metric_fn, [*runs_a, *runs_b], subjects)
        sides = [side[:, held] for side in sides]
        found[name] = _difference(name, difference, sides, len(subjects), over, units)
    return found


def _difference(
    name: str, difference: np.ndarray, sides: Sequence[np.ndarray], subjects: int, over: str, units: int
) -> Interval:
    """The interval of a difference from each seed's and subject's share in it, [K, S] a side."""
    if not len(difference):
        return Interval(None, None, subjects, over, units, None, "undefined")
    value = float(difference.mean())
    told = np.isfinite(np.concatenate(sides)).all(axis=0)
    rule = None if over == "fold" else intervals.rule(name, subject_mean=over == "subject")
    if rule is None:
        said = intervals.UNMEASURED
    elif min(map(len, sides)) < differences.FEWEST_SEEDS:
        said = differences.ONE_SEED
    elif units < rule.fewest:
        said = intervals.too_few(units, rule.fewest)
    elif told.sum() < units:
        said = "not every seed tests every subject, or without some the value is undefined"
    else:
        said = differences.interval(sides[0][:, told], sides[1][:, told], value)
    if isinstance(said, str):
        return Interval(value, None, subjects, over, units, None, said)
    return Interval(value, said, subjects, over, units, "person_and_seed_t", None)


def _shares(
    metric_fn: MetricFn, run: Predictions, subjects: tuple[str, ...], unit: str
) -> dict[str, np.ndarray]:
    """What each subject [S] adds to the mean of a metric: its own value, or its jackknife pseudo-value."""
    if unit == "subject":
        return _mean_over_runs(metric_fn, [run], subjects, np.eye(len(subjects)))
    n, held = len(subjects), np.isin(subjects, run.labelled_subjects())
    whole = _mean_over_runs(metric_fn, [run], subjects, np.ones((1, n)))
    without = _mean_over_runs(metric_fn, [run], subjects, 1.0 - np.eye(n))
    return {name: np.where(held, n * whole[name] - (n - 1) * without[name], np.nan) for name in whole}


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


def _left_out(
    metric_fn: MetricFn, runs: Sequence[Predictions], subjects: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The metrics [S] without each subject; nothing where there is one."""
    if len(subjects) < 2:
        return {}
    return _mean_over_runs(metric_fn, runs, subjects, 1.0 - np.eye(len(subjects)))


def _averaged(
    name: str, metric_fn: MetricFn, runs: Sequence[Predictions], subjects: tuple[str, ...]
) -> tuple[Literal["pooled", "subject", "fold"], int, np.ndarray]:
    """What a metric of all rows is averaged over, how many that are, and which subjects [S] are in it."""
    if name != "auroc" or metric_fn is not classification_metric:
        return "pooled", len(subjects), np.ones(len(subjects), bool)
    each = [ranking_groups(run) for run in runs]
    if any(unit == "fold" for unit, _ in each):
        return "fold", max(len(groups) for _, groups in each), np.ones(len(subjects), bool)
    held = {run.subjects[own[0]] for run, (_, groups) in zip(runs, each, strict=True) for own in groups}
    return "subject", len(held), np.array([subject in held for subject in subjects], bool)


def _bootstrap(
    metric_fn: RegressionMetric,
    runs: Sequence[Predictions],
    subjects: tuple[str, ...],
    num_resamples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The bootstrap-t [2] of the pooled correlations, of their mean over the runs."""
    n = len(subjects)
    share = np.full(n, 1 / n)
    draws = np.random.default_rng(seed).multinomial(n, share, size=num_resamples).astype(np.float64)
    weights = np.concatenate([np.ones((1, n)), draws])
    column = {subject: i for i, subject in enumerate(subjects)}
    sums: dict[str, list[np.ndarray]] = {}
    for run in runs:
        groups = np.array([column.get(subject, 0) for subject in run.subjects], np.int64)
        for name, (value, slope) in metric_fn.influence(run, groups, weights).items():
            total = sums.setdefault(name, [np.zeros(len(weights)), np.zeros(weights.shape)])
            total[0] += value / len(runs)
            total[1] += slope / len(runs)
    found = {}
    for name, (value, slope) in sums.items():
        if np.isfinite(value).mean() >= _DEFINED_SHARE:
            found[name] = intervals.bootstrap_t(value[0], slope[0], draws, value[1:], slope[1:])
    return found


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


def _interval(
    name: str,
    value: float,
    without: np.ndarray | None,
    subjects: int,
    unit: str,
    units: int,
    drawn: np.ndarray | None = None,
) -> Interval:
    """An interval by the metric's rule: from its values without each subject, or by the bootstrap."""
    number = _number(value)
    rule = None if unit == "fold" else intervals.rule(name, subject_mean=unit == "subject")
    counted = units if unit == "subject" else subjects
    reason, ci95 = intervals.UNTOLD, np.full(2, np.nan)
    if number is None:
        reason = "undefined"
    elif rule is None:
        reason = intervals.UNMEASURED
    elif counted < rule.fewest or without is None:
        reason = intervals.too_few(counted, rule.fewest)
    elif rule.method == "bootstrap_t":
        ci95 = ci95 if drawn is None else drawn
    else:
        skewed = rule.method == "skewed_jackknife_t"
        ci95 = intervals.jackknife(np.asarray(number), without, rule.bounds, skewed=skewed)
    if not np.isfinite(ci95).all():
        return Interval(number, None, subjects, unit, units, None, reason)
    return Interval(number, (float(ci95[0]), float(ci95[1])), subjects, unit, units, rule.method, None)
