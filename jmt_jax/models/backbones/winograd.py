"""Convolutions with a kernel of three and a step of one by Winograd's minimal filtering, for a CPU.

m outputs of a kernel of 3 along an axis need m + 2 products instead of 3 m; along two axes the savings
multiply (Lavin and Gray 2016). The transforms to and from the points at which the products are taken move
more data than the products do, so the work runs in chunks that stay in the processor's cache: of clips where
these are small, of rows of one clip where they are large.

Only `convolution.py` uses this file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tile = tuple[int, int, int]

# Rows that each of 36 matrix products has in a chunk of whole clips, and in one of a clip's rows: enough for
# its speed, few enough for the cache. With more products fewer rows, but not below the last figure.
CLIP_ROWS, STRIP_ROWS, FEWEST_ROWS = 400, 128, 64
# Below this many channels, or rows in all, the products are too small to pay for the transforms.
FEWEST_CHANNELS = 32
# Reciprocal pairs keep the rounding error of four outputs at once small; 0, +-1, +-2 has five times as much.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))}


@functools.cache
def matrices(outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Toom-Cook transforms for `outputs` (2 or 4) at once, at the points above and infinity.

    Returns:
      Of the inputs [m + 2, m + 2], the kernel [m + 2, 3] and the products [m, m + 2], float64.
    """
    points = np.array(_POINTS[outputs])
    size = outputs + 2
    of_inputs, of_kernel, of_products = np.zeros((size, size)), np.zeros((size, 3)), np.zeros((size, outputs))
    for row, point in enumerate(points):
        others = np.delete(points, row)
        of_inputs[row, : size - 1] = np.polynomial.polynomial.polyfromroots(others)
        of_kernel[row] = point ** np.arange(3) / np.prod(point - others)
        of_products[row] = point ** np.arange(outputs)
    of_inputs[-1] = np.polynomial.polynomial.polyfromroots(points)
    of_kernel[-1, -1] = of_products[-1, -1] = 1
    return of_inputs, of_kernel, of_products.T


