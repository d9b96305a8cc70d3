"""Multimodal bottleneck fusion after Nagrani et al., NeurIPS 2021 (arXiv 2107.00135)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.attention import Encoder, EncoderLayer
from jmt_jax.models.baselines import mean_of_present
from jmt_jax.models.fusion import JOINT, presence
from jmt_jax.models.stream_input import StreamInput


class Bottleneck(nn.Module):
    """Streams that exchange only through a few learned tokens, which all of them see and rewrite.

    First `num_layers` encoder layers for each stream alone. Then `num_fusion_layers` times: each stream's
    layer runs over its own S tokens and the bottleneck tokens together, and the next layer's bottleneck is
    the average of what the streams made of it. What one stream writes into the bottleneck the others read in
    the next layer. The features of a moment are the mean over the streams present there.

    A stream that is absent for a whole sample writes nothing: the average is over the others.

    Deviation: encoder layers are those of the rest of this project (post-norm, no positions), not a
    pretrained ViT's. No class token: every moment has features of its own, and these, not the streams'
    logits, are averaged.

    Attributes:
      streams: Their names, in order.
      dim: Width of every token.
      hidden_dim: Width inside the encoders' feed-forward part.
      num_heads: Of every encoder layer.
      num_layers: Layers of each stream before the exchange; 0 for none.
      num_fusion_layers: Layers with the bottleneck; at least 2, for what is written in one is read in the
        next.
      num_bottlenecks: Bottleneck tokens; 4 in the paper.
      l2_norm, dropout, axis_name, dtype: As in `JMT`.
    """

    streams: tuple[str, ...]
    dim: int = 512
    hidden_dim: int = 512
    num_heads: int = 1
    num_layers: int = 0
    num_fusion_layers: int = 2
    num_bottlenecks: int = 4
    l2_norm: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """As `JMT`: [B, S, dim] with zeros where all streams are absent, and bool [B, S], False there."""
        if self.num_fusion_layers < 2:
            raise ValueError(
                f"num_fusion_layers is {self.num_fusion_layers}; expected at least 2, because what a stream "
                "writes into the bottleneck is read in the next layer"
            )
        if self.num_bottlenecks < 1:
            raise ValueError(f"num_bottlenecks is {self.num_bottlenecks}; expected at least 1")
        arguments = (self.dim, self.hidden_dim, self.num_heads, self.dropout, self.axis_name, self.dtype)
        x = {}
        for stream in self.streams:
            stream_input = StreamInput(
                self.dim, self.l2_norm, "drop", dtype=self.dtype, name=f"input_{stream}"
            )
            x[stream], _ = stream_input(tokens[stream], masks[stream])
            encoder = Encoder(self.num_layers, *arguments, name=f"encoder_{stream}")
            x[stream] = encoder(x[stream], masks[stream], train=train)

        shape = (self.num_bottlenecks, self.dim)
        start = self.param("bottleneck", nn.initializers.normal(0.02), shape, jnp.float32)
        batch, steps = masks[self.streams[0]].shape
        shared = jnp.broadcast_to(start.astype(self.dtype), (batch, *shape))
        visible = jnp.ones((batch, self.num_bottlenecks), bool)
        writes = {
            stream: jnp.broadcast_to(masks[stream].any(-1)[:, None], visible.shape) for stream in self.streams
        }
        for number in range(self.num_fusion_layers):
            written = {}
            for stream in self.streams:
                layer = EncoderLayer(*arguments, name=f"fusion{number}_{stream}")
                together = jnp.concatenate([x[stream], shared], axis=1)
                together = layer(together, jnp.concatenate([masks[stream], visible], axis=1), train=train)
                x[stream], written[stream] = together[:, :steps], together[:, steps:]
            shared = mean_of_present(written, writes)
        return mean_of_present(x, masks), presence(self.streams, masks)[JOINT]
