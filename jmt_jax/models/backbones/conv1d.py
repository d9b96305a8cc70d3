"""The 1-D CNN for physiological signals (facts A6), for any number of channels and any length."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.layers import BatchNorm, Conv1D, LayerNorm, Linear

POOL = 2


class SignalCNN(nn.Module):
    """Convolution, ReLU, max pooling of 2, repeated; then one Linear, whose output is the feature (no ReLU).

    The paper's network is the default: 2816 samples of one channel give 349 x 64 = 22336 values before
    the Linear.

    Attributes:
      channels, kernel_sizes, strides: One entry a convolution; none is padded.
      features: Width D of the output.
      pooling: `flatten` keeps every step (the length then belongs to the weights); `mean` averages over time.
      normalization: After each convolution, before the ReLU: `none` as the paper, `batch` or `layer` (over
        channels).
      axis_name: The pmap axis of batch statistics, or None.
      dtype: Type of the computation.
    """

    channels: tuple[int, ...] = (32, 64)
    kernel_sizes: tuple[int, ...] = (5, 5)
    strides: tuple[int, ...] = (2, 1)
    features: int = 512
    pooling: Literal["flatten", "mean"] = "flatten"
    normalization: Literal["none", "batch", "layer"] = "none"
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, signals: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Looks at every window on its own.

        Args:
          signals: floating [B, S, T, C].
          mask: bool [B, S], True = real; decides only whose values enter batch statistics.
          train: Whether batch statistics are used and updated (with `normalization="batch"`).

        Returns:
          [B, S, features] in `dtype`.

        Raises:
          ValueError: where the window is too short for the layers, or arguments disagree.
        """
        batch, tokens, length = signals.shape[:3]
        self._check(length)
        x = signals.reshape(-1, *signals.shape[2:]).astype(self.dtype)
        mask = None if mask is None else mask.reshape(-1)
        layers = zip(self.channels, self.kernel_sizes, self.strides, strict=True)
        for layer, (width, size, stride) in enumerate(layers, start=1):
            x = Conv1D(width, size, stride, self.dtype, name=f"conv{layer}")(x)
            if self.normalization == "batch":
                norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"norm{layer}")
                x = norm(x, mask, train=train)
            elif self.normalization == "layer":
                x = LayerNorm(self.dtype, name=f"norm{layer}")(x)
            x = _halve(nn.relu(x))
        x = x.mean(1) if self.pooling == "mean" else x.reshape(x.shape[0], -1)
        x = Linear(self.features, self.dtype, name="projection")(x)
        return x.reshape(batch, tokens, self.features)

    def _check(self, length: int) -> None:
        if not len(self.channels) == len(self.kernel_sizes) == len(self.strides):
            raise ValueError(
                f"channels, kernel_sizes and strides have {len(self.channels)}, {len(self.kernel_sizes)} and "
                f"{len(self.strides)} entries; give each one entry a convolution"
            )
        if self.pooling not in ("flatten", "mean"):
            raise ValueError(f"pooling is {self.pooling!r}; it can be flatten or mean")
        if self.normalization not in ("none", "batch", "layer"):
            raise ValueError(f"normalization is {self.normalization!r}; it can be none, batch or layer")
        needed = 1
        for size, stride in zip(reversed(self.kernel_sizes), reversed(self.strides), strict=True):
            needed = (needed * POOL - 1) * stride + size
        if length < needed:
            raise ValueError(
                f"a window of {length} samples is too short for {len(self.channels)} convolutions "
                f"with pooling, which need {needed}; lengthen it or take fewer or smaller convolutions"
            )


def _halve(x: jax.Array) -> jax.Array:
    """The larger of every two steps, [N, T, C] -> [N, T // 2, C]; a last odd step is dropped."""
    steps = x.shape[1] // POOL
    pairs = x[:, : steps * POOL].reshape(x.shape[0], steps, POOL, x.shape[2])
    # Not .max(2): its gradient looks for equality with a value that XLA may have rounded otherwise, and gives
    # NaN where it finds none.
    return jnp.maximum(pairs[:, :, 0], pairs[:, :, 1])
