"""ResNet18 for sound, on log-mel spectrograms (He et al. 2016; facts A6), with or without a GRU after it.

Deviation: none from torchvision's resnet18 with a stem of one channel and no classifier with the default
arguments; narrower and shorter forms are arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmt_jax.models.backbones.video import ResidualBlock
from jmt_jax.models.gru import GRU
from jmt_jax.models.layers import BatchNorm, Conv3D, Linear


class _Conv3x3(nn.Module):
    """One 3x3 convolution behind the residual block's calling convention."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        del mask, train
        strides = (1, self.stride, self.stride)
        return Conv3D(self.features, (1, 3, 3), strides, self.dtype, name="frame")(inputs)


class ResNet18(nn.Module):
    """Spectrograms [B, S, mels, frames] to one vector each, [B, S, D], the mean over all positions.

    Attributes:
      widths: Output channels of each stage; from the second stage on its first block halves mels and frames.
      blocks: Residual blocks of each stage.
      stem_stride: Step of the 7x7 stem; 2 in the paper, 4 makes a compact network four times cheaper.
      features: Width of the vectors. None: that of the last stage, without a projection; else a Linear
        follows where it differs.
      gru_layers: Layers of a GRU over the S vectors of a sample; 0 for none. The published code has none, the
        paper one of unsaid size.
      gru_features: Width D of its output; None: that of the vectors.
      gru_bidirectional: Whether it reads both ways.
      axis_name: The pmap axis of batch statistics, or None.
      dtype: Type of the computation.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    stem_stride: int = 2
    features: int | None = None
    gru_layers: int = 0
    gru_features: int | None = None
    gru_bidirectional: bool = True
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, spectrograms: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Looks at every spectrogram on its own; only the GRU looks at all of a sample's.

        Args:
          spectrograms: floating [B, S, mels, frames], one channel, as `media.spectrogram.log_mel`
            makes them.
          mask: bool [B, S], True = real: whose values enter the batch statistics, and which steps the GRU
            reads.
          train: Whether batch statistics are used and updated.

        Returns:
          [B, S, D] in `dtype`; with a GRU zeros under the mask.

        Raises:
          ValueError: the input has another shape, or arguments disagree.
        """
        self._check(spectrograms)
        batch, tokens = spectrograms.shape[:2]
        # The frames of a "video" one step long, so that both kinds of ResNet share their fast forms.
        x = spectrograms.reshape(batch * tokens, 1, *spectrograms.shape[2:], 1).astype(self.dtype)
        flat_mask = None if mask is None else mask.reshape(-1)
        strides = (1, self.stem_stride, self.stem_stride)
        x = Conv3D(self.widths[0], (1, 7, 7), strides, self.dtype, name="stem")(x)
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="stem_norm")
        x = nn.relu(norm(x, flat_mask, train=train))
        x = _largest_of_three(_largest_of_three(x, 2), 3)
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                x = ResidualBlock(
                    width,
                    stride,
                    self._convolution(),
                    self.axis_name,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x, flat_mask, train=train)
        x = x.mean((1, 2, 3), dtype=jnp.float32).astype(self.dtype)
        if self.features not in (None, x.shape[-1]):
            x = Linear(self.features, self.dtype, name="projection")(x)
        x = x.reshape(batch, tokens, x.shape[-1])
        if not self.gru_layers:
            return x
        width = self.gru_features or x.shape[-1]
        return GRU(width, self.gru_layers, self.gru_bidirectional, self.dtype, name="gru")(x, mask)

    def _convolution(self) -> Callable[..., nn.Module]:
        """What `ResidualBlock.convolution` is in this network."""

        def build(features: int, stride: int, block_inputs: int, name: str) -> nn.Module:
            del block_inputs
            return _Conv3x3(features, stride, self.dtype, name=name)

        return build

    def _check(self, spectrograms: jax.Array) -> None:
        if spectrograms.ndim != 4 or not jnp.issubdtype(spectrograms.dtype, jnp.floating):
            raise ValueError(
                f"spectrograms are {spectrograms.dtype} {spectrograms.shape}; expected floats [batch, "
                "tokens, mels, frames]"
            )
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths names {len(self.widths)} stages and blocks {len(self.blocks)}; make them equally "
                "long"
            )
        if not self.gru_layers and self.gru_features is not None:
            raise ValueError("gru_features is the width of a GRU; give it gru_layers, or leave it out")


def _largest_of_three(x: jax.Array, axis: int) -> jax.Array:
    """The largest of 3 neighbours at every second place of an axis that is padded with nothing at both ends.

    Not `x.max` and not `reduce_window`: the gradient of the first looks for equality with a value that XLA
    may have rounded otherwise, and the second is slow on a CPU.
    """
    padding = [(0, 0)] * x.ndim
    padding[axis] = (1, 1)
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    last = 2 * ((x.shape[axis] - 1) // 2) + 1
    first, middle, third = (
        lax.slice_in_dim(padded, tap, tap + last, stride=2, axis=axis) for tap in range(3)
    )
    return jnp.maximum(jnp.maximum(first, middle), third)
