"""How a stream's tokens enter a fusion: masked, normalised, brought to the fusion's width."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmt_jax.models.layers import Linear

Absent = Literal["learned", "drop"]
L2_EPSILON = 1e-12


def l2_normalise(x: jax.Array) -> jax.Array:
    """Computes x / max(|x|, 1e-12) over the last axis, in float32; the gradient at zero is zero, not NaN."""
    values = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(values), axis=-1, keepdims=True)
    return (values * lax.rsqrt(jnp.maximum(squares, L2_EPSILON**2))).astype(x.dtype)


class StreamInput(nn.Module):
    """One stream's tokens on their way into a fusion (facts A1).

    Attributes:
      dim: Width of the fusion; a Linear leads there where the stream's width is another one.
      l2_norm: Whether each vector is brought to length 1 first.
      absent: What enters the joint projection where the stream is masked: a `learned` vector (zeros at
        first), or nothing (`drop`).
      can_be_replaced: False where no joint projection ever reads a masked token of this stream, as with one
        stream alone; then no vector is built.
      dtype: Type of the computation.
    """

    dim: int
    l2_norm: bool
    absent: Absent = "learned"
    can_be_replaced: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, S, W], bool [B, S] -> tokens [B, S, dim] with zeros under the mask, and what joins."""
        if self.absent not in ("learned", "drop"):
            raise ValueError(f"absent is {self.absent!r}; it can be learned or drop")
        present = mask[..., None]
        x = jnp.where(present, tokens.astype(self.dtype), 0)
        if self.l2_norm:
            x = l2_normalise(x)
        if x.shape[-1] != self.dim:
            x = jnp.where(present, Linear(self.dim, self.dtype, name="projection")(x), 0)
        if self.absent == "drop" or not self.can_be_replaced:
            return x, x
        vector = self.param("absent", nn.initializers.zeros, (self.dim,), jnp.float32)
        return x, jnp.where(present, x, vector.astype(self.dtype))
