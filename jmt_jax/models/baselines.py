"""What the JMT is compared with, without attention: one stream, concatenation, late fusion (facts A4)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.fusion import JOINT, presence
from jmt_jax.models.layers import Dropout, Linear
from jmt_jax.models.stream_input import Absent, StreamInput, l2_normalise


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


class Late(nn.Module):
    """Late fusion: every stream predicts on its own, and the predictions of the present ones are averaged.

    Every stream has an MLP of its own. What is averaged is the MLPs' last, linear layer; the head behind it
    must be linear too (`hidden=()`; `build_model` sees to it). A linear map of an average is the average of
    the linear maps, so the logits are the mean of the streams' own logits, each from its own MLP and output
    layer. Averaged are logits, not probabilities.

    Attributes:
      streams: Their names, in order.
      dim: Width of what is averaged; from the number of outputs on it narrows no stream's predictions.
      hidden: Hidden widths of each stream's MLP.
      l2_norm: As in `JMT`.
      dropout: Rate after each hidden ReLU.
      axis_name: The pmap axis over which dropout is drawn; None under jit.
      dtype: Type of the computation.
    """

    streams: tuple[str, ...]
    dim: int = 64
    hidden: tuple[int, ...] = (128,)
    l2_norm: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """As `JMT`: [B, S, dim] with zeros where all streams are absent, and bool [B, S], False there."""
        outputs = {}
        for stream in self.streams:
            x = jnp.where(masks[stream][..., None], tokens[stream].astype(self.dtype), 0)
            if self.l2_norm:
                x = l2_normalise(x)
            for layer, width in enumerate(self.hidden):
                x = nn.relu(Linear(width, self.dtype, name=f"{stream}_hidden{layer}")(x))
                x = Dropout(self.dropout, self.axis_name)(x, train=train)
            outputs[stream] = Linear(self.dim, self.dtype, name=f"{stream}_output")(x)
        return mean_of_present(outputs, masks), presence(self.streams, masks)[JOINT]


def mean_of_present(values: Mapping[str, jax.Array], masks: Mapping[str, jax.Array]) -> jax.Array:
    """Stream -> [..., D], stream -> bool [...]: the mean over the streams that are present, [..., D].

    Sums in float32; zeros where no stream is present.
    """
    dtype = next(iter(values.values())).dtype
    kept = [jnp.where(masks[stream][..., None], x.astype(jnp.float32), 0.0) for stream, x in values.items()]
    count = sum(masks[stream].astype(jnp.float32) for stream in values)
    return (sum(kept) / jnp.maximum(count, 1.0)[..., None]).astype(dtype)
