"""Heads: from the fusion's features to logits or to valence and arousal (facts A1, A4, A7)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.layers import Dropout, Linear


def last_present(features: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, S, D], bool [B, S] -> [B, D]: the last present step; the last one of all where none is present."""
    steps = mask.shape[-1]
    last = jnp.max(jnp.where(mask, jnp.arange(steps), -1), axis=-1)
    last = jnp.where(last < 0, steps - 1, last)
    return jnp.take_along_axis(features, last[:, None, None], axis=1)[:, 0]


def mean_present(features: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, S, D], bool [B, S] -> [B, D]: the mean over present steps, zeros where there is none."""
    kept = jnp.where(mask[..., None], features, 0).sum(1, dtype=jnp.float32)
    return (kept / jnp.maximum(mask.sum(-1, dtype=jnp.float32), 1.0)[:, None]).astype(features.dtype)


class MLPHead(nn.Module):
    """Linear, ReLU, dropout for each hidden width, then a Linear to the outputs.

    Attributes:
      outputs: How many: classes, or one each for valence and arousal.
      hidden: Hidden widths: (128,) in the Affwild2 model, (1024, 512, 256, 64) in the BioVid one.
      dropout: Rate after each hidden ReLU.
      pooling: What happens to the S steps: `last` keeps the last present one, `mean` averages the present
        ones (both before the MLP), `none` gives every step its own output.
      separate: True builds one MLP for each output, as the Affwild2 model's valence and arousal have.
      axis_name: The pmap axis over which dropout is drawn; None under jit.
      dtype: Type of the computation; the output is float32.
    """

    outputs: int
    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.0
    pooling: Literal["last", "mean", "none"] = "last"
    separate: bool = False
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, S, D], bool [B, S] -> float32 [B, outputs], or [B, S, outputs] with pooling `none`."""
        if self.pooling == "last":
            x = last_present(features, mask)
        elif self.pooling == "mean":
            x = mean_present(features, mask)
        elif self.pooling == "none":
            x = features
        else:
            raise ValueError(f"pooling is {self.pooling!r}; it can be last, mean or none")
        if not self.separate:
            return self._tower(x, self.outputs, "", train=train).astype(jnp.float32)
        towers = [self._tower(x, 1, f"tower{index}_", train=train) for index in range(self.outputs)]
        return jnp.concatenate(towers, axis=-1).astype(jnp.float32)

    def _tower(self, x: jax.Array, outputs: int, prefix: str, *, train: bool) -> jax.Array:
        for layer, width in enumerate(self.hidden):
            x = nn.relu(Linear(width, self.dtype, name=f"{prefix}hidden{layer}")(x))
            x = Dropout(self.dropout, self.axis_name)(x, train=train)
        return Linear(outputs, self.dtype, name=f"{prefix}output")(x)
