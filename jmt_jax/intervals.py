"""95 % intervals over people, and for what they are not given.

The unit is the subject (or video), never the row. Which method stands behind which metric, and from how many
subjects on, follows from what ``benchmarks/coverage.py`` measures: an interval that misses its 95 % there
(outside of .93 to .97) is not given, and a sentence stands in its place.

Sources: Student's t on jackknife pseudo-values, Miller, "The jackknife: a review" (Biometrika 61, 1974);
Hall's cubic transformation of t, "On the removal of skewness by transformation" (JRSS B 54, 1992); the
bootstrap-t, Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982), calibrated in the sense
of Loh, "Calibrating confidence coefficients" (JASA 82, 1987).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import scipy.special
import scipy.stats

# Fewer subjects tell too little of their own spread.
FEWEST_SUBJECTS = 5
# Below these no interval held on skewed people: of a pooled correlation over videos, of the pooled AUROC.
FEWEST_FOR_POOLED_CORRELATION = 28
FEWEST_FOR_POOLED_AUROC = 87
# Of few people a larger skewness is mostly chance, and the interval made for it can be [0, 1].
_MOST_SKEWNESS = 0.5
_TAIL = 0.025
# The bootstrap-t of a pooled correlation is a little too narrow; this nominal tail makes its 95 %.
_CALIBRATED_TAIL = 0.0175
# A resample whose own deviation is below this share of the sample's has none.
_NO_DEVIATION = 1e-9

Method = Literal["jackknife_t", "skewed_jackknife_t", "bootstrap_t"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the interval of a metric is made.

    Attributes:
      method: ``jackknife_t``: Student's t on jackknife pseudo-values; ``skewed_jackknife_t``: the same with
        Hall's transformation, for no skewness beyond .5; ``bootstrap_t``: the wider of a bootstrap-t and
        a jackknife t.
      bounds: Of the metric. The first two methods work where it has none: on log(x - low) below infinity,
        else on logit((x - low) / (high - low)), which for a correlation is twice Fisher's z.
      fewest: Of subjects.
    """

    method: Method
    bounds: tuple[float, float]
    fewest: int = FEWEST_SUBJECTS


_SHARE, _CORRELATION, _ERROR = (0.0, 1.0), (-1.0, 1.0), (0.0, np.inf)
_OF_MEANS = {
    **dict.fromkeys(
        ("accuracy", "balanced_accuracy", "f1_macro", "auroc", "sagr"), Rule("jackknife_t", _SHARE)
    ),
    **dict.fromkeys(("ccc", "pcc"), Rule("skewed_jackknife_t", _CORRELATION)),
    "rmse": Rule("jackknife_t", _ERROR),
}
# Of a pooled RMSE none held: a few large errors make it.
_POOLED = {
    **{name: found for name, found in _OF_MEANS.items() if name != "rmse"},
    "auroc_pooled": Rule("jackknife_t", _SHARE, FEWEST_FOR_POOLED_AUROC),
    **dict.fromkeys(("ccc", "pcc"), Rule("bootstrap_t", _CORRELATION, FEWEST_FOR_POOLED_CORRELATION)),
}


def rule(metric: str, *, subject_mean: bool = False) -> Rule | None:
    """The rule of a metric; None where none was measured.

    Args:
      metric: E.g. ``auroc`` or ``ccc_valence``.
      subject_mean: Whether it is the mean over subjects of each one's own value.
    """
    rules = _OF_MEANS if subject_mean else _POOLED
    return rules.get(metric, rules.get(metric.split("_")[0]))


