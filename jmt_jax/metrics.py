"""Metrics on the host (NumPy, float64) and the running sums that training logs on the device.

Every host metric takes optional non-negative row weights. Weights of shape [R, N] ask for R weightings at
once: that is how ``statistics`` leaves out each subject, or draws a thousand samples of them, in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

CLASSIFICATION_NAMES = ("accuracy", "balanced_accuracy", "f1_macro", "auroc")
REGRESSION_NAMES = ("ccc", "pcc", "rmse", "sagr")

# A variance below this share of the mean square is the rounding of a constant.
_CONSTANT_SHARE = 1e-14


def classification(
    labels: np.ndarray,
    scores: np.ndarray,
    mask: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> dict[str, float | None | list[list[float]]]:
    """How well class scores meet the labels.

    Args:
      labels: int [N], in 0..K-1 where the mask is True.
      scores: float [N, K], class probabilities, or what rises with them (``Predictions.scores``). The highest
        is the decision, the first of equal ones. (For K = 2 logits give the same metrics; for K > 2 the AUROC
        compares rows, so log-odds or probabilities are needed.)
      mask: bool [N]; False rows do not count. None: all rows count.
      weights: float [N], at least 0. None: 1 each.

    Returns:
      ``accuracy``; ``balanced_accuracy``, the mean recall over the classes that occur in the labels;
      ``f1_macro``, the mean F1 over the classes that occur in labels or decisions; ``auroc``, of class 1 for
      K = 2, else the mean over classes of one against the rest, ties counted half, of all rows as one ranking
      (``statistics`` calls that ``auroc_pooled``). Each in [0, 1]; None where undefined (no rows; for the
      AUROC: a class that does not occur). ``confusion_matrix``: K x K sums of
      weights, a row for each label, a column for each decision.
    """
    labels, scores, weights = _kept_classification(labels, scores, mask, weights)
    confusion = _confusion(labels, scores, weights)
    values = _classification_values(labels, scores, weights, confusion)
    return {**_scalars(values), "confusion_matrix": confusion[0].tolist()}


def weighted_classification(
    labels: np.ndarray, scores: np.ndarray, mask: np.ndarray | None, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The scalar metrics of ``classification`` for R weightings.

    Args:
      labels: int [N], see ``classification``.
      scores: float [N, K].
      mask: bool [N] or None.
      weights: float [R, N], at least 0.

    Returns:
      Name to float64 [R]; NaN where undefined.
    """
    labels, scores, weights = _kept_classification(labels, scores, mask, weights)
    return _classification_values(labels, scores, weights, _confusion(labels, scores, weights))


def regression(
    labels: np.ndarray,
    predictions: np.ndarray,
    mask: np.ndarray | None = None,
    names: Sequence[str] = ("valence", "arousal"),
    weights: np.ndarray | None = None,
) -> dict[str, float | None]:
    """How well predictions meet continuous labels.

    Args:
      labels: float [N, A].
      predictions: float [N, A].
      mask: bool [N, A]; False entries do not count and may hold NaN. None: all count.
      names: A names of the outputs.
      weights: float [N], at least 0. None: 1 each.

    Returns:
      For every name, and ``mean`` over the outputs: ``ccc_``, the concordance correlation coefficient of the
      challenge (population variances; reference facts, B5), 0 where only one side is constant; ``pcc_``,
      Pearson's correlation; ``rmse_``, in the label's unit; ``sagr_``, the share of predictions with the
      label's sign (zero is a sign of its own). None where undefined: nothing labelled, both sides constant
      and equal (CCC), one side constant (PCC).
    """
    if weights is not None:
        weights = np.asarray(weights, np.float64)[None]
    return _scalars(weighted_regression(labels, predictions, mask, names, weights))


