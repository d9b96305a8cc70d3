"""Two backbones on one stream, their tokens combined into one (facts A5)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.attention import Encoder, MultiHeadAttention
from jmt_jax.models.layers import Linear


class Pair(nn.Module):
    """Two views of one stream: the same windows seen by two networks, or a window and features of it.

    - `feat_concat_fc`: both tokens of a moment side by side through a Linear.
    - `encoder_plus_self_attention`: both as a sequence of two through an encoder, then plain self-attention,
      of which the second token is kept (only that query is computed); where the second backbone has nothing
      to see, the first. A backbone whose width is not `features` gets a Linear in front.

    Attributes:
      first, second: The backbones; in a configuration {"name": ..., its arguments...} each.
      combine: How, see above.
      features: Width D of the output.
      hidden_dim, num_layers, num_heads: Of the encoder; with `encoder_plus_self_attention`.
      dtype: Type of the computation.
    """

    first: nn.Module
    second: nn.Module
    combine: Literal["feat_concat_fc", "encoder_plus_self_attention"] = "encoder_plus_self_attention"
    features: int = 512
    hidden_dim: int = 512
    num_layers: int = 1
    num_heads: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array | tuple[jax.Array, jax.Array],
        mask: jax.Array | tuple[jax.Array, jax.Array] | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Looks with both.

        Args:
          inputs: One array [B, S, ...] that both see, or one for each.
          mask: bool [B, S], True = real, for both or one for each; None = all real. A moment is there if one
            of its two inputs is, and what the other would have said does not take part.
          train: As the backbones have it.

        Returns:
          [B, S, features] in `dtype`, zeros where both are masked.

        Raises:
          ValueError: `combine` has another value, or the backbones give different numbers of tokens.
        """
        if self.combine not in ("feat_concat_fc", "encoder_plus_self_attention"):
            raise ValueError(
                f"combine is {self.combine!r}; it can be feat_concat_fc or encoder_plus_self_attention"
            )
        backbones = {"first": self.first, "second": self.second}
        inputs = inputs if isinstance(inputs, tuple) else (inputs, inputs)
        masks = mask if isinstance(mask, tuple) else (mask, mask)
        tokens = {
            name: backbone(values, real, train=train).astype(self.dtype)
            for (name, backbone), values, real in zip(backbones.items(), inputs, masks, strict=True)
        }
        lengths = {name: x.shape[:2] for name, x in tokens.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the two backbones of a stream give {lengths} tokens; expected the same number")
        everything = jnp.ones(lengths["first"], bool)
        present = jnp.stack([everything if real is None else real for real in masks], axis=-1)
        return self._combined(tokens, present)

    def _combined(self, tokens: dict[str, jax.Array], present: jax.Array) -> jax.Array:
        """[B, S, width] each, bool [B, S, 2] -> [B, S, features]."""
        parts = [jnp.where(present[..., index, None], x, 0) for index, x in enumerate(tokens.values())]
        if self.combine == "feat_concat_fc":
            output = Linear(self.features, self.dtype, name="joint")(jnp.concatenate(parts, axis=-1))
            return jnp.where(present.any(-1, keepdims=True), output, 0)
        for index, (name, x) in enumerate(zip(tokens, parts, strict=True)):
            if x.shape[-1] != self.features:
                parts[index] = Linear(self.features, self.dtype, name=f"projection_{name}")(x)
        x = jnp.stack(parts, axis=-2)
        encoder = Encoder(
            self.num_layers,
            self.features,
            self.hidden_dim,
            self.num_heads,
            dtype=self.dtype,
            name="token_encoder",
        )
        x = encoder(x, present)
        query = jnp.where(present[..., 1, None, None], x[..., 1:, :], x[..., :1, :])
        attention = MultiHeadAttention(self.features, self.num_heads, self.dtype, name="token_attention")
        return attention(query, x, present)[..., 0, :]
