"""Cross-attention without the joint branch (facts A4, A7), plain and with as many parameters as the JMT."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.attention import Encoder, MultiHeadAttention
from jmt_jax.models.fusion import JMT, JOINT, presence, token_order
from jmt_jax.models.layers import Linear
from jmt_jax.models.parameters import count_parameters
from jmt_jax.models.stream_input import Absent, StreamInput


def pair_order(streams: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The M (M - 1) ordered pairs of streams as (query, key), in the order in which they are concatenated.

    By query and then by key. One stream alone has nobody to look at: its only token is (stream, stream).
    """
    pairs = tuple((query, key) for query in streams for key in streams if query != key)
    return pairs or tuple((stream, stream) for stream in streams)


class Vanilla(nn.Module):
    """One encoder a stream, cross-attention between all pairs of streams, and all tokens side by side.

    For each (query, key) of `pair_order` one cross-attention, by the module of its *query* stream, without
    residual or norm. `output`: `fc` leads through a Linear, [B, S, output_dim] (Affwild2); `concat` keeps the
    tokens side by side, [B, S, M(M-1) dim] (BioVid).

    A token is there where its query stream is. Where the key stream is absent for the whole sample there is
    nothing to look at, and the encoded query stands in its place: otherwise the baseline would lose the
    stream that is left. One stream alone is its encoder's output.

    Deviation: attention over time only; the reference's encoders attend over the batch in this baseline. The
    weights that the reference builds and never reads do not exist here.

    Attributes:
      streams: Their names, in order.
      dim: Width of every token.
      hidden_dim: Width inside the encoders' feed-forward part.
      num_heads, num_layers: Of every encoder; `num_heads` of every attention.
      output: See above.
      output_dim: Width of `fc`; None = dim, as in the paper. Only with `fc`.
      l2_norm, dropout, axis_name, dtype: As in `JMT`.
    """

    streams: tuple[str, ...]
    dim: int = 512
    hidden_dim: int = 512
    num_heads: int = 1
    num_layers: int = 1
    output: Literal["fc", "concat"] = "fc"
    output_dim: int | None = None
    l2_norm: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """As `JMT`: [B, S, D] with zeros where all streams are absent, and bool [B, S], False there."""
        if self.output not in ("fc", "concat"):
            raise ValueError(f"output is {self.output!r}; it can be fc or concat")
        if self.output_dim is not None and self.output != "fc":
            raise ValueError(f"output_dim is the width of output 'fc'; leave it out with {self.output!r}")
        encoded = {}
        for stream in self.streams:
            stream_input = StreamInput(
                self.dim, self.l2_norm, "drop", dtype=self.dtype, name=f"input_{stream}"
            )
            x, _ = stream_input(tokens[stream], masks[stream])
            encoder = Encoder(
                self.num_layers,
                self.dim,
                self.hidden_dim,
                self.num_heads,
                self.dropout,
                self.axis_name,
                self.dtype,
                name=f"encoder_{stream}",
            )
            encoded[stream] = encoder(x, masks[stream], train=train)
        output = jnp.concatenate(self._cross(encoded, masks), axis=-1)
        if self.output == "fc":
            output = Linear(self.output_dim or self.dim, self.dtype, name="output")(output)
        present = presence(self.streams, masks)[JOINT]
        return jnp.where(present[..., None], output, 0), present

    def _cross(self, encoded: Mapping[str, jax.Array], masks: Mapping[str, jax.Array]) -> list[jax.Array]:
        """[B, S, dim] for each pair, in order; one module a query stream, its query projected once."""
        if len(self.streams) == 1:
            return [encoded[self.streams[0]]]
        crossed = []
        for query in self.streams:
            attention = MultiHeadAttention(self.dim, self.num_heads, self.dtype, name=f"attention_{query}")
            projected = attention.project_query(encoded[query])
            for pair in pair_order(self.streams):
                if pair[0] != query:
                    continue
                key_mask = masks[pair[1]]
                token = attention.attend(projected, encoded[pair[1]], key_mask)
                token = jnp.where(key_mask.any(-1)[:, None, None], token, encoded[query])
                crossed.append(jnp.where(masks[query][..., None], token, 0))
        return crossed


class VanillaMatched(nn.Module):
    """`Vanilla` with as many live parameters as the `JMT` of the same options, and features as wide.

    Takes the JMT's options and means them: builds the vanilla network with the same `dim`, heads and layers
    and a Linear to the width that this JMT puts out, so that the same head follows; then makes the encoders'
    feed-forward parts as wide as it takes for the number of parameters to be equal. Parameters grow linearly
    with that width, so it is solved for, not searched, and hits within half a unit of it: M num_layers
    (2 dim + 1) / 2 parameters, under one percent in every usable size. Configurations have no options of it:
    those of `config.model.jmt` are given to it when it is built.

    Attributes:
      streams, dim, num_heads, num_layers, l2_norm, dropout, axis_name, dtype: As in `JMT`.
      hidden_dim, output, output_dim, absent: Of the JMT that is matched.
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
        """As `JMT`: [B, S, D] with zeros where all streams are absent, and bool [B, S], False there."""
        widths = {stream: tokens[stream].shape[-1] for stream in self.streams}
        network = self._vanilla(self.matching_hidden_dim(widths), name="network")
        return network(tokens, masks, train=train)

    def matching_hidden_dim(self, widths: Mapping[str, int]) -> int:
        """The feed-forward width at which the parameters are those of the JMT.

        Args:
          widths: Stream -> width of its tokens.
        """
        shapes = tuple(widths.items())
        target, least = _count(self._jmt(), shapes), _count(self._vanilla(1, parent=None), shapes)
        per_unit = len(self.streams) * self.num_layers * (2 * self.dim + 1)
        return max(1, 1 + round((target - least) / per_unit))

    def _jmt(self) -> JMT:
        shared = (self.streams, self.dim, self.hidden_dim, self.num_heads, self.num_layers)
        return JMT(*shared, self.output, self.output_dim, absent=self.absent, parent=None)

    def _vanilla(self, hidden_dim: int, **given: object) -> Vanilla:
        tokens = len(token_order(self.streams))
        width = {"fc": self.output_dim or 2 * self.dim, "sequence": tokens * self.dim}
        return Vanilla(
            self.streams,
            self.dim,
            hidden_dim,
            self.num_heads,
            self.num_layers,
            "fc",
            width.get(self.output, self.dim),
            self.l2_norm,
            self.dropout,
            self.axis_name,
            self.dtype,
            **given,
        )


@functools.lru_cache(maxsize=64)  # every trace of the model asks again
def _count(module: nn.Module, widths: tuple[tuple[str, int], ...]) -> int:
    """Live parameters of a fusion over (stream, width of its tokens); nothing is computed."""
    tokens = {stream: jax.ShapeDtypeStruct((1, 1, width), jnp.float32) for stream, width in widths}
    masks = {stream: jax.ShapeDtypeStruct((1, 1), jnp.bool_) for stream, _ in widths}
    return count_parameters(jax.eval_shape(module.init, jax.random.key(0), tokens, masks))
