"""Multi-head attention and the post-norm encoder of the reference (facts A2), with real masks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models import initializers
from jmt_jax.models.layers import Dropout, LayerNorm, Linear


class Projection(nn.Module):
    """y = x W + b with as many outputs as inputs, whose kernel and bias may also be read.

    Attributes:
      dim: Width of both.
      kernel_init: Of W; b is zero at first.
      dtype: Type of the computation; parameters are float32.
    """

    dim: int
    kernel_init: initializers.Initializer
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Makes the two parameters."""
        self.kernel = self.param("kernel", self.kernel_init, (self.dim, self.dim), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.dim,), jnp.float32)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[..., dim] -> [..., dim]."""
        return linear(inputs, self.kernel, self.bias, self.dtype)


def linear(inputs: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """inputs W + b in `dtype`."""
    return inputs.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V with projections and biases, as torch's `MultiheadAttention` (batch first).

    One module may serve several uses of one query: `project_query` once, then `attend` for each.

    With one head the keys are never projected: q (x W_k)^T = (q W_k^T) x^T, so the query takes over the keys'
    projection, once for all uses and however many keys there are, and the mean over the keys is taken before
    their projection as values. Where there are more queries than `dim`, two projections in a row become one.
    The keys' bias adds the same to all logits of a query and so changes nothing; its gradient is zero.

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
        projection = initializers.attention_projection_kernel(self.dim)
        self.query, self.key, self.value = (Projection(self.dim, projection, self.dtype) for _ in range(3))
        self.out = Projection(self.dim, initializers.linear_kernel, self.dtype)

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
        """[..., Q, dim] -> what `attend` compares with the keys: [..., Q, dim], or with several heads
        [..., Q, num_heads, dim / num_heads].
        """
        scale = 1 / math.sqrt(self.dim // self.num_heads)
        if self.num_heads > 1:
            return self._heads(self.query(query)) * scale
        return self._two_in_a_row(
            query, self.query.kernel * scale, self.query.bias * scale, self.key.kernel.T, None
        )

    def attend(self, projected: jax.Array, keys: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
        """`__call__` from a query that `project_query` has made."""
        keys = keys.astype(self.dtype)
        if key_mask is not None:
            keys = jnp.where(key_mask[..., None], keys, 0)  # 0 * NaN would still be NaN
        if self.num_heads == 1:
            weights = self._weights(jnp.einsum("...qd,...kd->...qk", projected, keys), key_mask)
            output = self._two_in_a_row(
                jnp.einsum("...qk,...kd->...qd", weights, keys),
                self.value.kernel,
                self.value.bias,
                self.out.kernel,
                self.out.bias,
            )
        else:
            key, value = self._heads(self.key(keys)), self._heads(self.value(keys))
            mask = None if key_mask is None else key_mask[..., None, :]
            weights = self._weights(jnp.einsum("...qhd,...khd->...hqk", projected, key), mask)
            context = jnp.einsum("...hqk,...khd->...qhd", weights, value)
            output = self.out(context.reshape(*context.shape[:-2], self.dim))
        if key_mask is None:
            return output
        return jnp.where(key_mask.any(-1)[..., None, None], output, 0)

    def _weights(self, logits: jax.Array, key_mask: jax.Array | None) -> jax.Array:
        """Softmax over the keys, [..., Q, K]."""
        logits = logits.astype(jnp.float32)
        if key_mask is not None:
            logits = jnp.where(key_mask[..., None, :], logits, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(logits, axis=-1).astype(self.dtype)

    def _two_in_a_row(
        self,
        inputs: jax.Array,
        kernel: jax.Array,
        bias: jax.Array,
        next_kernel: jax.Array,
        next_bias: jax.Array | None,
    ) -> jax.Array:
        """(inputs W + b) W' + b', by the product of the kernels where there are more rows than it costs."""
        next_bias = jnp.zeros_like(bias) if next_bias is None else next_bias
        if inputs.size // self.dim > self.dim:
            return linear(inputs, kernel @ next_kernel, bias @ next_kernel + next_bias, self.dtype)
        return linear(linear(inputs, kernel, bias, self.dtype), next_kernel, next_bias, self.dtype)

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
