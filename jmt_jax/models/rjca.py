"""Recursive joint cross-attention after Praveen et al., ICASSP 2023 (arXiv 2304.07958)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models import initializers
from jmt_jax.models.fusion import JOINT, presence
from jmt_jax.models.stream_input import Absent, StreamInput


class RecursiveJointCrossAttention(nn.Module):
    """Every stream is correlated with all streams side by side, refined by it, and goes in again.

    With rows for moments, X_m [S, dim] a stream and J [S, M dim] all of them side by side, one round is

        C_m = tanh(X_m W_jm J^T / sqrt(M dim))        which moment of the joint bears on which of the stream
        H_m = relu(X_m W_m + C_m (J W_cm) / n)        n: moments where any stream is present
        X_m <- H_m W_hm + X_m

    with the same weights, without biases, in each of `num_iterations` rounds. The output is the refined
    streams side by side, [B, S, M dim], with zeros for a stream where it is absent.

    Deviation: the paper's W_jm, W_m and W_cm act on the axis of moments, which ties them to one length and to
    the place in the window; here they act on features, C_m is S x S and weighs the joint's moments (hence the
    mean over them), and any S will do. No LSTM before or after.

    Attributes:
      streams: Their names, in order.
      dim: Width of each stream.
      hidden_dim: Width of H.
      num_iterations: Rounds; the weights do not depend on it.
      l2_norm, absent, dtype: As in `JMT`.
    """

    streams: tuple[str, ...]
    dim: int = 512
    hidden_dim: int = 512
    num_iterations: int = 2
    l2_norm: bool = True
    absent: Absent = "learned"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """As `JMT`: [B, S, M dim] with zeros where all streams are absent, and bool [B, S], False there."""
        del train
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations is {self.num_iterations}; expected at least 1")
        present = presence(self.streams, masks)[JOINT]
        count = jnp.maximum(present.sum(-1, dtype=jnp.float32), 1.0)[:, None, None]
        x, replaced, rounds = {}, {}, {}
        for stream in self.streams:
            stream_input = StreamInput(
                self.dim, self.l2_norm, self.absent, len(self.streams) > 1, self.dtype, name=f"input_{stream}"
            )
            x[stream], replaced[stream] = stream_input(tokens[stream], masks[stream])
            rounds[stream] = _Round(self.dim, self.hidden_dim, self.dtype, name=f"round_{stream}")
        for _ in range(self.num_iterations):
            parts = [jnp.where(masks[stream][..., None], x[stream], replaced[stream]) for stream in x]
            # Without biases a joint of zeros bears on nothing, so this is all the masking that it takes.
            joint = jnp.where(present[..., None], jnp.concatenate(parts, axis=-1), 0)
            x = {
                stream: jnp.where(masks[stream][..., None], rounds[stream](x[stream], joint, count), 0)
                for stream in x
            }
        return jnp.concatenate([x[stream] for stream in self.streams], axis=-1), present


class _Round(nn.Module):
    """One stream's part of a round."""

    dim: int
    hidden_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, joint: jax.Array, count: jax.Array) -> jax.Array:
        """[B, S, dim], [B, S, M dim], float [B, 1, 1] -> [B, S, dim]."""
        width = joint.shape[-1]
        mapped = self._matrix(width, "correlation")(x)
        correlation = jnp.einsum("bsd,btd->bst", mapped, joint).astype(jnp.float32) / math.sqrt(width)
        weights = (jnp.tanh(correlation) / count).astype(self.dtype)
        borne = jnp.einsum("bst,bth->bsh", weights, self._matrix(self.hidden_dim, "joint")(joint))
        hidden = nn.relu(self._matrix(self.hidden_dim, "own")(x) + borne)
        return self._matrix(self.dim, "output")(hidden) + x

    def _matrix(self, features: int, name: str) -> nn.Dense:
        kernel = initializers.linear_kernel
        return nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=kernel, name=name)
