"""What the video ResNets share: normalisation on the device, stages of residual blocks, one vector a clip."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmt_jax.models.layers import BatchNorm, Conv3D, Linear

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


def normalise_frames(
    frames: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: jnp.dtype
) -> jax.Array:
    """uint8 frames [..., 3] to (frames / 255 - mean) / std; floating ones are normalised already."""
    if not jnp.issubdtype(frames.dtype, jnp.integer):
        return frames.astype(dtype)
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    offset = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return (frames.astype(jnp.float32) * scale - offset).astype(dtype)


def largest(x: jax.Array) -> jax.Array:
    """The largest value over the positions, [N, P, C] -> [N, C]; the gradient goes to the first of equals.

    Not `x.max(1)`: its gradient looks for equality with a value that XLA may have rounded otherwise, and
    gives NaN where it finds none.
    """
    chosen = jnp.arange(x.shape[1])[:, None] == lax.stop_gradient(jnp.argmax(x, axis=1))[:, None]
    return jnp.sum(jnp.where(chosen, x, 0), axis=1)


class ResidualBlock(nn.Module):
    """relu(convolution, relu, convolution + shortcut); the shortcut is 1x1x1 where the shape changes.

    Attributes:
      features: Output channels.
      stride: Step of the first convolution, in time, height and width alike.
      convolution: (features, stride, block_inputs, name) -> a module called as module(x, mask, train=...);
        `block_inputs` is the number of channels that enter the block.
      axis_name, dtype: As in `BatchNorm`.
    """

    features: int
    stride: int
    convolution: Callable[..., nn.Module]
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """[N, T, H, W, C] -> [N, T', H', W', features]."""
        norm = functools.partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        channels = inputs.shape[-1]
        x = self.convolution(self.features, self.stride, channels, name="conv1")(inputs, mask, train=train)
        x = nn.relu(norm(name="norm1")(x, mask, train=train))
        x = self.convolution(self.features, 1, channels, name="conv2")(x, mask, train=train)
        x = norm(name="norm2")(x, mask, train=train)
        shortcut = inputs
        if self.stride != 1 or channels != self.features:
            strides = (self.stride,) * 3
            shortcut = Conv3D(self.features, (1, 1, 1), strides, self.dtype, name="shortcut")(inputs)
            shortcut = norm(name="shortcut_norm")(shortcut, mask, train=train)
        return nn.relu(x + shortcut)


class VideoResNet(nn.Module):
    """Clips [B, S, F, H, W, 3] to one vector each, [B, S, D].

    Attributes:
      widths: Output channels of each stage; from the second stage on its first block halves time, height,
        width.
      blocks: Residual blocks of each stage.
      stem_stride: Step of the stem in height and width; 2 in the paper, 4 makes a compact network four times
        cheaper.
      features: Width D of the output. None: that of the last stage, without a projection. With `flatten`, or
        where it differs from the last stage's width, a Linear follows the reduction.
      reduction: How the positions (time, height, width) of the last stage become one vector: their largest
        value (the published model), their mean, or all of them side by side through the Linear; `none` keeps
        them, [B, S, T', H', W', C].
      mean, std: Of the three channels, in [0, 1], for uint8 frames.
      axis_name: The pmap axis of batch statistics, or None.
      dtype: Type of the computation.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    stem_stride: int = 2
    features: int | None = None
    reduction: Literal["max", "avg", "flatten", "none"] = "max"
    mean: tuple[float, float, float] = KINETICS_MEAN
    std: tuple[float, float, float] = KINETICS_STD
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def stem(self, clips: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """The first convolutions, [N, T, H, W, 3] -> [N, T', H', W', widths[0]]."""
        raise NotImplementedError

    def convolution(self) -> Callable[..., nn.Module]:
        """What `ResidualBlock.convolution` is in this network."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, frames: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Looks at every clip on its own.

        Args:
          frames: uint8 [B, S, F, H, W, 3], or floating and normalised already.
          mask: bool [B, S], True = real; decides only whose values enter the batch statistics.
          train: Whether batch statistics are used and updated.

        Returns:
          [B, S, D] in `dtype`.
        """
        self._check()
        batch, tokens = frames.shape[:2]
        clips = normalise_frames(frames.reshape(-1, *frames.shape[2:]), self.mean, self.std, self.dtype)
        mask = None if mask is None else mask.reshape(-1)
        x = self.stem(clips, mask, train=train)
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                x = ResidualBlock(
                    width,
                    stride,
                    self.convolution(),
                    self.axis_name,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x, mask, train=train)
        x = self._reduce(x)
        return x.reshape(batch, tokens, *x.shape[1:])

    def _reduce(self, x: jax.Array) -> jax.Array:
        if self.reduction == "none":
            return x
        if self.reduction == "max":
            x = largest(x.reshape(x.shape[0], -1, x.shape[-1]))
        elif self.reduction == "avg":
            x = x.mean((1, 2, 3), dtype=jnp.float32).astype(self.dtype)
        else:
            x = x.reshape(x.shape[0], -1)
        if self.reduction == "flatten" or self.features not in (None, x.shape[-1]):
            x = Linear(self.features, self.dtype, name="projection")(x)
        return x

    def _check(self) -> None:
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths names {len(self.widths)} stages and blocks {len(self.blocks)}; make them equally "
                "long"
            )
        if self.reduction not in ("max", "avg", "flatten", "none"):
            raise ValueError(f"reduction is {self.reduction!r}; it can be max, avg, flatten or none")
        if self.reduction == "flatten" and self.features is None:
            raise ValueError("reduction 'flatten' needs `features`, the width of the Linear after it")
        if self.reduction == "none" and self.features is not None:
            raise ValueError("reduction 'none' keeps all positions, so `features` must not be set")
