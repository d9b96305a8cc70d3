"""Multi-head attention and the post-norm encoder of the reference (facts A2), with real masks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models import initializers
from jmt_jax.models.layers import Dropout, LayerNorm, Linear


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V with projections and biases, as torch's `MultiheadAttention` (batch first).

    One module may serve several uses of one query: `project_query` once, then `attend` for each.

    Attributes:
      dim: Width of queries, keys, values and output.
      num_heads: Divides `dim`.
      dtype: Type of the computation; parameters and the softmax are float32.
    """

    dim: int
    num_heads: int = 1
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Builds the four projections."""
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")

        def dense(kernel: initializers.Initializer) -> nn.Dense:
            return nn.Dense(self.dim, dtype=self.dtype, kernel_init=kernel)

        projection = initializers.attention_projection_kernel(self.dim)
        self.query, self.key, self.value = dense(projection), dense(projection), dense(projection)
        self.out = dense(initializers.linear_kernel)

    def __call__(self, query: jax.Array, keys: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
        """Lets every query look at all keys of its own item.

        Args:
          query: [..., Q, dim].
          keys: [..., K, dim], keys and values alike.
          key_mask: bool [..., K], True = may be looked at; None = all may.

        Returns:
          [..., Q, dim]; zeros where every key is masked. What stands under the mask changes no bit of it.
        """
        return self.attend(self.project_query(query), keys, key_mask)

    def project_query(self, query: jax.Array) -> jax.Array:
        """[..., Q, dim] -> [..., Q, num_heads, dim / num_heads], scaled."""
        return self._heads(self.query(query)) * (1 / math.sqrt(self.dim // self.num_heads))

    def attend(self, projected: jax.Array, keys: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
        """`__call__` from a query that `project_query` has made."""
        if key_mask is not None:
            keys = jnp.where(key_mask[..., None], keys, 0)  # 0 * NaN would still be NaN
        key, value = self._heads(self.key(keys)), self._heads(self.value(keys))
        logits = jnp.einsum("...qhd,...khd->...hqk", projected, key).astype(jnp.float32)
        if key_mask is not None:
            logits = jnp.where(key_mask[..., None, None, :], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        context = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        output = self.out(context.reshape(*context.shape[:-2], self.dim))
        if key_mask is None:
            return output
        return jnp.where(key_mask.any(-1)[..., None, None], output, 0)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.dim // self.num_heads)


class EncoderLayer(nn.Module):
    """x = LN1(x + MHA(x, x, x)); x = LN2(x + W2 relu(W1 x)).

    Attributes:
      dim: Width.
      hidden_dim: Width between W1 and W2.
      num_heads: Heads of the attention.
      dropout: Rate on both branches before they are added; the reference has none.
      axis_name: The pmap axis, or None.
      dtype: Type of the computation.
    """

    dim: int
    hidden_dim: int = 512
    num_heads: int = 1
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """[..., S, dim], bool [..., S] (True = real) -> [..., S, dim]; nobody looks at masked steps."""
        attended = MultiHeadAttention(self.dim, self.num_heads, self.dtype, name="attention")(x, x, mask)
        attended = Dropout(self.dropout, self.axis_name)(attended, train=train)
        x = LayerNorm(self.dtype, name="norm1")(x + attended)
        hidden = nn.relu(Linear(self.hidden_dim, self.dtype, name="linear1")(x))
        hidden = Linear(self.dim, self.dtype, name="linear2")(hidden)
        hidden = Dropout(self.dropout, self.axis_name)(hidden, train=train)
        return LayerNorm(self.dtype, name="norm2")(x + hidden)


class Encoder(nn.Module):
    """Encoder layers one after the other, without positions: a permutation of the steps permutes the output.

    Attributes:
      num_layers: How many.
      dim, hidden_dim, num_heads, dropout, axis_name, dtype: As in `EncoderLayer`.
    """

    num_layers: int
    dim: int
    hidden_dim: int = 512
    num_heads: int = 1
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """[..., S, dim], bool [..., S] -> [..., S, dim]."""
        for layer in range(self.num_layers):
            x = EncoderLayer(
                self.dim,
                self.hidden_dim,
                self.num_heads,
                self.dropout,
                self.axis_name,
                self.dtype,
                name=f"layer{layer}",
            )(x, mask, train=train)
        return x