def weighted_regression(
    labels: np.ndarray,
    predictions: np.ndarray,
    mask: np.ndarray | None,
    names: Sequence[str],
    weights: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The metrics of ``regression`` for R weightings.

    Args:
      labels: float [N, A], see ``regression``.
      predictions: float [N, A].
      mask: bool [N, A] or None.
      names: A names of the outputs.
      weights: float [R, N], at least 0; None for one weighting of ones.

    Returns:
      Name to float64 [R]; NaN where undefined.
    """
    return grouped_regression(labels, predictions, mask, names, np.arange(len(labels)), weights)


def grouped_regression(
    labels: np.ndarray,
    predictions: np.ndarray,
    mask: np.ndarray | None,
    names: Sequence[str],
    groups: np.ndarray,
    weights: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The metrics of ``regression`` for R weightings of groups of rows, e.g. of all frames of a video.

    The rows are looked at once; each weighting costs as much as there are groups.

    Args:
      labels: float [N, A], see ``regression``.
      predictions: float [N, A].
      mask: bool [N, A] or None.
      names: A names of the outputs.
      groups: int [N], in 0..G-1 where anything is labelled.
      weights: float [R, G], at least 0: of every row of a group. None for one weighting of ones.

    Returns:
      Name to float64 [R]; NaN where undefined.
    """
    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    mask = np.ones(labels.shape, bool) if mask is None else np.asarray(mask, bool)
    if labels.ndim != 2 or not labels.shape == predictions.shape == mask.shape:
        raise ValueError(
            f"labels {labels.shape}, predictions {predictions.shape}, mask {mask.shape}; expected [N, A] each"
        )
    if len(names) != labels.shape[1] or "mean" in names:
        raise ValueError(f"names {tuple(names)}; expected {labels.shape[1]} names, none of them 'mean'")
    count = len(labels) if weights is None else np.shape(weights)[-1]
    weights = _as_weights(weights, count)
    values: dict[str, np.ndarray] = {}
    for column, name in enumerate(names):
        kept = mask[:, column]
        one = _concordance(labels[kept, column], predictions[kept, column], groups[kept], weights)
        values.update({f"{metric}_{name}": one[metric] for metric in REGRESSION_NAMES})
    for metric in REGRESSION_NAMES:
        values[f"{metric}_mean"] = np.mean([values[f"{metric}_{name}"] for name in names], axis=0)
    return values


def correlation_influence(
    labels: np.ndarray,
    predictions: np.ndarray,
    mask: np.ndarray | None,
    names: Sequence[str],
    groups: np.ndarray,
    weights: np.ndarray,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CCC and PCC for R weightings of groups of rows, and how each group's weight moves them.

    Args:
      labels, predictions, mask, names, groups: See ``grouped_regression``.
      weights: float [R, G], at least 0: of every row of a group.

    Returns:
      ``ccc_<name>`` and ``pcc_<name>``, with ``mean`` over the outputs, to the values float64 [R] (NaN where
      undefined) and their derivatives to the weights, float64 [R, G]. The weighted derivatives of a weighting
      sum to zero: the metrics do not depend on the weights' scale.
    """
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"ccc": [], "pcc": []}
    for column in range(len(names)):
        kept = np.ones(len(labels), bool) if mask is None else mask[:, column]
        sums = _group_moments(labels[kept, column], predictions[kept, column], groups[kept], weights.shape[1])
        for metric, one in zip(found, _correlations(weights @ sums), strict=True):
            value, slope = one
            found[metric].append((value, slope @ sums.T))
    of_all = {}
    for metric, each in found.items():
        of_all.update({f"{metric}_{name}": one for name, one in zip(names, each, strict=True)})
        of_all[f"{metric}_mean"] = tuple(np.mean(part, axis=0) for part in zip(*each, strict=True))
    return of_all


def _group_moments(labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray, size: int) -> np.ndarray:
    """Sums [G, 6] of 1, l, p, l^2, p^2, l p; both moved by the labels' mean, which changes neither metric."""
    middle = labels.mean() if len(labels) else 0.0
    label, prediction = np.float64(labels) - middle, np.float64(predictions) - middle
    columns = (np.ones(len(label)), label, prediction, label**2, prediction**2, label * prediction)
    return np.stack([np.bincount(groups, weights=column, minlength=size) for column in columns], axis=1)


def _correlations(totals: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """CCC and PCC [R] of moment sums [R, 6], each with its derivatives [R, 6] to the sums."""
    with np.errstate(invalid="ignore", divide="ignore"):
        count = totals[:, :1]
        l, p, ll, pp, lp = (totals[:, 1:] / count).T  # noqa: E741
        covariance, var_l, var_p = lp - l * p, ll - l**2, pp - p**2
        zero, one = np.zeros_like(l), np.ones_like(l)
        # To the five means; the derivative to the count is minus their weighted sum.
        d_cov = np.stack([-p, -l, zero, zero, one], axis=1)
        d_var_l = np.stack([-2 * l, zero, one, zero, zero], axis=1)
        d_var_p = np.stack([zero, -2 * p, zero, one, zero], axis=1)
        below = ll + pp - 2 * l * p  # The variances and the squared difference of the means.
        d_below = np.stack([-2 * p, -2 * l, one, one, zero], axis=1)
        ccc = 2 * covariance / below
        d_ccc = (2 * d_cov - ccc[:, None] * d_below) / below[:, None]
        root = np.sqrt(var_l * var_p)
        pcc = covariance / root
        relative = d_var_l / var_l[:, None] + d_var_p / var_p[:, None]
        d_pcc = d_cov / root[:, None] - 0.5 * pcc[:, None] * relative
        means = totals[:, 1:] / count
        return tuple(
            (value, np.concatenate([-(slope * means).sum(1, keepdims=True), slope], axis=1) / count)
            for value, slope in ((ccc, d_ccc), (pcc, d_pcc))
        )


def running_sums(
    loss: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Sums of one batch for the training log; they add up over steps and devices (``merge_sums``).

    Args:
      loss: float scalar, the mean loss over the batch's labelled entries.
      logits: float [..., K] or [..., A].
      labels: int [...], then the sums hold ``accuracy``; or float [..., A], then they hold ``sagr``.
      mask: bool, the labels' shape.

    Returns:
      float32 scalars: ``count`` of labelled entries, ``loss`` and ``accuracy`` or ``sagr`` times that count.
    """
    count = jnp.sum(mask, dtype=jnp.float32)
    if labels.ndim == logits.ndim:
        name, right = "sagr", jnp.sign(logits) == jnp.sign(labels)
    else:
        name, right = "accuracy", jnp.argmax(logits, axis=-1) == labels
    weighted_loss = jnp.where(count > 0, loss * count, 0.0)
    return {"count": count, "loss": weighted_loss, name: jnp.sum(right & mask, dtype=jnp.float32)}


def merge_sums(first: Mapping[str, jax.Array], second: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The running sums of both."""
    return jax.tree.map(jnp.add, dict(first), dict(second))


def compute_sums(sums: Mapping[str, jax.Array]) -> dict[str, float | None]:
    """The means that running sums stand for, on the host; None each if nothing was labelled."""
    count = float(sums["count"])
    return {name: float(total) / count if count else None for name, total in sums.items() if name != "count"}


def _scalars(values: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    return {name: float(value[0]) if np.isfinite(value[0]) else None for name, value in values.items()}


def _as_weights(weights: np.ndarray | None, rows: int) -> np.ndarray:
    """Weights as float64 [R, N]."""
    weights = np.ones((1, rows)) if weights is None else np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[1] != rows:
        raise ValueError(f"weights {weights.shape}; expected one weight for each of {rows} rows")
    if not (weights >= 0).all():
        raise ValueError("weights hold a negative number or NaN; expected numbers from 0 up")
    return weights


def _kept_classification(
    labels: np.ndarray, scores: np.ndarray, mask: np.ndarray | None, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked labels [M], scores [M, K] and weights [R, M] of the rows that count."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    mask = np.ones(labels.shape, bool) if mask is None else np.asarray(mask, bool)
    if labels.ndim != 1 or mask.shape != labels.shape or scores.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels {labels.shape}, scores {scores.shape}, mask {mask.shape}; expected [N], [N, K], [N]"
        )
    if weights is not None and np.ndim(weights) == 1:
        weights = np.asarray(weights)[None]
    weights = _as_weights(weights, len(labels))[:, mask]
    labels, scores = labels[mask], scores[mask]
    if labels.size and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 0..{scores.shape[1] - 1}")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity; expected finite numbers in every row that counts")
    return labels.astype(np.int64), scores, weights


def _confusion(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of weights [R, K, K], by label and decision."""
    classes = scores.shape[1]
    cell = labels * classes + np.argmax(scores, axis=1)
    return (weights @ (cell[:, None] == np.arange(classes**2))).reshape(-1, classes, classes)


def _classification_values(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, confusion: np.ndarray
) -> dict[str, np.ndarray]:
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    labelled, decided = confusion.sum(2), confusion.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(labelled + decided > 0, 2 * hits / (labelled + decided), np.nan)
        recall = np.where(labelled > 0, hits / labelled, np.nan)
        accuracy = hits.sum(1) / labelled.sum(1)
    if scores.shape[1] == 2:
        auroc = _auroc(scores[:, 1] - scores[:, 0], labels == 1, weights)
    else:
        auroc = np.mean([_auroc(scores[:, k], labels == k, weights) for k in range(scores.shape[1])], axis=0)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean_of_defined(recall),
        "f1_macro": _mean_of_defined(f1),
        "auroc": auroc,
    }


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over axis 1 of what is not NaN; NaN where nothing is."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(1) / defined.sum(1)


def _auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The chance [R] that a positive row scores above a negative one, ties counted half."""
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    scores, positive, weights = scores[order], positive[order], weights[:, order]
    ties = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    positives = np.add.reduceat(weights * positive, ties, axis=1)
    negatives = np.add.reduceat(weights * ~positive, ties, axis=1)
    below = np.cumsum(negatives, axis=1) - 0.5 * negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))


def _concordance(
    labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """CCC, PCC, RMSE and sign agreement [R] of one output without mask, for weights [R, G] of groups."""
    if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
        raise ValueError("labels or predictions hold NaN or infinity where the mask is True")
    if not len(labels):
        return {metric: np.full(len(weights), np.nan) for metric in REGRESSION_NAMES}
    difference = predictions - labels
    # Correlation does not depend on an offset; without it a constant column is exactly zero.
    label, prediction = labels - labels[0], predictions - predictions[0]
    agrees = np.sign(predictions) == np.sign(labels)
    columns = (label, prediction, label**2, prediction**2, label * prediction)
    columns = (np.ones(len(labels)), *columns, difference, difference**2, agrees)
    size = weights.shape[1]
    sums = np.stack([np.bincount(groups, weights=column, minlength=size) for column in columns], axis=1)
    totals = weights @ sums
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals[:, 1:] / totals[:, :1]
        m_l, m_p, m_ll, m_pp, m_lp, m_d, m_dd, agreement = means.T
        var_l, var_p = m_ll - m_l**2, m_pp - m_p**2
        var_l = np.where(var_l <= _CONSTANT_SHARE * m_ll, 0.0, var_l)
        var_p = np.where(var_p <= _CONSTANT_SHARE * m_pp, 0.0, var_p)
        covariance = np.where((var_l > 0) & (var_p > 0), m_lp - m_l * m_p, 0.0)
        ccc = 2 * covariance / (var_l + var_p + m_d**2)
        pcc = np.clip(covariance / np.sqrt(var_l * var_p), -1.0, 1.0)
    return {"ccc": ccc, "pcc": pcc, "rmse": np.sqrt(m_dd), "sagr": agreement}
