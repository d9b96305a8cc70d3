"""Convolutions over time and space: the plain form, and the forms that are only fast on a CPU.

A TPU or GPU gets `lax.conv_general_dilated` as it is. A CPU has no fast 3-D convolution (its input gradient
is up to a hundred times slower than need be), so there a kernel over time becomes a 2-D convolution, and the
gradient of a kernel with many channels a few matrix products. Parameters have one layout on every platform:
[kt, kh, kw, in, out].

Reverse-mode gradients only (`jax.custom_vjp`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jmt_jax.models.backbones import winograd

Padding = tuple[tuple[int, int], ...]
Triple = tuple[int, int, int]

# In the name of every instruction of a CPU form: a program for anything else must have none.
CPU_FORM = "cpu_form"
# From this many input channels on, a kernel's gradient is faster as matrix products than as a convolution.
MATMUL_GRADIENT_CHANNELS = 16
# Up to this many output steps, products per (step, tap) beat products per tap, whose slices must be copied.
UNROLLED_STEPS = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv3d(inputs: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """Cross-correlation over time, height and width.

    Args:
      inputs: [N, T, H, W, in], floating.
      kernel: [kt, kh, kw, in, out], same type.
      strides: Steps in (time, height, width).
      padding: ((before, after), ...) zeros in (time, height, width).

    Returns:
      [N, T', H', W', out].
    """
    return lax.platform_dependent(
        inputs,
        kernel,
        cpu=functools.partial(cpu_conv3d, strides=strides, padding=padding),
        default=functools.partial(plain_conv3d, strides=strides, padding=padding),
    )


def conv1d(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Cross-correlation over time without padding: [N, T, in], [k, in, out] -> [N, T', out]."""
    outputs = conv3d(inputs[:, :, None, None], kernel[:, None, None], (stride, 1, 1), ((0, 0),) * 3)
    return outputs[:, :, 0, 0]


def same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME along one axis: (before, after) so that ceil(length / stride) outputs come of it.

    The odd one, if any, stands after.
    """
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def plain_conv3d(inputs: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """`conv3d` as one XLA convolution: what accelerators are built for, and what the tests compare with."""
    return lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


@jax.named_scope(CPU_FORM)
def cpu_conv3d(inputs: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """`conv3d` by Winograd's method where it can be, else out of 2-D convolutions."""
    kernel, padding = _without_dead_taps(inputs.shape[1], kernel, padding)
    tile = _tile(inputs, kernel.shape, strides, padding)
    if any(tile):
        return winograd.conv(inputs, kernel, tile)
    time, height, width, channels, features = kernel.shape
    if height == width == 1:
        return _time_conv(inputs, kernel, strides, padding)
    taps = _time_taps(inputs, time, strides[0], padding[0])
    folded = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, time * channels, features)
    return _frame_conv(taps, folded, strides[1:], padding[1:])


def cpu_input_gradient(
    inputs: jax.Array, kernel: jax.Array, cotangents: jax.Array, strides: Triple, padding: Padding
) -> jax.Array:
    """Gradient with respect to the inputs."""
    kernel, padding = _without_dead_taps(inputs.shape[1], kernel, padding)
    if any(_tile(inputs, kernel.shape, strides, padding)):
        turned = kernel[::-1, ::-1, ::-1].swapaxes(3, 4)
        return winograd.conv(cotangents, turned, _tile(cotangents, turned.shape, strides, padding))
    _, pullback = jax.vjp(lambda x: cpu_conv3d(x, kernel, strides, padding), inputs)
    return pullback(cotangents)[0]


