"""R3D: a residual network of 3x3x3 convolutions (Tran et al. 2018; facts A6, the BioVid backbone).

Deviation: none from torchvision's r3d_18 with the default arguments; narrower and shorter forms are
arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.backbones.video import VideoResNet
from jmt_jax.models.layers import BatchNorm, Conv3D


class _Conv3x3x3(nn.Module):
    """One 3x3x3 convolution behind the residual block's calling convention."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        del mask, train
        return Conv3D(self.features, (3, 3, 3), (self.stride,) * 3, self.dtype, name="full")(inputs)


class R3D(VideoResNet):
    """R3D; by default the 18-layer one, its positions averaged as torchvision does."""

    reduction: Literal["max", "avg", "flatten", "none"] = "avg"

    def stem(self, clips: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """(3,7,7) with a stride in height and width, batch norm, ReLU."""
        strides = (1, self.stem_stride, self.stem_stride)
        x = Conv3D(self.widths[0], (3, 7, 7), strides, self.dtype, name="stem")(clips)
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="stem_norm")
        return nn.relu(norm(x, mask, train=train))

    def convolution(self) -> Callable[..., nn.Module]:
        """A plain 3x3x3 convolution."""

        def build(features: int, stride: int, block_inputs: int, name: str) -> nn.Module:
            del block_inputs
            return _Conv3x3x3(features, stride, self.dtype, name=name)

        return build
