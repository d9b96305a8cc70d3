"""Pooling over windows of time and space."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jmt_jax.models.backbones.convolution import Triple, same_padding


def max_pool(x: jax.Array, window: Triple, strides: Triple) -> jax.Array:
    """The largest value of every window, padded with zeros as TensorFlow's SAME lays them.

    One axis after the other, which comes to the same and costs the sum of the window's sides instead of their
    product.

    Args:
      x: [N, T, H, W, C].
      window, strides: In (time, height, width).

    Returns:
      [N, ceil(T / strides[0]), ...]. The gradient goes to exactly one value of each window (along an axis the
      first of equals), or is lost to a padding zero where all others are below it.
    """
    for axis, (size, stride) in enumerate(zip(window, strides, strict=True), start=1):
        padding = [(0, 0)] * x.ndim
        padding[axis] = same_padding(x.shape[axis], size, stride)
        steps = -(-x.shape[axis] // stride)
        last = (steps - 1) * stride + 1
        padded = jnp.pad(x, padding)
        x = lax.slice_in_dim(padded, 0, last, stride, axis)
        for offset in range(1, size):
            other = lax.slice_in_dim(padded, offset, offset + last, stride, axis)
            # Not jnp.maximum: its gradient looks for equality with a value that XLA may have rounded
            # otherwise.
            x = jnp.where(other > x, other, x)
    return x
