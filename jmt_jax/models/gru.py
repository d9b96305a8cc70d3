"""Gated recurrent units over the tokens, with torch's equations and real masks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmt_jax.models import initializers


class GRU(nn.Module):
    """A GRU of one or more layers, one way or both ways over S; also a backbone for ready-made features.

    With the reset, update and new gates r, z, n (stacked in this order), each with an input and a state bias:
    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise,
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h.
    As torch's `GRU`; the paper has one after its audio network [S], of a size that it does not say.

    Attributes:
      features: Width D of the output; both directions share it in equal halves.
      num_layers: How many.
      bidirectional: Whether a second direction reads from the end. Without it no token sees a later one.
      dtype: Type of the products; parameters, gates and state are float32.
    """

    features: int
    num_layers: int = 1
    bidirectional: bool = True
    dtype: jnp.dtype = jnp.float32

    def __call__(self, tokens: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """The output of `states` alone."""
        del train
        return self.states(tokens, mask)[0]

    @nn.compact
    def states(self, tokens: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Reads the tokens of every sample on its own.

        Args:
          tokens: floating [B, S, W].
          mask: bool [B, S], True = real; None = all are. A masked step leaves the state as it was.

        Returns:
          [B, S, features] in `dtype`, zeros under the mask, and the last states, float32 [layers x
          directions, B, features / directions], forward before backward.

        Raises:
          ValueError: the tokens are not [B, S, W], or `features` cannot be halved.
        """
        if tokens.ndim != 3:
            raise ValueError(f"a GRU got tokens of shape {tokens.shape}; expected [batch, tokens, width]")
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        if self.features % len(directions) or self.num_layers < 1:
            raise ValueError(
                f"a GRU of {self.num_layers} layers and {self.features} features cannot be built; give at "
                "least one layer, and an even number of features where it reads both ways"
            )
        mask = jnp.ones(tokens.shape[:2], bool) if mask is None else mask
        x, last = jnp.where(mask[..., None], tokens.astype(self.dtype), 0), []
        for layer in range(self.num_layers):
            outputs = []
            for direction in directions:
                direction_features = self.features // len(directions)
                scan = _Direction(direction_features, self.dtype, name=f"layer{layer}_{direction}")
                output, state = scan(x, mask, reverse=direction == "backward")
                outputs.append(output)
                last.append(state)
            x = jnp.concatenate(outputs, axis=-1)
        return x, jnp.stack(last)


class _Direction(nn.Module):
    """One layer, one way: [B, S, W], bool [B, S] -> [B, S, features] and the last state [B, features]."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, reverse: bool) -> tuple[jax.Array, jax.Array]:
        draw = initializers.symmetric_uniform(1 / math.sqrt(self.features))
        gates = 3 * self.features
        input_kernel = self.param("input_kernel", draw, (x.shape[-1], gates), jnp.float32)
        input_bias = self.param("input_bias", draw, (gates,), jnp.float32)
        state_kernel = self.param("state_kernel", draw, (self.features, gates), jnp.float32)
        state_bias = self.param("state_bias", draw, (gates,), jnp.float32)
        # All steps at once: what depends on the input alone is one product.
        projected = (x @ input_kernel.astype(self.dtype)).astype(jnp.float32) + input_bias
        recurrent = state_kernel.astype(self.dtype)

        def step(state: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            from_input, real = inputs
            from_state = (state.astype(self.dtype) @ recurrent).astype(jnp.float32) + state_bias
            input_reset, input_update, input_new = jnp.split(from_input, 3, axis=-1)
            state_reset, state_update, state_new = jnp.split(from_state, 3, axis=-1)
            reset = jax.nn.sigmoid(input_reset + state_reset)
            update = jax.nn.sigmoid(input_update + state_update)
            new = jnp.tanh(input_new + reset * state_new)
            state = jnp.where(real[:, None], (1 - update) * new + update * state, state)
            return state, state

        initial = jnp.zeros((x.shape[0], self.features), jnp.float32)
        last, outputs = lax.scan(step, initial, (projected.swapaxes(0, 1), mask.T), reverse=reverse)
        outputs = outputs.swapaxes(0, 1).astype(self.dtype)
        return jnp.where(mask[..., None], outputs, 0), last