def jackknife(
    value: np.ndarray, left_out: np.ndarray, bounds: tuple[float, float], *, skewed: bool
) -> np.ndarray:
    """Intervals of values from what they are without each subject.

    Args:
      value: float [...], the metric over all n subjects.
      left_out: float [..., n], the metric without each.
      bounds: See ``Rule``.
      skewed: Whether t is taken through Hall's transformation.

    Returns:
      float64 [..., 2], low and high; NaN where the metric or one without a subject is undefined or at a
      bound, or where all are the same.
    """
    n = left_out.shape[-1]
    with np.errstate(all="ignore"):
        centre = _unbounded(value, bounds)
        pseudo = n * centre[..., None] - (n - 1) * _unbounded(left_out, bounds)
        deviation = pseudo - pseudo.mean(axis=-1, keepdims=True)
        spread = np.sqrt((deviation**2).mean(axis=-1))
        most = _MOST_SKEWNESS if skewed else 0.0
        skewness = np.clip((deviation**3).mean(axis=-1) / spread**3, -most, most)
        error = spread / np.sqrt(n - 1)
        t = scipy.stats.t.ppf(1 - _TAIL, n - 1)
        low, high = (centre - _unskewed(quantile, skewness, n) * error for quantile in (t, -t))
        found = np.stack([_bounded(low, bounds), _bounded(high, bounds)], axis=-1)
    told = np.isfinite(pseudo).all(axis=-1) & (spread > 1e-12 * np.maximum(1.0, np.abs(centre)))
    return np.where(told[..., None], found, np.nan)


def bootstrap_t(
    value: float, influence: np.ndarray, draws: np.ndarray, drawn: np.ndarray, drawn_influence: np.ndarray
) -> np.ndarray:
    """The wider of the bootstrap-t and the jackknife t of one value, on the metric's own scale.

    Args:
      value: The metric over all n subjects.
      influence: float [n], its derivative to the weight of each.
      draws: float [B, n], how often each subject is drawn.
      drawn: float [B], the metric of the draws.
      drawn_influence: float [B, n], its derivatives there.

    Returns:
      float64 [2], low and high; NaN where they are not to be told.
    """
    n = len(influence)
    inflation = n / (n - 1)
    error = np.sqrt(inflation * (influence**2).sum())
    if not (np.isfinite(value) and np.isfinite(error) and error > 1e-12):
        return np.full(2, np.nan)
    with np.errstate(all="ignore"):
        drawn_error = np.sqrt(inflation * (draws * drawn_influence**2).sum(axis=1))
        flat = ~(drawn_error > _NO_DEVIATION * error)
        t = np.where(flat, np.sign(drawn - value) * np.inf, (drawn - value) / drawn_error)
    t = t[np.isfinite(drawn)]
    low, high = np.quantile(t, [_CALIBRATED_TAIL, 1 - _CALIBRATED_TAIL], method="inverted_cdf")
    student = scipy.stats.t.ppf(1 - _CALIBRATED_TAIL, n - 1)
    found = np.array([value - max(high, student) * error, value - min(low, -student) * error])
    return np.clip(found, -1.0, 1.0)


def too_few(units: int, fewest: int, unit: str = "subject") -> str:
    """The sentence in place of an interval over too few."""
    return f"{units} {unit}{'' if units == 1 else 's'}: an interval needs {fewest} to hold its 95 %"


UNTOLD = (
    "without some subject the value is undefined or at its bound, or it is always the same: its spread is "
    "unknown"
)
UNMEASURED = "no interval of this metric was measured to hold its 95 %"


def _unbounded(value: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    low, high = bounds
    if np.isinf(high):
        return np.log(value - low)
    share = (value - low) / (high - low)
    # Rounding must not make a finite number of what is at its bound.
    share = np.where(np.abs(share - np.round(share)) < 1e-12, np.round(share), share)
    return scipy.special.logit(share)


def _bounded(value: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    low, high = bounds
    return low + np.exp(value) if np.isinf(high) else low + (high - low) * scipy.special.expit(value)


def _unskewed(quantile: float, skewness: np.ndarray, n: int) -> np.ndarray:
    """The quantile of t where the n values are skewed: Hall's transformation, inverted."""
    straight = np.abs(skewness) < 1e-8
    g = np.where(straight, 1.0, skewness)
    root = np.sqrt(n)
    bent = 3 * root / g * (np.cbrt(1 + g * (quantile / root - g / (6 * n))) - 1)
    return np.where(straight, quantile, bent)
