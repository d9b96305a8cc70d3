"""Simple models on the very same folds: what a network has to beat."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.optimize
import scipy.special

from data_pipelines import label_draws

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weights of half the squared norm of the coefficients, for each training row, that are tried."""
_PENALTY_WITHOUT_CHOICE = 1e-2
_INNER_FOLDS = 5
# What a probability of 0 costs: the logarithm of this.
_SMALLEST_PROBABILITY = 1e-6


def inner_folds(subjects: np.ndarray) -> np.ndarray:
    """Up to five folds of training rows, by subject, the same for every fit: int [N].

    Args:
      subjects: N names or numbers.
    """
    names, index = np.unique(np.asarray(subjects), return_inverse=True)
    order = sorted(range(len(names)), key=lambda number: label_draws.rank("inner fold", names[number]))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % _INNER_FOLDS
    return fold[index]


def penalised_logistic_regression(
    train_x: np.ndarray, train_y: np.ndarray, subjects: np.ndarray, test_x: np.ndarray, num_classes: int
) -> tuple[np.ndarray, float]:
    """``logistic_regression`` with the penalty that predicts training subjects best from the others.

    Args:
      train_x, train_y, test_x, num_classes: As there.
      subjects: N, whose each training row is.

    Returns:
      Probabilities float64 [M, K], and the chosen weight, one of `PENALTIES` for each training row. Of equals
      the larger; with one subject there is no choice, it is 0.01.
    """
    folds = inner_folds(subjects)
    chosen = _PENALTY_WITHOUT_CHOICE
    if folds.max(initial=0) > 0:
        losses = dict.fromkeys(PENALTIES, 0.0)
        for fold in np.unique(folds):
            held, kept = folds == fold, folds != fold
            for penalty in PENALTIES:
                l2 = penalty * kept.sum()
                found = logistic_regression(train_x[kept], train_y[kept], train_x[held], num_classes, l2)
                truth = found[np.arange(held.sum()), train_y[held]]
                losses[penalty] -= np.log(np.maximum(truth, _SMALLEST_PROBABILITY)).sum()
        chosen = min(reversed(PENALTIES), key=lambda penalty: round(losses[penalty], 6))
    found = logistic_regression(train_x, train_y, test_x, num_classes, chosen * len(train_y))
    return found, chosen


def ridge(
    train_x: np.ndarray, train_y: np.ndarray, subjects: np.ndarray, test_x: np.ndarray
) -> tuple[np.ndarray, float]:
    """Ridge regression of one value, spread as training labels are.

    Features as in ``logistic_regression``; the penalty is chosen as there, by squared error. A penalty draws
    predictions to the mean, which costs CCC though it helps the error: they are stretched about it until they
    deviate as the training labels do.

    Args:
      train_x: float [N, D].
      train_y: float [N].
      subjects: N, whose each training row is.
      test_x: float [M, D].

    Returns:
      Predictions float64 [M], and the chosen weight for each training row.
    """
    train, test = _standardise(np.asarray(train_x, np.float64), np.asarray(test_x, np.float64))
    mean = train_y.mean()
    target, folds = train_y - mean, inner_folds(subjects)
    # An intercept of its own, since a fold's rows are not centred.
    design = np.concatenate([np.ones((len(train), 1)), train], axis=1)
    penalised = np.diag(np.r_[0.0, np.ones(train.shape[1])])
    parts = [design[folds == fold] for fold in np.unique(folds)]
    targets = [target[folds == fold] for fold in np.unique(folds)]
    squares = [part.T @ part for part in parts]
    products = [part.T @ own for part, own in zip(parts, targets, strict=True)]
    square, product = sum(squares), sum(products)

    def solved(square: np.ndarray, product: np.ndarray, penalty: float) -> np.ndarray:
        return np.linalg.lstsq(square + penalty * square[0, 0] * penalised, product, rcond=None)[0]

    chosen = _PENALTY_WITHOUT_CHOICE
    if len(parts) > 1:
        errors = dict.fromkeys(PENALTIES, 0.0)
        for own_square, own_product in zip(squares, products, strict=True):
            for penalty in PENALTIES:
                found = solved(square - own_square, product - own_product, penalty)
                errors[penalty] += found @ own_square @ found - 2 * found @ own_product
        chosen = min(reversed(PENALTIES), key=lambda penalty: round(errors[penalty], 9))
    found = solved(square, product, chosen)
    fitted = design @ found
    stretch = target.std() / fitted.std() if fitted.std() > 1e-9 else 0.0
    return mean + stretch * (test @ found[1:] + found[0] - fitted.mean()), chosen


def line(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    """One number drawn onto the labels' scale: its sign, mean and deviation are those of training.

    That is the line of the highest CCC on the training rows. A missing number (NaN) predicts their mean.

    Args:
      train_x: float [N].
      train_y: float [N].
      test_x: float [M].

    Returns:
      float64 [M].
    """
    known = np.isfinite(train_x)
    x, y = train_x[known].astype(np.float64), train_y[known].astype(np.float64)
    deviation = x.std() if len(x) else 0.0
    if deviation <= 1e-12:
        return np.full(len(test_x), train_y.mean())
    sign = np.sign(np.mean((x - x.mean()) * (y - y.mean())))
    found = y.mean() + sign * y.std() * (test_x - x.mean()) / deviation
    return np.where(np.isfinite(test_x), found, train_y.mean())


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
