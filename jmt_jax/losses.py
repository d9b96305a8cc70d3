"""Losses as additive moments and a value made of them.

A loss is two pure functions. ``moments`` turns logits, labels and mask into a pytree of *sums*; these add up
over samples, micro-batches and devices. ``value`` turns the sums of the whole global batch into the scalar.
Cross-entropy would not need this, the concordance correlation coefficient (CCC) does: it is a ratio of
moments, so the mean of the CCCs of two half batches is another number than the CCC of the batch.

The gradient over a batch in parts takes two passes::

    total = sum of loss.moments(...) over all parts            # first pass
    value, cotangent = jax.value_and_grad(loss.value)(total)
    gradient = sum over parts of vjp(moments of the part)(cotangent)   # second pass
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Below this the variances are float32 rounding noise of values around 1 (standard deviations under 1e-3).
CCC_DENOMINATOR_FLOOR = 1e-6


class Loss(NamedTuple):
    """A loss in two steps.

    Attributes:
      moments: (logits, labels, mask) -> pytree of float32 sums, additive over samples and devices. Masked
        entries (mask False) may hold anything, NaN included: they change neither value nor gradient.
      value: (summed moments) -> float32 scalar; finite, with a finite gradient, even if nothing is labelled.
    """

    moments: Callable[[jax.Array, jax.Array, jax.Array], Any]
    value: Callable[[Any], jax.Array]


def _check_shapes(name: str, logits: jax.Array, labels: jax.Array, mask: jax.Array, width: int) -> None:
    """Raises ValueError unless the trailing axes fit; a silent broadcast would be a wrong loss."""
    expected = logits.shape[:-1] if name == "cross_entropy" else logits.shape
    if logits.shape[-1] != width or labels.shape != expected or mask.shape != expected:
        raise ValueError(
            f"{name}: logits {logits.shape}, labels {labels.shape}, mask {mask.shape}; "
            f"expected logits [..., {width}] and labels and mask of shape {expected}"
        )


def cross_entropy(num_classes: int, label_smoothing: float = 0.0) -> Loss:
    """The mean cross-entropy, in nats, over all labelled entries.

    Args:
      num_classes: K, at least 2.
      label_smoothing: In [0, 1): the share of the target's mass that is spread evenly over the K classes.

    Returns:
      A loss over logits [..., K] (any float type, computed in float32), labels int [...] in 0..K-1 and mask
      bool [...]. The value is 0 where nothing is labelled.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; expected at least 2")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected 0 <= label_smoothing < 1")

    def moments(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        _check_shapes("cross_entropy", logits, labels, mask, num_classes)
        logits = jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0)
        log_probabilities = jax.nn.log_softmax(logits, axis=-1)
        picked = jnp.where(mask, labels, 0)[..., None]
        loss = -(1.0 - label_smoothing) * jnp.take_along_axis(log_probabilities, picked, axis=-1)[..., 0]
        loss = loss - label_smoothing * jnp.mean(log_probabilities, axis=-1)
        return {
            "count": jnp.sum(mask, dtype=jnp.float32),
            "loss": jnp.sum(jnp.where(mask, loss, 0.0)),
        }

    def value(sums: dict[str, jax.Array]) -> jax.Array:
        return sums["loss"] / jnp.maximum(sums["count"], 1.0)

    return Loss(moments, value)


def mse(num_outputs: int) -> Loss:
    """The squared error, averaged over each output's labelled entries and then summed over the outputs.

    Returns:
      A loss over logits, labels float [..., A] and mask bool [..., A], with A = ``num_outputs``. An output
      without a label adds 0.
    """

    def moments(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        _check_shapes("mse", logits, labels, mask, num_outputs)
        prediction = jnp.where(mask, logits.astype(jnp.float32), 0.0)
        label = jnp.where(mask, labels.astype(jnp.float32), 0.0)
        axes = tuple(range(mask.ndim - 1))
        return {
            "count": jnp.sum(mask, axis=axes, dtype=jnp.float32),
            "difference_square": jnp.sum(jnp.square(prediction - label), axis=axes),
        }

    def value(sums: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(sums["difference_square"] / jnp.maximum(sums["count"], 1.0))

    return Loss(moments, value)


def ccc(num_outputs: int, unbiased: bool = True, center: float = 0.0) -> Loss:
    """One minus the concordance correlation coefficient, summed over the outputs (each in [0, 2]).

    CCC = 2 cov(p, l) / (var p + var l + (mean p - mean l)^2) over all labelled entries of the global batch
    (reference facts, B5). With d = p - l this is

        1 - CCC = (var d + (mean d)^2) / (var p + var l + (mean d)^2),

    the form used here: nothing cancels where predictions are good, and the value cannot be negative.

    Finite everywhere: constant predictions or constant labels give 1; predictions equal to constant labels
    give 0, as does an output without a label; one label gives 1 (0 if it is hit), without a gradient.

    Args:
      num_outputs: A, e.g. 2 for valence and arousal.
      unbiased: True: variances and covariance over n - 1, as the authors' training loss has them; False: over
        n, as the challenge's metric has them (``metrics.regression``).
      center: The middle of the label's range (0 for labels in [-1, 1], 5 for a scale of 1 to 9). The CCC does
        not depend on it; subtracted first, it keeps the float32 variances from cancelling.

    Returns:
      A loss over logits, labels float [..., A] and mask bool [..., A]; moments are float32 [A].

    Deviation: the authors' loss has no mask, and a NaN gradient for a constant output.
    """

    def moments(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        _check_shapes("ccc", logits, labels, mask, num_outputs)
        # Masked before any arithmetic: a NaN behind the mask must not reach the gradient either.
        prediction = jnp.where(mask, logits.astype(jnp.float32) - center, 0.0)
        label = jnp.where(mask, labels.astype(jnp.float32) - center, 0.0)
        difference = prediction - label
        axes = tuple(range(mask.ndim - 1))
        return {
            "count": jnp.sum(mask, axis=axes, dtype=jnp.float32),
            "prediction": jnp.sum(prediction, axis=axes),
            "label": jnp.sum(label, axis=axes),
            "difference": jnp.sum(difference, axis=axes),
            "prediction_square": jnp.sum(jnp.square(prediction), axis=axes),
            "label_square": jnp.sum(jnp.square(label), axis=axes),
            "difference_square": jnp.sum(jnp.square(difference), axis=axes),
        }

    def value(sums: dict[str, jax.Array]) -> jax.Array:
        count = jnp.maximum(sums["count"], 1.0)
        freedom = jnp.maximum(sums["count"] - 1.0, 1.0) if unbiased else count

        def variance(name: str) -> jax.Array:
            squares = sums[f"{name}_square"] - jnp.square(sums[name]) / count
            return jnp.maximum(squares, 0.0) / freedom

        mean_difference_square = jnp.square(sums["difference"] / count)
        numerator = variance("difference") + mean_difference_square
        denominator = variance("prediction") + variance("label") + mean_difference_square
        return jnp.sum(numerator / jnp.maximum(denominator, CCC_DENOMINATOR_FLOOR))

    return Loss(moments, value)
