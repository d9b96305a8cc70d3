"""Layers whose numbers agree with torch's: Linear, layer norm, batch norm and convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmt_jax.models import initializers
from jmt_jax.models.backbones import convolution

LAYER_NORM_EPSILON = 1e-5


class Linear(nn.Module):
    """y = x W + b over the last axis, initialised as torch does.

    Attributes:
      features: Width of the output.
      dtype: Type of the computation; parameters are float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[..., in] -> [..., features] in `dtype`."""
        width = inputs.shape[-1]
        kernel = self.param("kernel", initializers.linear_kernel, (width, self.features), jnp.float32)
        bias = self.param("bias", initializers.linear_bias(width), (self.features,), jnp.float32)
        return inputs.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation with eps 1e-5, statistics in float32.

    Attributes:
      dtype: Type of the output; parameters are float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        features = inputs.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        values = inputs.astype(jnp.float32)
        centred = values - values.mean(-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
        return (centred * lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale + bias).astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with the statistics of the real samples only.

    Sums and counts, not means, are reduced over `axis_name`: devices may hold unequal numbers of real
    samples, and the result is that of one device holding them all. The running variance is the unbiased one,
    as in torch.

    Attributes:
      momentum: Share of the old running statistics that is kept (torch writes 0.1 for our 0.9).
      epsilon: Added to the variance.
      axis_name: The pmap axis, or None (under jit the batch is global already).
      dtype: Type of the output; parameters and statistics are float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Normalises.

        Args:
          inputs: [N, ..., C].
          mask: bool [N], True = real; None = all are. Rows that are not real are normalised too, but do not
          count.
          train: True uses (and updates) the batch's statistics, False the running ones.

        Returns:
          [N, ..., C] in `dtype`; finite even where no row is real.
        """
        scale, bias, running_mean, running_variance = self._variables(inputs.shape[-1])
        mean, variance = running_mean.value, running_variance.value
        if train:
            mean, variance, count = self._batch_statistics(inputs, mask, running_mean.value)
            if not self.is_initializing():
                self._update(running_mean, running_variance, mean, variance, count)
        multiplier = scale * lax.rsqrt(variance + self.epsilon)
        offset = bias - mean * multiplier
        return (inputs.astype(jnp.float32) * multiplier + offset).astype(self.dtype)

    def affine(self, features: int) -> tuple[jax.Array, jax.Array]:
        """Evaluation is x * multiplier + offset; here are both, float32 [features] each."""
        scale, bias, mean, variance = self._variables(features)
        multiplier = scale * lax.rsqrt(variance.value + self.epsilon)
        return multiplier, bias - mean.value * multiplier

    @nn.compact
    def _variables(self, features: int) -> tuple[jax.Array, jax.Array, nn.Variable, nn.Variable]:
        """Scale, bias, running mean, running variance, [features] each."""
        return (
            self.param("scale", nn.initializers.ones, (features,), jnp.float32),
            self.param("bias", nn.initializers.zeros, (features,), jnp.float32),
            self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32),
        )

    def _batch_statistics(
        self, inputs: jax.Array, mask: jax.Array | None, pivot: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean [C], biased variance [C] and count [] of the real values.

        One pass over the data; taking the squares about the running mean keeps the difference of sums
        accurate.
        """
        axes = tuple(range(inputs.ndim - 1))
        centred = inputs.astype(jnp.float32) - pivot
        positions = inputs.size // (inputs.shape[0] * inputs.shape[-1])
        count = jnp.float32(inputs.shape[0] * positions)
        if mask is not None:
            centred = jnp.where(mask.reshape((-1,) + (1,) * (inputs.ndim - 1)), centred, 0.0)
            count = mask.sum(dtype=jnp.float32) * positions
        sums = (centred.sum(axes), jnp.square(centred).sum(axes), count)
        if self.axis_name is not None and not self.is_initializing():
            sums = lax.psum(sums, self.axis_name)
        total, squares, count = sums
        divisor = jnp.maximum(count, 1.0)
        shift = total / divisor
        variance = jnp.maximum(squares / divisor - jnp.square(shift), 0.0)
        return pivot + shift, variance, count

    def _update(
        self,
        running_mean: nn.Variable,
        running_variance: nn.Variable,
        mean: jax.Array,
        variance: jax.Array,
        count: jax.Array,
    ) -> None:
        """Moves the running statistics, unless the batch held nothing real."""
        kept = jnp.where(count > 0, self.momentum, 1.0)
        unbiased = variance * count / jnp.maximum(count - 1.0, 1.0)
        running_mean.value = kept * running_mean.value + (1 - kept) * mean
        running_variance.value = kept * running_variance.value + (1 - kept) * unbiased


def draw_rows(
    draw: Callable[[tuple[int, ...]], jax.Array], shape: tuple[int, ...], axis_name: str | None
) -> jax.Array:
    """This device's rows of what is drawn for the whole batch: the same draws under pmap and under jit.

    Args:
      draw: Shape to random values.
      shape: Of this device's part; rows are the first axis.
      axis_name: The pmap axis, or None (under jit the batch is global already).
    """
    if axis_name is None:
        return draw(shape)
    everything = draw((lax.axis_size(axis_name) * shape[0], *shape[1:]))
    return lax.dynamic_slice_in_dim(everything, lax.axis_index(axis_name) * shape[0], shape[0])


class Dropout(nn.Module):
    """Dropout whose draws (rng `dropout`) do not depend on how the batch is spread over devices.

    Attributes:
      rate: Probability of a zero, in [0, 1).
      axis_name: The pmap axis, or None.
      shared_axes: Along these, never the first, one draw counts for all values: with the axis of time, whole
        channels of a sample are dropped, as torch's Dropout2d does.
    """

    rate: float
    axis_name: str | None = None
    shared_axes: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, ...] -> [B, ...]; unchanged in evaluation."""
        if not train or self.rate == 0.0:
            return inputs
        key = self.make_rng("dropout")
        shape = tuple(1 if axis in self.shared_axes else size for axis, size in enumerate(inputs.shape))
        kept = draw_rows(lambda rows: jax.random.bernoulli(key, 1 - self.rate, rows), shape, self.axis_name)
        return jnp.where(kept, inputs / (1 - self.rate), 0).astype(inputs.dtype)


class Conv3D(nn.Module):
    """A 3-D convolution without bias over [N, T, H, W, C].

    Attributes:
      features: Output channels.
      kernel_size: (time, height, width), odd.
      strides: (time, height, width).
      dtype: Type of the computation; the kernel [kt, kh, kw, in, out] is float32.
      padding: Zeros around the input. `half`: half of the kernel on each side, as torch's `padding=k//2`;
        `same`: as TensorFlow, see `convolution.same_padding`. They differ where a stride is not 1.
    """

    features: int
    kernel_size: tuple[int, int, int]
    strides: tuple[int, int, int] = (1, 1, 1)
    dtype: jnp.dtype = jnp.float32
    padding: Literal["half", "same"] = "half"

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[N, T, H, W, in] -> [N, T', H', W', features]."""
        kernel = self.weights(inputs.shape[-1])
        if self.padding == "same":
            axes = zip(inputs.shape[1:4], self.kernel_size, self.strides, strict=True)
            padding = tuple(convolution.same_padding(*axis) for axis in axes)
        else:
            padding = tuple((size // 2, size // 2) for size in self.kernel_size)
        return convolution.conv3d(inputs.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding)

    @nn.compact
    def weights(self, channels: int) -> jax.Array:
        """The kernel for inputs of so many channels, float32 [kt, kh, kw, channels, features]."""
        shape = (*self.kernel_size, channels, self.features)
        return self.param("kernel", initializers.video_kernel, shape, jnp.float32)


class Conv1D(nn.Module):
    """A 1-D convolution with bias and without padding over [N, T, C], initialised as torch does.

    Attributes:
      features: Output channels.
      kernel_size: Taps.
      stride: Step in samples.
      dtype: Type of the computation; the kernel [k, in, out] is float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[N, T, in] -> [N, (T - kernel_size) // stride + 1, features]."""
        channels = inputs.shape[-1]
        shape = (self.kernel_size, channels, self.features)
        kernel = self.param("kernel", initializers.linear_kernel, shape, jnp.float32)
        bias = self.param(
            "bias", initializers.linear_bias(self.kernel_size * channels), (self.features,), jnp.float32
        )
        outputs = convolution.conv1d(inputs.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        return outputs + bias.astype(self.dtype)
