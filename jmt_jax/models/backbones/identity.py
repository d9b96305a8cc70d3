"""Features that were computed before (WavLM's, or those of a frozen backbone) as they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


class Identity(nn.Module):
    """[B, S, D] -> [B, S, D]; has no parameters.

    Attributes:
      axis_name: Accepted so that every backbone is built alike; nothing is reduced here.
      dtype: Type of the output.
    """

    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, features: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Hands the vectors on in `dtype`.

        Raises:
          ValueError: if they are not [B, S, D].
        """
        del mask, train
        if features.ndim != 3:
            raise ValueError(
                f"ready-made features have shape {features.shape}; expected [batch, tokens, width]"
            )
        return features.astype(self.dtype)
