"""A temporal convolutional network: causal, dilated, weight-normalised (Bai et al. 2018; facts A6)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmt_jax.models import initializers
from jmt_jax.models.layers import Dropout, Linear

LEAK = 0.01
"""Slope of the LeakyReLU below zero."""
_LEAST_SQUARED_LENGTH = 1e-20  # its gradient needs the power -3/2 of it, which has to be finite


class CausalConv(nn.Module):
    """A 1-D convolution over [N, T, C] whose output at a step sees that step and those before it.

    Its kernel is `scale` times the unit vector along `direction`, for each output (torch's weight_norm).
    Where a clip is shorter than the kernel reaches, the taps that see nothing but zeros are not computed.

    Attributes:
      features: Output channels.
      kernel_size: Taps.
      dilation: Steps from one tap to the next.
      dtype: Type of the computation; direction [k, in, out], scale [out] and bias [out] are float32.
    """

    features: int
    kernel_size: int
    dilation: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[N, T, in] -> [N, T, features]."""
        steps, channels = inputs.shape[1:]
        shape = (self.kernel_size, channels, self.features)
        direction = self.param("direction", initializers.linear_kernel, shape, jnp.float32)
        squared = jnp.maximum(jnp.sum(jnp.square(direction), (0, 1)), _LEAST_SQUARED_LENGTH)
        scale = self.param("scale", lambda key: jnp.sqrt(squared))
        fan_in = self.kernel_size * channels
        bias = self.param("bias", initializers.linear_bias(fan_in), (self.features,), jnp.float32)
        kernel = (direction * (scale * lax.rsqrt(squared))).astype(self.dtype)

        taps = min(self.kernel_size, (steps - 1) // self.dilation + 1)
        inputs = inputs.astype(self.dtype)
        padded = jnp.pad(inputs, ((0, 0), ((taps - 1) * self.dilation, 0), (0, 0)))
        starts = range(0, taps * self.dilation, self.dilation)
        seen = jnp.concatenate([padded[:, start : start + steps] for start in starts], axis=-1)
        return seen @ kernel[self.kernel_size - taps :].reshape(-1, self.features) + bias.astype(self.dtype)


class TemporalBlock(nn.Module):
    """Twice (causal convolution, LeakyReLU, channel dropout), then LeakyReLU of the sum with the input.

    The input goes through a Linear (a 1x1 convolution) where its width is another.

    Attributes:
      features: Output channels.
      kernel_size, dilation, dtype: As in `CausalConv`.
      dropout: Probability with which training drops a channel of a clip, at all of its steps.
      axis_name: As in `Dropout`.
    """

    features: int
    kernel_size: int = 5
    dilation: int = 1
    dropout: float = 0.1
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """[N, T, in] -> [N, T, features]."""
        x = inputs
        for name in ("conv1", "conv2"):
            x = CausalConv(self.features, self.kernel_size, self.dilation, self.dtype, name=name)(x)
            drop = Dropout(self.dropout, self.axis_name, shared_axes=(1,))
            x = drop(nn.leaky_relu(x, LEAK), train=train)
        if inputs.shape[-1] != self.features:
            inputs = Linear(self.features, self.dtype, name="shortcut")(inputs)
        return nn.leaky_relu(x + inputs, LEAK)


class TCN(nn.Module):
    """Temporal blocks whose dilation doubles from one to the next: 1, 2, 4, 8 in the paper.

    Attributes:
      widths: Output channels of each block.
      kernel_size, dropout, axis_name, dtype: As in `TemporalBlock`.
    """

    widths: tuple[int, ...] = (512, 512, 512, 512)
    kernel_size: int = 5
    dropout: float = 0.1
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """[N, T, in] -> [N, T, widths[-1]]."""
        x = inputs
        for level, width in enumerate(self.widths):
            block = TemporalBlock(
                width,
                self.kernel_size,
                2**level,
                self.dropout,
                self.axis_name,
                self.dtype,
                name=f"level{level}",
            )
            x = block(x, train=train)
        return x
