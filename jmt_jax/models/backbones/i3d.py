"""I3D: Inception-v1 inflated to time (Carreira and Zisserman 2017) with a TCN over its steps (facts A6)."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmt_jax.models.backbones.convolution import Triple
from jmt_jax.models.backbones.pooling import max_pool
from jmt_jax.models.backbones.tcn import TCN
from jmt_jax.models.backbones.video import KINETICS_MEAN, KINETICS_STD, largest, normalise_frames
from jmt_jax.models.layers import BatchNorm, Conv3D, Linear

BATCH_NORM_EPSILON = 1e-3
STEM_WIDTHS = (64, 64, 192)
INCEPTIONS = {
    # stage: module -> channels of its four branches, see `Inception`
    3: {"b": (64, 96, 128, 16, 32, 32), "c": (128, 128, 192, 32, 96, 64)},
    4: {
        "b": (192, 96, 208, 16, 48, 64),
        "c": (160, 112, 224, 24, 64, 64),
        "d": (128, 128, 256, 24, 64, 64),
        "e": (112, 144, 288, 32, 64, 64),
        "f": (256, 160, 320, 32, 128, 128),
    },
    5: {"b": (256, 160, 320, 32, 128, 128), "c": (384, 192, 384, 48, 128, 128)},
}
STAGE_POOLS: dict[int, Triple] = {4: (3, 3, 3), 5: (2, 2, 2)}
"""Window of the max pooling before a stage; all have stride (1, 2, 2)."""
HALVING: Triple = (1, 2, 2)


class Unit(nn.Module):
    """Convolution (padding SAME, no bias), batch norm, ReLU.

    Attributes:
      features, kernel_size, strides: As in `Conv3D`.
      axis_name, dtype: As in `BatchNorm`.
    """

    features: int
    kernel_size: Triple = (1, 1, 1)
    strides: Triple = (1, 1, 1)
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """[N, T, H, W, C] -> [N, T', H', W', features]."""
        x = Conv3D(self.features, self.kernel_size, self.strides, self.dtype, "same", name="conv")(inputs)
        norm = BatchNorm(epsilon=BATCH_NORM_EPSILON, axis_name=self.axis_name, dtype=self.dtype, name="norm")
        return nn.relu(norm(x, mask, train=train))


class Inception(nn.Module):
    """Four branches side by side in the channels: 1; 1 then 3; 1 then 3; max pooling of 3 then 1 (cubed).

    Attributes:
      widths: Channels of branch 0, of branch 1 (inside, out), branch 2 (inside, out) and branch 3.
      axis_name, dtype: As in `BatchNorm`.
    """

    widths: tuple[int, int, int, int, int, int]
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """[N, T, H, W, C] -> [N, T, H, W, sum of the branches]."""
        unit = functools.partial(Unit, axis_name=self.axis_name, dtype=self.dtype)
        cube = (3, 3, 3)
        direct, inside1, out1, inside2, out2, pooled = self.widths
        branches = [unit(direct, name="branch0")(inputs, mask, train=train)]
        for branch, (inside, out) in enumerate(((inside1, out1), (inside2, out2)), start=1):
            x = unit(inside, name=f"branch{branch}_reduce")(inputs, mask, train=train)
            branches.append(unit(out, cube, name=f"branch{branch}")(x, mask, train=train))
        x = max_pool(inputs, cube, (1, 1, 1))
        branches.append(unit(pooled, name="branch3")(x, mask, train=train))
        return jnp.concatenate(branches, axis=-1)


class I3D(nn.Module):
    """Clips [B, S, F, H, W, 3] to one vector each, [B, S, D].

    All pooling keeps the frames; after the last Inception module the average of every two steps and of the
    whole frame (the paper's window (2, 7, 7) at 224 pixels) leaves F - 1 steps, or one where F is 1. The TCN
    goes over them.

    Deviation: frames are enlarged bilinearly with half-pixel centres; how the reference enlarges stands
    nowhere in the facts.

    Attributes:
      width: All channels up to the TCN are multiplied by this and rounded.
      blocks: Inception modules of stages 3, 4 and 5, the last ones of the 2, 5 and 2; fewer entries leave
        later stages out.
      input_size: Frames get this height and width on the device; 0 keeps theirs.
      tcn_widths: Channels of the TCN, a level each; () for none.
      tcn_dropout: Probability with which training drops a channel in the TCN.
      reduction: How the steps become one vector: their largest value, or their mean; `none` keeps them,
        [B, S, F - 1, D].
      features: Width D of the output where it is to differ from the last channels; through a Linear.
      mean, std: Of the three channels, in [0, 1], for uint8 frames. The Kinetics release saw frames in
        [-1, 1]: 0.5 and 0.5.
      axis_name: The pmap axis of batch statistics and dropout, or None.
      dtype: Type of the computation.
    """

    width: float = 1.0
    blocks: tuple[int, ...] = (2, 5, 2)
    input_size: int = 224
    tcn_widths: tuple[int, ...] = (512, 512, 512, 512)
    tcn_dropout: float = 0.1
    reduction: Literal["max", "avg", "none"] = "max"
    features: int | None = None
    mean: tuple[float, float, float] = KINETICS_MEAN
    std: tuple[float, float, float] = KINETICS_STD
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, mask: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Looks at every clip on its own.

        Args:
          frames: uint8 [B, S, F, H, W, 3], or floating and normalised already.
          mask: bool [B, S], True = real; decides only whose values enter the batch statistics.
          train: Whether batch statistics are used and updated, and dropout (rng `dropout`) is on.

        Returns:
          [B, S, D] in `dtype`.

        Raises:
          ValueError: where arguments are none of those above.
        """
        self._check()
        batch, tokens = frames.shape[:2]
        clips = normalise_frames(frames.reshape(-1, *frames.shape[2:]), self.mean, self.std, self.dtype)
        mask = None if mask is None else mask.reshape(-1)
        x = self._average(self._trunk(self._resize(clips), mask, train=train))
        if self.tcn_widths:
            tcn = TCN(
                self.tcn_widths,
                dropout=self.tcn_dropout,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name="tcn",
            )
            x = tcn(x, train=train)
        if self.reduction == "max":
            x = largest(x)
        elif self.reduction == "avg":
            x = x.mean(1, dtype=jnp.float32).astype(self.dtype)
        if self.features not in (None, x.shape[-1]):
            x = Linear(self.features, self.dtype, name="projection")(x)
        return x.reshape(batch, tokens, *x.shape[1:])

    def _resize(self, clips: jax.Array) -> jax.Array:
        """[N, T, H, W, 3] -> [N, T, input_size, input_size, 3]."""
        size = self.input_size
        if not size or clips.shape[2:4] == (size, size):
            return clips
        return jax.image.resize(clips, (*clips.shape[:2], size, size, clips.shape[-1]), "bilinear")

    def _trunk(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        """Stem and stages: [N, T, H, W, 3] -> [N, T, H / 32, W / 32, C]."""
        unit = functools.partial(Unit, axis_name=self.axis_name, dtype=self.dtype)
        first, second, third = (self._scaled(channels) for channels in STEM_WIDTHS)
        x = unit(first, (7, 7, 7), HALVING, name="stem1")(x, mask, train=train)
        x = max_pool(x, (1, 3, 3), HALVING)
        x = unit(second, name="stem2_reduce")(x, mask, train=train)
        x = unit(third, (3, 3, 3), name="stem2")(x, mask, train=train)
        x = max_pool(x, (1, 3, 3), HALVING)
        for (stage, modules), count in zip(INCEPTIONS.items(), self.blocks, strict=False):
            if stage in STAGE_POOLS:
                x = max_pool(x, STAGE_POOLS[stage], HALVING)
            for letter, channels in list(modules.items())[-count:]:
                widths = tuple(self._scaled(number) for number in channels)
                module = Inception(widths, self.axis_name, self.dtype, name=f"stage{stage}{letter}")
                x = module(x, mask, train=train)
        return x

    def _scaled(self, channels: int) -> int:
        return max(round(self.width * channels), 1)

    def _average(self, x: jax.Array) -> jax.Array:
        """The mean of the frame and of every two steps: [N, T, H, W, C] -> [N, max(T - 1, 1), C]."""
        x = x.mean((2, 3), dtype=jnp.float32)
        return (x if x.shape[1] == 1 else (x[:, 1:] + x[:, :-1]) / 2).astype(self.dtype)

    def _check(self) -> None:
        most = [len(modules) for modules in INCEPTIONS.values()]
        allowed = 0 < len(self.blocks) <= len(most) and all(
            0 < count <= limit for count, limit in zip(self.blocks, most, strict=False)
        )
        if not allowed:
            raise ValueError(
                f"blocks is {self.blocks}; give one to three numbers, at least 1 each and at most {most}"
            )
        if self.width <= 0:
            raise ValueError(f"width is {self.width}; give a factor above 0, 1 for the paper's channels")
        if self.reduction not in ("max", "avg", "none"):
            raise ValueError(f"reduction is {self.reduction!r}; it can be max, avg or none")
