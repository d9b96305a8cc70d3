"""The many small arrays of an optimizer's state side by side in a few: Orbax takes a millisecond for each.

Large ones stay what they are, under their names; so do those that a mesh may cut, which are all large.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import jax
import numpy as np

# Fewer elements are packed.
SMALL_ELEMENTS = 128 * 128
_SMALL, _LARGE, _LAYOUT = "small", "large", "layout"


def pack(tree: Any) -> dict[str, Any]:
    """A tree with few leaves that `unpack` makes the old one of.

    Args:
      tree: Arrays that this process has the whole of, or large ones.

    Returns:
      ``small``: type to a numpy vector of all small arrays of that type in order; ``large``: path to array;
      ``layout``: uint8 [32], what is where among the small ones.
    """
    small, large = _split(tree)
    on_host = jax.device_get(list(small.values()))
    vectors = {
        name: np.concatenate([np.ravel(x) for x in on_host if x.dtype.name == name])
        for name in sorted({x.dtype.name for x in on_host})
    }
    return _without_empty({_SMALL: vectors, _LARGE: large, _LAYOUT: _layout(small)})


def shapes(tree: Any) -> dict[str, Any]:
    """What `pack` gives, as shapes and types: to restore into.

    Args:
      tree: Arrays, or their shapes, types and placement.
    """
    small, large = _split(tree)
    sizes: dict[str, int] = {}
    for leaf in small.values():
        name = np.dtype(leaf.dtype).name
        sizes[name] = sizes.get(name, 0) + math.prod(leaf.shape)
    vectors = {name: np.zeros(size, name) for name, size in sorted(sizes.items())}
    return _without_empty({_SMALL: vectors, _LARGE: large, _LAYOUT: np.zeros(32, np.uint8)})


def unpack(packed: dict[str, Any], like: Any) -> Any:
    """The tree that was packed.

    Args:
      packed: Of `pack`.
      like: Arrays of the same structure; small ones are placed as theirs, or stay numpy's as they are.

    Raises:
      ValueError: The small arrays are not those of ``like``.
    """
    small, _ = _split(like)
    if not np.array_equal(packed[_LAYOUT], _layout(small)):
        raise ValueError("the optimizer's state has other arrays than were saved")
    offsets: dict[str, int] = {}

    def take(path: Any, leaf: jax.Array) -> jax.Array:
        key = jax.tree_util.keystr(path)
        if key not in small:
            return packed[_LARGE][key]
        name, size = leaf.dtype.name, math.prod(leaf.shape)
        start = offsets.get(name, 0)
        offsets[name] = start + size
        values = np.asarray(packed[_SMALL][name][start : start + size]).reshape(leaf.shape)
        return jax.device_put(values, leaf.sharding) if isinstance(leaf, jax.Array) else values

    return jax.tree_util.tree_map_with_path(take, like)


def _split(tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Path to leaf, of small and of large ones, in the tree's order."""
    small, large = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        part = small if math.prod(leaf.shape) < SMALL_ELEMENTS else large
        part[jax.tree_util.keystr(path)] = leaf
    return small, large


def _layout(small: dict[str, Any]) -> np.ndarray:
    lines = [f"{path} {np.dtype(x.dtype).name} {tuple(x.shape)}\n" for path, x in small.items()]
    return np.frombuffer(hashlib.sha256("".join(lines).encode()).digest(), np.uint8)


def _without_empty(packed: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in packed.items() if len(part)}
