"""Simple models on the very same folds: what a network has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.optimize
import scipy.special


def window_features(
    values: np.ndarray | Sequence[np.ndarray], mask: np.ndarray | None = None, rate_hz: float = 1.0
) -> np.ndarray:
    """The mean, the standard deviation and the slope of every channel in every window.

    Args:
      values: float [N, T, C], or N arrays [T_i, C]; NaN where a sample is missing.
      mask: bool [N, T] or [N, T, C]; False where a sample is missing. None (a list of arrays has no other
        choice): only NaN is missing.
      rate_hz: Samples a second, for the slope's unit.

    Returns:
      float64 [N, 3 C]: C means, C population deviations, C least-squares slopes per second. NaN where there
      is nothing to tell: no sample (all three), one sample (slope).
    """
    if isinstance(values, np.ndarray):
        if mask is not None:
            mask = np.asarray(mask, bool)
            values = np.where(mask if mask.ndim == 3 else mask[..., None], values, np.nan)
    elif mask is not None:
        raise ValueError("a mask beside a list of windows; expected NaN where a sample is missing")
    return np.stack([_one_window(np.asarray(window, np.float64), rate_hz) for window in values])


def _one_window(window: np.ndarray, rate_hz: float) -> np.ndarray:
    present = np.isfinite(window)
    count = present.sum(axis=0)
    times = np.where(present, (np.arange(len(window)) / rate_hz)[:, None], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, window, 0.0).sum(axis=0) / count
        centred = np.where(present, window - mean, 0.0)
        deviation = np.sqrt((centred**2).sum(axis=0) / count)
        times = np.where(present, times - times.sum(axis=0) / count, 0.0)
        slope = (times * centred).sum(axis=0) / (times**2).sum(axis=0)
    return np.concatenate([mean, deviation, slope])


def time_features(
    train_times_seconds: np.ndarray, test_times_seconds: np.ndarray, num_knots: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Time alone, as a piecewise linear curve: a protocol with a fixed course can be told from the clock.

    Args:
      train_times_seconds: float [N] since the recording's start.
      test_times_seconds: float [M].
      num_knots: Where the curve may bend: quantiles of the training times. 0 is a straight line.

    Returns:
      Features of the training rows, float64 [N, 1 + num_knots], and of the test rows [M, 1 + num_knots].
    """
    train_times_seconds = np.asarray(train_times_seconds, np.float64)
    knots = np.quantile(train_times_seconds, np.arange(1, num_knots + 1) / (num_knots + 1))

    def expand(times: np.ndarray) -> np.ndarray:
        times = np.asarray(times, np.float64)[:, None]
        return np.concatenate([times, np.maximum(times - knots, 0.0)], axis=1)

    return expand(train_times_seconds), expand(test_times_seconds)


def logistic_regression(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    num_classes: int | None = None,
    l2: float = 1.0,
    class_weight: Literal["balanced"] | None = None,
) -> np.ndarray:
    """Multinomial logistic regression.

    Features are standardised by the training rows alone. A missing feature (NaN) takes the training mean, and
    a column that says so is added if the training rows miss it anywhere.

    Args:
      train_x: float [N, D].
      train_y: int [N], in 0..K-1.
      test_x: float [M, D].
      num_classes: K; None: the highest label plus one.
      l2: Weight of half the squared norm of the coefficients (not of the intercepts) against the summed
        cross-entropy.
      class_weight: ``balanced``: every class weighs as much as any other.

    Returns:
      float64 [M, K], probabilities that sum to 1; 0 for a class that no training row has.

    Raises:
      ValueError: No rows, labels out of range, or shapes that do not fit.
    """
    train_y = np.asarray(train_y)
    if not len(train_y) or len(train_y) != len(train_x) or np.ndim(train_x) != 2 or np.ndim(test_x) != 2:
        raise ValueError(
            f"train_x {np.shape(train_x)}, train_y {train_y.shape}, test_x {np.shape(test_x)}; "
            "expected [N, D], [N], [M, D] with N from 1 up"
        )
    num_classes = int(train_y.max()) + 1 if num_classes is None else num_classes
    if train_y.min() < 0 or train_y.max() >= num_classes:
        raise ValueError(f"labels {train_y.min()} to {train_y.max()}; expected 0..{num_classes - 1}")
    classes, index = np.unique(train_y, return_inverse=True)
    probabilities = np.zeros((len(test_x), num_classes))
    if len(classes) == 1:
        probabilities[:, classes[0]] = 1.0
        return probabilities
    weights = np.ones(len(index))
    if class_weight == "balanced":
        weights = (len(index) / (len(classes) * np.bincount(index)))[index]
    train, test = _standardise(np.asarray(train_x, np.float64), np.asarray(test_x, np.float64))
    coefficients, intercepts = _fit(train, np.eye(len(classes))[index], weights, l2)
    probabilities[:, classes] = scipy.special.softmax(test @ coefficients + intercepts, axis=1)
    return probabilities


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the mean and deviation of what the training rows hold; constant columns become 0."""
    present = np.isfinite(train)
    count = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, train, 0.0).sum(axis=0) / count
    deviation = np.sqrt(np.where(present, (train - mean) ** 2, 0.0).sum(axis=0) / count)
    constant = deviation <= 1e-12 * np.maximum(1.0, np.abs(mean))
    missed = ~present.all(axis=0)

    def transform(x: np.ndarray) -> np.ndarray:
        scaled = np.where(constant | ~np.isfinite(x), 0.0, (x - mean) / np.where(constant, 1.0, deviation))
        return np.concatenate([scaled, ~np.isfinite(x[:, missed])], axis=1)

    return transform(train), transform(test)


def _fit(x: np.ndarray, target: np.ndarray, weights: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [D, K] and intercepts [K] for one-hot targets [N, K] and row weights [N]."""
    shape = (x.shape[1] + 1, target.shape[1])
    total = weights.sum()

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(shape)
        log_probabilities = scipy.special.log_softmax(x @ parameters[:-1] + parameters[-1], axis=1)
        error = weights[:, None] * (np.exp(log_probabilities) - target)
        loss = (
            -(weights[:, None] * target * log_probabilities).sum() + 0.5 * l2 * (parameters[:-1] ** 2).sum()
        )
        gradient = np.concatenate([x.T @ error + l2 * parameters[:-1], error.sum(axis=0, keepdims=True)])
        return loss / total, gradient.ravel() / total

    start = np.zeros(shape).ravel()
    options = {"maxiter": 2000, "gtol": 1e-7, "ftol": 1e-14}
    found = scipy.optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    # L-BFGS may stop at the rounding of the loss and call that a failure; the gradient tells.
    steepest = np.abs(found.jac).max()
    if steepest > 1e-4:
        raise RuntimeError(
            f"logistic regression did not converge ({found.message}; gradient {steepest:.1e}, expected below "
            "1e-4). Raise l2 or look for a feature of extreme range."
        )
    parameters = found.x.reshape(shape)
    return parameters[:-1], parameters[-1]
