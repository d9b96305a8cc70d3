"""Initial weights: torch's defaults, which the reference trains from (reference facts A1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = Callable[..., jax.Array]

linear_kernel: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Kernel [.., in, out] of a Linear or Conv: kaiming-uniform with a = sqrt 5, i.e. U(+-1/sqrt(fan_in))."""

video_kernel: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Kernel [kt, kh, kw, in, out] of the video ResNets: He-normal over fan-out."""


def symmetric_uniform(bound: float) -> Initializer:
    """An initializer that draws U(-bound, bound)."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


def linear_bias(fan_in: int) -> Initializer:
    """Bias of a Linear or Conv whose outputs each read `fan_in` inputs: U(+-1/sqrt(fan_in))."""
    return symmetric_uniform(1 / math.sqrt(fan_in))


def attention_projection_kernel(dim: int) -> Initializer:
    """One (dim, dim) third of the in-projection, xavier-uniform on the stacked (3 dim, dim) matrix."""
    return symmetric_uniform(math.sqrt(6 / (4 * dim)))