def _combine(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
    """Matrix times vector of arrays, without the products by 0 and 1."""
    sums = []
    for row in matrix:
        total = None
        for factor, part in zip(row, parts, strict=True):
            if abs(factor) < 1e-12:
                continue
            term = part if abs(factor - 1) < 1e-12 else float(factor) * part
            total = term if total is None else total + term
        sums.append(total)
    return sums


def _to_points(padded: jax.Array, tile: Tile) -> jax.Array:
    """[N, T, H, W, C] with its border -> [points, N * tiles, C]."""
    x, done = padded, 0
    for axis, outputs in enumerate(tile, start=1):
        if outputs:
            at, size = axis + done, outputs + 2
            count = (x.shape[at] - 2) // outputs
            last = outputs * (count - 1) + 1
            parts = [lax.slice_in_dim(x, i, i + last, outputs, axis=at) for i in range(size)]
            x = lax.optimization_barrier(jnp.stack(_combine(matrices(outputs)[0], parts), axis=done))
            done += 1
    return x.reshape(math.prod(x.shape[:done]), -1, x.shape[-1])


def _from_points(products: jax.Array, grid: tuple[int, ...], tile: Tile) -> jax.Array:
    """[points, N * tiles, C] -> [N, T', H', W', C]; `grid` is (N, tiles in time, height, width)."""
    left = sum(1 for outputs in tile if outputs)
    x = products.reshape(*(outputs + 2 for outputs in tile if outputs), *grid, products.shape[-1])
    for axis, outputs in enumerate(tile, start=1):
        if outputs:
            left -= 1
            at = left + axis
            parts = _combine(matrices(outputs)[2], [x[i] for i in range(outputs + 2)])
            x = jnp.stack(parts, axis=at + 1)
            x = x.reshape(*x.shape[:at], x.shape[at] * outputs, *x.shape[at + 2 :])
            x = lax.optimization_barrier(x) if left else x
    return x


def choose_tile(inputs: tuple[int, ...], kernel: tuple[int, ...], strides: Tile, padding: tuple) -> Tile:
    """Outputs at once along (time, height, width), 0 where the kernel is of one; all 0 where nothing is won.

    Args:
      inputs: Shape [N, T, H, W, in].
      kernel: Shape [kt, kh, kw, in, out].
      strides, padding: As in `convolution.conv3d`.
    """
    none = (0, 0, 0)
    if min(kernel[3:]) < FEWEST_CHANNELS:
        return none
    tile, tiles = [], inputs[0]
    for length, size, stride, border in zip(inputs[1:4], kernel[:3], strides, padding, strict=True):
        if size not in (1, 3) or stride != 1 or tuple(border) != (size // 2,) * 2:
            return none
        if size == 1:
            tile.append(0)
            tiles *= length
        else:
            tile.append(4 if 6 * -(-length // 4) <= 0.8 * 4 * -(-length // 2) else 2)
            tiles *= -(-length // tile[-1])
    # Two steps with a border of zeros need no more products than their transforms have.
    if tiles < FEWEST_ROWS or (not any(tile[1:]) and inputs[1] <= 2):
        return none
    return tuple(tile)


@functools.cache
def _of_kernel(tile: Tile) -> np.ndarray:
    """All axes at once, [points, kt * kh * kw]: one matrix product compiles in no time."""
    matrix = np.ones((1, 1))
    for outputs in tile:
        if outputs:
            matrix = np.kron(matrix, matrices(outputs)[1])
    return matrix


def transform_kernel(kernel: jax.Array, tile: Tile) -> jax.Array:
    """[kt, kh, kw, in, out] -> [points, in, out]."""
    matrix = jnp.asarray(_of_kernel(tile), kernel.dtype)
    return (matrix @ kernel.reshape(matrix.shape[1], -1)).reshape(-1, *kernel.shape[3:])


def _kernel_gradient_from_points(points: jax.Array, tile: Tile) -> jax.Array:
    """The transpose of `transform_kernel`: [points, in, out] -> [kt, kh, kw, in, out]."""
    matrix = jnp.asarray(_of_kernel(tile).T, points.dtype)
    kernel = matrix @ points.reshape(matrix.shape[1], -1)
    return kernel.reshape(*(3 if outputs else 1 for outputs in tile), *points.shape[1:])


def _cotangents_to_points(cotangents: jax.Array, tile: Tile) -> jax.Array:
    """The transpose of `_from_points`: [N, T, H, W, C], whole tiles -> [points, N * tiles, C]."""
    x, done = cotangents, 0
    for axis, outputs in enumerate(tile, start=1):
        if outputs:
            at = axis + done
            parts = [lax.slice_in_dim(x, i, None, outputs, axis=at) for i in range(outputs)]
            x = lax.optimization_barrier(jnp.stack(_combine(matrices(outputs)[2].T, parts), axis=done))
            done += 1
    return x.reshape(math.prod(x.shape[:done]), -1, x.shape[-1])


def _largest_divisor(number: int, limit: float) -> int:
    return max(
        divisor for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= max(limit, 1)
    )


def plan_chunks(
    batch: int, tile: Tile, grid: tuple[int, int, int], *, whole: bool = False, enlarge: int = 1
) -> tuple[int, int]:
    """Clips and rows of tiles in a chunk; several clips only where it holds all their rows.

    Args:
      batch: Number of clips.
      tile: As `choose_tile` gives it.
      grid: Tiles in (time, height, width).
      whole: Never cut a clip.
      enlarge: How many times larger than usual.
    """
    share = enlarge * 36 / math.prod(outputs + 2 if outputs else 1 for outputs in tile)
    if whole or math.prod(grid) <= max(CLIP_ROWS * share, FEWEST_ROWS):
        return _largest_divisor(batch, max(CLIP_ROWS * share, FEWEST_ROWS) / math.prod(grid)), grid[1]
    return 1, _largest_divisor(grid[1], max(STRIP_ROWS * share, FEWEST_ROWS) / (grid[0] * grid[2]))


def in_chunks(
    body: Callable[..., jax.Array], start: jax.Array, batch: int, rows: int, plan: tuple[int, int]
) -> jax.Array:
    """Runs `result = body(clip, row, result)` for the first clip and row of every chunk, from `start` on."""
    clips, height = plan
    strips = rows // height
    count = batch // clips * strips
    if count == 1:
        return body(0, 0, start)
    if strips == 1:
        return lax.fori_loop(0, count, lambda i, result: body(i * clips, 0, result), start)
    # Not // and %, whose care for signs costs kernels of their own.
    return lax.fori_loop(
        0,
        count,
        lambda i, result: body(lax.div(i, strips) * clips, lax.rem(i, strips) * height, result),
        start,
    )


def conv_at_once(inputs: jax.Array, kernel: jax.Array, tile: Tile) -> jax.Array:
    """`conv` in one piece: for what is a chunk already."""
    grid = tuple(-(-size // (m or 1)) for size, m in zip(inputs.shape[1:4], tile, strict=True))
    points = _to_points(_with_border(inputs, tile, grid), tile)
    products = jnp.einsum("pnc,pcd->pnd", points, transform_kernel(kernel, tile))
    outputs = _from_points(products, (inputs.shape[0], *grid), tile)
    return outputs[:, : inputs.shape[1], : inputs.shape[2], : inputs.shape[3]]


def conv(
    inputs: jax.Array, kernel: jax.Array, tile: Tile, finish: Callable[[jax.Array], jax.Array] | None = None
) -> jax.Array:
    """Cross-correlation with a step of one and half the kernel's size of zeros around.

    Args:
      inputs: float32 [N, T, H, W, in].
      kernel: float32 [kt, kh, kw, in, out], of 3 where `tile` has an entry, else of 1.
      tile: As `choose_tile` gives it.
      finish: A chunk of the outputs, [n, T, h, W, out], to what is kept of it, [n, T', h, W, out'].

    Returns:
      [N, T, H, W, out], or what `finish` makes of it.
    """
    batch, time, height, width = inputs.shape[:4]
    grid = tuple(-(-size // (m or 1)) for size, m in zip(inputs.shape[1:4], tile, strict=True))
    padded = _with_border(inputs, tile, grid)
    points = transform_kernel(kernel, tile)
    step = tile[1] or 1
    plan = plan_chunks(batch, tile, grid, whole=height % step != 0)
    whole = plan[1] == grid[1]

    def body(clip: jax.Array, row: jax.Array, result: jax.Array | None) -> jax.Array:
        rows = height if whole else plan[1] * step
        border = 2 if tile[1] else 0
        taken = _take(padded, clip, row * step, plan[0], padded.shape[2] if whole else rows + border)
        products = jnp.einsum("pnc,pcd->pnd", _to_points(taken, tile), points)
        outputs = _from_points(products, (plan[0], grid[0], plan[1], grid[2]), tile)[:, :time, :rows, :width]
        outputs = outputs if finish is None else finish(outputs)
        if result is None:
            return outputs
        return lax.dynamic_update_slice(result, outputs, (clip, 0, row * step, 0, 0))

    chunk = jax.eval_shape(lambda: body(0, 0, None))
    start = jnp.zeros((batch, chunk.shape[1], height, *chunk.shape[3:]), chunk.dtype)
    return in_chunks(body, start, batch, grid[1], plan)


def kernel_gradient(inputs: jax.Array, cotangents: jax.Array, tile: Tile) -> jax.Array:
    """Gradient of `conv`'s kernel, [kt, kh, kw, in, out], from that of its outputs, [N, T, H, W, out]."""
    batch = inputs.shape[0]
    grid = tuple(-(-size // (m or 1)) for size, m in zip(inputs.shape[1:4], tile, strict=True))
    step = tile[1] or 1
    padded = _with_border(inputs, tile, grid)
    extra = [
        (0, count * (m or 1) - size) for count, m, size in zip(grid, tile, inputs.shape[1:4], strict=True)
    ]
    cotangents = jnp.pad(cotangents, ((0, 0), *extra, (0, 0)))
    plan = plan_chunks(batch, tile, grid, enlarge=4)

    def body(clip: jax.Array, row: jax.Array, result: jax.Array) -> jax.Array:
        rows = plan[1] * step
        taken = _take(padded, clip, row * step, plan[0], rows + (2 if tile[1] else 0))
        pulled = _take(cotangents, clip, row * step, plan[0], rows)
        return result + jnp.einsum(
            "pnc,pnd->pcd", _to_points(taken, tile), _cotangents_to_points(pulled, tile)
        )

    count = math.prod(m + 2 if m else 1 for m in tile)
    start = jnp.zeros((count, inputs.shape[-1], cotangents.shape[-1]), inputs.dtype)
    return _kernel_gradient_from_points(in_chunks(body, start, batch, grid[1], plan), tile)


def _with_border(inputs: jax.Array, tile: Tile, grid: tuple[int, ...]) -> jax.Array:
    """Zeros around, so that every tile is whole."""
    border = [
        (1, 1 + count * m - size) if m else (0, 0)
        for count, m, size in zip(grid, tile, inputs.shape[1:4], strict=True)
    ]
    return jnp.pad(inputs, ((0, 0), *border, (0, 0)))


def _take(array: jax.Array, clip: jax.Array, row: jax.Array, clips: int, rows: int) -> jax.Array:
    return lax.dynamic_slice(array, (clip, 0, row, 0, 0), (clips, array.shape[1], rows, *array.shape[3:]))
