"""Convolutions over time and space: the plain form, and the forms that are only fast on a CPU.

A TPU or GPU gets `lax.conv_general_dilated` as it is. A CPU has no fast 3-D convolution (its input gradient
is up to a hundred times slower than need be), so there a kernel over time becomes a 2-D convolution, and the
gradient of a kernel with many channels a few matrix products. Parameters have one layout on every platform:
[kt, kh, kw, in, out].

Reverse-mode gradients only (`jax.custom_vjp`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], ...]
Triple = tuple[int, int, int]

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


def cpu_conv3d(inputs: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """`conv3d` out of 2-D convolutions."""
    time, height, width, channels, features = kernel.shape
    if height == width == 1:
        return _time_conv(inputs, kernel, strides, padding)
    taps = _time_taps(inputs, time, strides[0], padding[0])
    folded = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, time * channels, features)
    return _frame_conv(taps, folded, strides[1:], padding[1:])


def cpu_kernel_gradient(
    inputs: jax.Array, cotangents: jax.Array, shape: tuple[int, ...], strides: Triple, padding: Padding
) -> jax.Array:
    """Gradient with respect to the kernel of `shape` [kt, kh, kw, in, out]."""
    time, height, width, channels, features = shape
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


def _forward(inputs: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> tuple:
    return conv3d(inputs, kernel, strides, padding), (inputs, kernel)


def _backward(strides: Triple, padding: Padding, residuals: tuple, cotangents: jax.Array) -> tuple:
    def on_cpu(inputs: jax.Array, kernel: jax.Array, cotangents: jax.Array) -> tuple:
        _, pullback = jax.vjp(lambda x: cpu_conv3d(x, kernel, strides, padding), inputs)
        gradient = cpu_kernel_gradient(inputs, cotangents, kernel.shape, strides, padding)
        return pullback(cotangents)[0], gradient

    def elsewhere(inputs: jax.Array, kernel: jax.Array, cotangents: jax.Array) -> tuple:
        _, pullback = jax.vjp(lambda x, k: plain_conv3d(x, k, strides, padding), inputs, kernel)
        return pullback(cotangents)

    return lax.platform_dependent(*residuals, cotangents, cpu=on_cpu, default=elsewhere)


conv3d.defvjp(_forward, _backward)


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
