"""Packed optimizer states: the same arrays come out, and only of what was put in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmt_jax import packing


def _tree():
    params = {"a": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)}, "b": jnp.ones((128, 130))}
    state = optax.adamw(1e-3).init(params)
    return {"step": jnp.int32(7), "opt_state": jax.tree.map(lambda x: x + 3, state)}


def test_what_is_packed_comes_out_again():
    tree = _tree()
    packed = packing.pack(tree)
    assert sorted(packed["small"]) == ["float32", "int32"] and len(packed["large"]) == 2
    assert packed["small"]["float32"].shape == (2 * 16,)
    again = packing.unpack(packed, jax.tree.map(jnp.zeros_like, tree))
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
        assert one.dtype == other.dtype and one.sharding == other.sharding
        np.testing.assert_array_equal(one, other)


def test_shapes_are_those_of_what_is_packed():
    packed, shapes = packing.pack(_tree()), packing.shapes(jax.eval_shape(_tree))
    assert jax.tree.structure(packed) == jax.tree.structure(shapes)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(packed)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(shapes)
    ]


def test_a_state_of_another_model_is_not_taken_for_this_one():
    tree = _tree()
    other = {"step": tree["step"], "opt_state": {"as_many": jnp.zeros((32,))}}
    with pytest.raises(ValueError, match="other arrays"):
        packing.unpack(packing.pack(tree), other)
    packed = packing.pack({"step": jnp.int32(1)})
    assert sorted(packed) == ["layout", "small"]
    assert packing.unpack(packed, {"step": jnp.int32(0)}) == {"step": jnp.int32(1)}
