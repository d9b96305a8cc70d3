"""What the JMT is compared with: one stream alone, and concatenation (facts A4)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.fusion import JOINT, presence
from jmt_jax.models.layers import Linear
from jmt_jax.models.stream_input import Absent, StreamInput


class Unimodal(nn.Module):
    """One stream's tokens as they are; has no parameters.

    Attributes:
      streams: The one stream.
      dtype: Type of the output.
    """

    streams: tuple[str, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """As `JMT`: [B, S, D] with zeros under the mask, and the mask.

        Raises:
          ValueError: unless there is exactly one stream.
        """
        del train
        if len(self.streams) != 1:
            raise ValueError(f"fusion 'unimodal' takes one stream, not {self.streams}; choose another fusion")
        (stream,) = self.streams
        mask = masks[stream]
        return jnp.where(mask[..., None], tokens[stream].astype(self.dtype), 0), mask


class Concat(nn.Module):
    """Linear(all streams side by side); nothing mixes over time.

    Attributes:
      streams: Their names, in order.
      dim: Width of the output, and of every stream in front of the Linear.
      l2_norm, absent, dtype: As in `JMT`.
    """

    streams: tuple[str, ...]
    dim: int = 512
    l2_norm: bool = True
    absent: Absent = "learned"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """As `JMT`: [B, S, dim] with zeros where all streams are absent, and bool [B, S], False there."""
        del train
        present = presence(self.streams, masks)[JOINT]
        parts = []
        for stream in self.streams:
            stream_input = StreamInput(
                self.dim, self.l2_norm, self.absent, len(self.streams) > 1, self.dtype, name=f"input_{stream}"
            )
            parts.append(stream_input(tokens[stream], masks[stream])[1])
        output = Linear(self.dim, self.dtype, name=JOINT)(jnp.concatenate(parts, axis=-1))
        return jnp.where(present[..., None], output, 0), present
