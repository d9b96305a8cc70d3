"""R(2+1)D: a residual network whose convolutions are split into space and time (Tran et al. 2018; facts A6).

Deviation: none from torchvision's r2plus1d_18 with the default arguments; narrower and shorter forms are
arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.backbones.convolution import space_time_conv
from jmt_jax.models.backbones.video import VideoResNet
from jmt_jax.models.layers import BatchNorm, Conv3D


def midplanes(inputs: int, features: int) -> int:
    """Channels between the (1,3,3) and the (3,1,1) convolution: together they cost what a 3x3x3 one does."""
    return (inputs * features * 27) // (inputs * 9 + 3 * features)


class Conv2Plus1D(nn.Module):
    """Space (1, k, k), batch norm, ReLU, time (3, 1, 1).

    Attributes:
      features: Output channels.
      stride: (time, height = width).
      middle: Channels between the two convolutions.
      kernel_size: k.
      axis_name, dtype: As in `BatchNorm`.
    """

    features: int
    stride: tuple[int, int]
    middle: int
    kernel_size: int = 3
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """[N, T, H, W, C] -> [N, T', H', W', features]."""
        time, space = self.stride
        size = self.kernel_size
        over_space = Conv3D(self.middle, (1, size, size), (1, space, space), self.dtype, name="space")
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="norm")
        over_time = Conv3D(self.features, (3, 1, 1), (time, 1, 1), self.dtype, name="time")
        if train:
            return over_time(nn.relu(norm(over_space(inputs), mask, train=True)))
        multiplier, offset = norm.affine(self.middle)
        return space_time_conv(
            inputs.astype(self.dtype),
            (over_space.weights(inputs.shape[-1]) * multiplier).astype(self.dtype),
            offset.astype(self.dtype),
            over_time.weights(self.middle).astype(self.dtype),
            over_space.strides,
            over_time.strides,
        )


class R2Plus1D(VideoResNet):
    """R(2+1)D; by default the 18-layer one.

    Attributes:
      stem_width: Channels between the stem's (1,7,7) and (3,1,1) convolutions.
    """

    stem_width: int = 45

    def stem(self, clips: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """(1,7,7) with a stride in height and width, (3,1,1); each with batch norm and ReLU."""
        x = Conv2Plus1D(
            self.widths[0], (1, self.stem_stride), self.stem_width, 7, self.axis_name, self.dtype, name="stem"
        )(clips, mask, train=train)
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="stem_norm")
        return nn.relu(norm(x, mask, train=train))

    def convolution(self) -> Callable[..., nn.Module]:
        """Midplanes are those of the block's own input and output, for both of its convolutions."""

        def build(features: int, stride: int, block_inputs: int, name: str) -> nn.Module:
            return Conv2Plus1D(
                features,
                (stride, stride),
                midplanes(block_inputs, features),
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )

        return build