def cpu_kernel_gradient(
    inputs: jax.Array, cotangents: jax.Array, shape: tuple[int, ...], strides: Triple, padding: Padding
) -> jax.Array:
    """Gradient with respect to the kernel of `shape` [kt, kh, kw, in, out]."""
    time, height, width, channels, features = shape
    if _only_middle_is_live(inputs.shape[1], time, padding):
        live = cpu_kernel_gradient(inputs, cotangents, (1, *shape[1:]), strides, ((0, 0), *padding[1:]))
        return jnp.pad(live, ((time // 2, time // 2), *((0, 0),) * 4))
    tile = _tile(inputs, shape, strides, padding)
    if any(tile):
        return winograd.kernel_gradient(inputs, cotangents, tile)
    if height == width == 1:
        return _time_kernel_gradient(inputs, cotangents, shape, strides, padding)
    taps = _time_taps(inputs, time, strides[0], padding[0])
    folded_shape = (height, width, time * channels, features)
    if channels >= MATMUL_GRADIENT_CHANNELS:
        folded = _frame_kernel_gradient(taps, cotangents, folded_shape, strides[1:], padding[1:])
    else:
        _, pullback = jax.vjp(
            lambda kernel: _frame_conv(taps, kernel, strides[1:], padding[1:]),
            jnp.zeros(folded_shape, inputs.dtype),
        )
        (folded,) = pullback(cotangents)
    return folded.reshape(height, width, time, channels, features).transpose(2, 0, 1, 3, 4)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def space_time_conv(
    inputs: jax.Array,
    space_kernel: jax.Array,
    offset: jax.Array,
    time_kernel: jax.Array,
    space_strides: Triple,
    time_strides: Triple,
) -> jax.Array:
    """A convolution of frames, an offset, ReLU, a convolution over time; each padded by half its kernel.

    The same numbers as from the four, but on a CPU what stands between them never leaves the cache. For
    inference: a gradient computes the four again.

    Args:
      inputs: [N, T, H, W, in].
      space_kernel: [1, k, k, in, between], with a batch norm's multiplier folded into it.
      offset: [between].
      time_kernel: [k, 1, 1, between, out].
      space_strides: (1, height, width).
      time_strides: (time, 1, 1).

    Returns:
      [N, T', H', W', out].
    """
    return lax.platform_dependent(
        inputs,
        space_kernel,
        offset,
        time_kernel,
        cpu=functools.partial(_cpu_space_time_conv, space_strides=space_strides, time_strides=time_strides),
        default=lambda *arguments: _four(plain_conv3d, *arguments, space_strides, time_strides),
    )


def half_padding(kernel: jax.Array) -> Padding:
    """Half of the kernel on each side, in (time, height, width)."""
    return tuple((size // 2, size // 2) for size in kernel.shape[:3])


def _four(
    convolve: Callable[..., jax.Array],
    inputs: jax.Array,
    space_kernel: jax.Array,
    offset: jax.Array,
    time_kernel: jax.Array,
    space_strides: Triple,
    time_strides: Triple,
) -> jax.Array:
    between = convolve(inputs, space_kernel, space_strides, half_padding(space_kernel)) + offset
    return convolve(jnp.maximum(between, 0), time_kernel, time_strides, half_padding(time_kernel))


@jax.named_scope(CPU_FORM)
def _cpu_space_time_conv(
    inputs: jax.Array,
    space_kernel: jax.Array,
    offset: jax.Array,
    time_kernel: jax.Array,
    space_strides: Triple,
    time_strides: Triple,
) -> jax.Array:
    tile = _tile(inputs, space_kernel.shape, space_strides, half_padding(space_kernel))
    if not any(tile):
        return _four(cpu_conv3d, inputs, space_kernel, offset, time_kernel, space_strides, time_strides)

    def finish(between: jax.Array) -> jax.Array:
        between = jnp.maximum(between + offset, 0)
        kernel, padding = _without_dead_taps(between.shape[1], time_kernel, half_padding(time_kernel))
        time_tile = _tile(between, kernel.shape, time_strides, padding)
        if any(time_tile):
            return winograd.conv_at_once(between, kernel, time_tile)
        return _time_products(between, kernel, time_strides[0], padding[0][0])

    return winograd.conv(inputs, space_kernel, tile, finish)


def _space_time_forward(*arguments: Any) -> tuple:
    return space_time_conv(*arguments), arguments[:4]


def _space_time_backward(space_strides: Triple, time_strides: Triple, residuals: tuple, given: Any) -> tuple:
    _, pullback = jax.vjp(
        lambda *arguments: _four(conv3d, *arguments, space_strides, time_strides), *residuals
    )
    return pullback(given)


space_time_conv.defvjp(_space_time_forward, _space_time_backward)


def _forward(inputs: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> tuple:
    return conv3d(inputs, kernel, strides, padding), (inputs, kernel)


def _backward(strides: Triple, padding: Padding, residuals: tuple, cotangents: jax.Array) -> tuple:
    @jax.named_scope(CPU_FORM)
    def on_cpu(inputs: jax.Array, kernel: jax.Array, cotangents: jax.Array) -> tuple:
        gradient = cpu_kernel_gradient(inputs, cotangents, kernel.shape, strides, padding)
        return cpu_input_gradient(inputs, kernel, cotangents, strides, padding), gradient

    def elsewhere(inputs: jax.Array, kernel: jax.Array, cotangents: jax.Array) -> tuple:
        _, pullback = jax.vjp(lambda x, k: plain_conv3d(x, k, strides, padding), inputs, kernel)
        return pullback(cotangents)

    return lax.platform_dependent(*residuals, cotangents, cpu=on_cpu, default=elsewhere)


conv3d.defvjp(_forward, _backward)


def _tile(inputs: jax.Array, kernel: tuple[int, ...], strides: Triple, padding: Padding) -> Triple:
    """`winograd.choose_tile` for float32; fewer bits do not bear the transforms."""
    if inputs.dtype != jnp.float32:
        return (0, 0, 0)
    return winograd.choose_tile(inputs.shape, kernel, strides, padding)


def _only_middle_is_live(length: int, size: int, padding: Padding) -> bool:
    """Whether a kernel over time sees nothing but zeros beside its middle."""
    return length == 1 and size > 1 and tuple(padding[0]) == (size // 2,) * 2


def _without_dead_taps(length: int, kernel: jax.Array, padding: Padding) -> tuple[jax.Array, Padding]:
    """The kernel and padding that are enough for `length` steps of time."""
    if not _only_middle_is_live(length, kernel.shape[0], padding):
        return kernel, padding
    middle = kernel.shape[0] // 2
    return kernel[middle : middle + 1], ((0, 0), *padding[1:])


def _steps(length: int, size: int, stride: int, padding: tuple[int, int]) -> int:
    """Number of outputs along one axis."""
    return (length + sum(padding) - size) // stride + 1


def _time_taps(inputs: jax.Array, size: int, stride: int, padding: tuple[int, int]) -> jax.Array:
    """Each output step's `size` input steps side by side in the channels: [N, T', H, W, size * C]."""
    steps = _steps(inputs.shape[1], size, stride, padding)
    padded = jnp.pad(inputs, ((0, 0), padding, (0, 0), (0, 0), (0, 0))) if any(padding) else inputs
    if size == 1:
        return padded[:, ::stride][:, :steps]
    last = stride * (steps - 1) + 1
    return jnp.concatenate([padded[:, tap : tap + last : stride] for tap in range(size)], axis=-1)


def _frame_conv(
    inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> jax.Array:
    """A 2-D convolution of every frame, time folded into the batch."""
    batch, time = inputs.shape[:2]
    frames = inputs.reshape(batch * time, *inputs.shape[2:])
    steps = [
        _steps(length, size, stride, pad)
        for length, size, stride, pad in zip(
            frames.shape[1:3], kernel.shape[:2], strides, padding, strict=True
        )
    ]
    # Frames smaller than the kernel are what the native form takes up to thirty times as long for.
    small = any(
        min(length, out) < size
        for length, out, size in zip(frames.shape[1:3], steps, kernel.shape[:2], strict=True)
    )
    if small and kernel.shape[2] >= MATMUL_GRADIENT_CHANNELS:
        return _patch_products(frames, kernel, strides, padding, steps).reshape(
            batch, time, *steps, kernel.shape[-1]
        )
    outputs = lax.conv_general_dilated(
        frames, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return outputs.reshape(batch, time, *outputs.shape[1:])


def _patch_products(
    frames: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding, steps: list[int]
) -> jax.Array:
    """A 2-D convolution as one matrix product of all patches, [N, H, W, in] -> [N x H' x W', out]."""
    padded = jnp.pad(frames, ((0, 0), *padding, (0, 0)))
    rows, columns = (
        [slice(tap, tap + stride * (out - 1) + 1, stride) for tap in range(size)]
        for size, stride, out in zip(kernel.shape[:2], strides, steps, strict=True)
    )
    patches = jnp.concatenate([padded[:, row, column] for row in rows for column in columns], axis=-1)
    return patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])


def _frame_kernel_gradient(
    inputs: jax.Array,
    cotangents: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, int],
    padding: Padding,
) -> jax.Array:
    """Gradient of a frame kernel [kh, kw, in, out], one matrix product for each of its positions."""
    kernel_height, kernel_width, channels, features = shape
    height, width = cotangents.shape[2:4]
    padded = jnp.pad(inputs, ((0, 0), (0, 0), *padding, (0, 0)))
    flat = cotangents.reshape(-1, features)
    products = []
    for row in range(kernel_height):
        for column in range(kernel_width):
            rows = slice(row, row + strides[0] * (height - 1) + 1, strides[0])
            columns = slice(column, column + strides[1] * (width - 1) + 1, strides[1])
            products.append(padded[:, :, rows, columns].reshape(-1, channels).T @ flat)
    return jnp.stack(products).reshape(shape)


def _time_conv(inputs: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """A convolution over time alone, as a 2-D one over (time, all positions)."""
    inputs = _spatial_subsample(inputs, strides, padding)
    batch, time, height, width, channels = inputs.shape
    outputs = lax.conv_general_dilated(
        inputs.reshape(batch, time, height * width, channels),
        kernel[:, :, 0],
        (strides[0], 1),
        (padding[0], (0, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return outputs.reshape(batch, -1, height, width, kernel.shape[-1])


def _time_products(inputs: jax.Array, kernel: jax.Array, stride: int, before: int) -> jax.Array:
    """A convolution over time alone, one matrix product for each (step, tap) that sees no zeros."""
    batch, length, height, width, channels = inputs.shape
    size, features = kernel.shape[0], kernel.shape[-1]
    outputs = []
    for step in range(_steps(length, size, stride, (before, before))):
        sources = [(tap, step * stride + tap - before) for tap in range(size)]
        products = [
            inputs[:, source].reshape(-1, channels) @ kernel[tap, 0, 0]
            for tap, source in sources
            if 0 <= source < length
        ]
        outputs.append(sum(products[1:], products[0]).reshape(batch, height, width, features))
    return jnp.stack(outputs, axis=1)


def _time_kernel_gradient(
    inputs: jax.Array, cotangents: jax.Array, shape: tuple[int, ...], strides: Triple, padding: Padding
) -> jax.Array:
    """Gradient of a kernel over time alone, by matrix products."""
    inputs = _spatial_subsample(inputs, strides, padding)
    size, channels, features = shape[0], shape[-2], shape[-1]
    length, steps, stride, before = inputs.shape[1], cotangents.shape[1], strides[0], padding[0][0]
    if steps > UNROLLED_STEPS:
        padded = jnp.pad(inputs, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
        flat = cotangents.reshape(-1, features)
        last = stride * (steps - 1) + 1
        products = [
            padded[:, tap : tap + last : stride].reshape(-1, channels).T @ flat for tap in range(size)
        ]
        return jnp.stack(products).reshape(shape)
    products = []
    for tap in range(size):
        product = jnp.zeros((channels, features), inputs.dtype)
        for step in range(steps):
            source = step * stride + tap - before
            if 0 <= source < length:
                product += inputs[:, source].reshape(-1, channels).T @ cotangents[:, step].reshape(
                    -1, features
                )
        products.append(product)
    return jnp.stack(products).reshape(shape)


def _spatial_subsample(inputs: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """What a kernel of one pixel sees of the frames."""
    if any(amount for side in padding[1:] for amount in side):
        inputs = jnp.pad(inputs, ((0, 0), (0, 0), *padding[1:], (0, 0)))
    return inputs[:, :, :: strides[1], :: strides[2]]
