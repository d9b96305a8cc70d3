"""The Joint Multimodal Transformer for any number of streams (facts A3, A7; E4 for more than two)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.attention import Encoder, MultiHeadAttention
from jmt_jax.models.layers import Linear
from jmt_jax.models.stream_input import Absent, StreamInput

JOINT = "joint"


def token_order(streams: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The M (M + 1) cross-attended tokens as (query, key) pairs, in the order in which they are stacked.

    First every ordered pair of streams, by query and then by key; then for each stream the joint's look at it
    followed by its look at the joint. For (visual, audio) that is the paper's order:
    visual_from_audio, audio_from_visual, joint_from_visual, visual_from_joint, joint_from_audio,
    audio_from_joint.
    """
    pairs = [(query, key) for query in streams for key in streams if query != key]
    for stream in streams:
        pairs += [(JOINT, stream), (stream, JOINT)]
    return tuple(pairs)


def presence(streams: Sequence[str], masks: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The streams' masks, bool [B, S], and the joint's: present where any stream is."""
    present = {stream: masks[stream] for stream in streams}
    present[JOINT] = jnp.stack([masks[stream] for stream in streams]).any(0)
    return present


class JMT(nn.Module):
    """Joint representation, one encoder a stream, cross-attention between all pairs, and a read-out.

    J = Linear(all streams side by side), made before the encoders; encoders over the S tokens for each stream
    and for J; for each (query, key) of `token_order` one cross-attention, by the module of its *query*
    stream, without residual or norm; then `output`:

    - `self_attention`: the M(M+1) tokens of one moment through an encoder, then plain self-attention, of
      which one token is kept (only that query is computed): [B, S, dim]. With all streams present it is the
      last one, the paper's; otherwise the last one in the order whose query and key are both present there.
    - `fc`: all tokens side by side through a Linear: [B, S, output_dim].
    - `sequence`: all tokens side by side through an encoder over the S moments: [B, S, M(M+1) dim] (BioVid).

    Deviation: `fc` returns batch before time (the reference's time before batch is a slip). Encoders attend
    over time only. The weights that the reference builds and never reads do not exist here.

    Attributes:
      streams: Their names, in order.
      dim: Width of every token.
      hidden_dim: Width inside the encoders' feed-forward part.
      num_heads, num_layers: Of every encoder; `num_heads` of every attention.
      output: The read-out, see above.
      output_dim: Width of `fc`; None = 2 dim (1024 in the paper). Only with `fc`.
      l2_norm: Whether features are brought to length 1 first: yes in the Affwild2 model, no in the BioVid
        one.
      absent: `learned` or `drop`, see `StreamInput`.
      dropout: Rate inside the encoders; 0 in the paper.
      axis_name: The pmap axis over which dropout is drawn; None under jit.
      dtype: Type of the computation.
    """

    streams: tuple[str, ...]
    dim: int = 512
    hidden_dim: int = 512
    num_heads: int = 1
    num_layers: int = 1
    output: Literal["self_attention", "fc", "sequence"] = "self_attention"
    output_dim: int | None = None
    l2_norm: bool = True
    absent: Absent = "learned"
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Fuses.

        Args:
          tokens: Stream -> [B, S, its width].
          masks: Stream -> bool [B, S], True = present. What stands under a mask changes no bit of the output.
          train: Whether dropout is on.

        Returns:
          [B, S, D] with zeros where all streams are absent, and bool [B, S], False exactly there.
        """
        self._check()
        present = presence(self.streams, masks)
        encoded = self._encode(tokens, masks, present, train=train)
        order = token_order(self.streams)
        crossed = self._cross(encoded, present)
        token_masks = jnp.stack([present[query] & present[key] for query, key in order], axis=-1)
        stacked = jnp.stack([crossed[pair] for pair in order], axis=-2)
        if self.output == "self_attention":
            output = self._read_out(stacked, token_masks, train=train)
        else:
            flat = jnp.where(token_masks[..., None], stacked, 0)
            flat = flat.reshape(*flat.shape[:-2], len(order) * self.dim)
            if self.output == "fc":
                output = Linear(self.output_dim or 2 * self.dim, self.dtype, name="output")(flat)
            else:
                output = self._encoder("sequence_encoder", len(order) * self.dim)(
                    flat, present[JOINT], train=train
                )
        return jnp.where(present[JOINT][..., None], output, 0), present[JOINT]

    def _check(self) -> None:
        if self.output not in ("self_attention", "fc", "sequence"):
            raise ValueError(f"output is {self.output!r}; it can be self_attention, fc or sequence")
        if self.output_dim is not None and self.output != "fc":
            raise ValueError(f"output_dim is the width of output 'fc'; leave it out with {self.output!r}")
        if not self.streams or JOINT in self.streams:
            raise ValueError(
                f"streams are {self.streams}; expected at least one, none of them named {JOINT!r}"
            )

    def _encoder(self, name: str, dim: int) -> Encoder:
        return Encoder(
            self.num_layers,
            dim,
            self.hidden_dim,
            self.num_heads,
            self.dropout,
            self.axis_name,
            self.dtype,
            name=name,
        )

    def _encode(
        self,
        tokens: Mapping[str, jax.Array],
        masks: Mapping[str, jax.Array],
        present: Mapping[str, jax.Array],
        *,
        train: bool,
    ) -> dict[str, jax.Array]:
        """Every stream and the joint representation after their encoders, [B, S, dim] each."""
        encoded, parts = {}, []
        for stream in self.streams:
            stream_input = StreamInput(
                self.dim, self.l2_norm, self.absent, len(self.streams) > 1, self.dtype, name=f"input_{stream}"
            )
            encoded[stream], part = stream_input(tokens[stream], masks[stream])
            parts.append(part)
        encoded[JOINT] = Linear(self.dim, self.dtype, name=JOINT)(jnp.concatenate(parts, axis=-1))
        return {
            name: self._encoder(f"encoder_{name}", self.dim)(x, present[name], train=train)
            for name, x in encoded.items()
        }

    def _cross(
        self, encoded: Mapping[str, jax.Array], present: Mapping[str, jax.Array]
    ) -> dict[tuple[str, str], jax.Array]:
        """(query, key) -> [B, S, dim]; one module a query stream, its query projected once."""
        crossed = {}
        for query in (*self.streams, JOINT):
            attention = MultiHeadAttention(self.dim, self.num_heads, self.dtype, name=f"attention_{query}")
            projected = attention.project_query(encoded[query])
            for pair in token_order(self.streams):
                if pair[0] == query:
                    crossed[pair] = attention.attend(projected, encoded[pair[1]], present[pair[1]])
        return crossed

    def _read_out(self, stacked: jax.Array, token_masks: jax.Array, *, train: bool) -> jax.Array:
        """[B, S, N, dim], bool [B, S, N] -> [B, S, dim]."""
        x = self._encoder("token_encoder", self.dim)(stacked, token_masks, train=train)
        count = token_masks.shape[-1]
        last = jnp.max(jnp.where(token_masks, jnp.arange(count), 0), axis=-1)
        query = jnp.take_along_axis(x, last[..., None, None], axis=-2)
        attention = MultiHeadAttention(self.dim, self.num_heads, self.dtype, name="token_attention")
        return attention(query, x, token_masks)[..., 0, :]
