from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import quick_jit

from data_pipelines.errors import BadDataError
from jmt_jax import convert
from jmt_jax.models.gru import GRU


def made_up(module, *arguments):
    template = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32) * 0.5, template)


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (768, 0), (1, 1, 1)])
@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l0"])
def test_weights_of_impossible_shapes_are_refused(name, shape):
    state = {"weight_ih_l0": (6, 3), "weight_hh_l0": (6, 2), "bias_ih_l0": (6,), "bias_hh_l0": (6,)}
    state = {key: np.zeros(shape, np.float32) for key, shape in (state | {name: shape}).items()}
    with pytest.raises(BadDataError, match="has shape"):
        convert.convert(state, "gru").check()


def plain_gru(weights, x):
    """The equations, step by step, for one sample [S, W]."""
    h = np.zeros(len(weights["state_kernel"]), np.float32)
    outputs = []
    for step in x:
        from_input = step @ weights["input_kernel"] + weights["input_bias"]
        from_state = h @ weights["state_kernel"] + weights["state_bias"]
        (ir, iz, i_n), (hr, hz, hn) = np.split(from_input, 3), np.split(from_state, 3)
        r, z = 1 / (1 + np.exp(-(ir + hr))), 1 / (1 + np.exp(-(iz + hz)))
        h = (1 - z) * np.tanh(i_n + r * hn) + z * h
        outputs.append(h)
    return np.array(outputs)


@pytest.fixture(scope="module")
def masked():
    """Three samples of 6 steps; real steps 0 1 3, none, all."""
    module = GRU(6, num_layers=2)
    x = np.random.default_rng(0).standard_normal((3, 6, 5)).astype(np.float32)
    mask = np.array([[1, 1, 0, 1, 0, 0], [0] * 6, [1] * 6], bool)
    return module, made_up(module, x, mask), x, mask, quick_jit(module.apply)


def test_a_masked_step_is_as_if_it_were_not_there(masked):
    _, variables, x, mask, apply = masked
    outputs = apply(variables, x, mask)
    real = x[0, mask[0]]
    for layer in range(2):
        weights = {d: variables["params"][f"layer{layer}_{d}"] for d in ("forward", "backward")}
        real = np.concatenate(
            [plain_gru(weights["forward"], real), plain_gru(weights["backward"], real[::-1])[::-1]], 1
        )
    np.testing.assert_allclose(outputs[0, mask[0]], real, atol=1e-5)
    assert not outputs[0, ~mask[0]].any() and not outputs[1].any()


def test_rows_masks_and_repetition_to_the_bit(masked):
    _, variables, x, mask, apply = masked
    expected = apply(variables, x, mask)
    np.testing.assert_array_equal(apply(variables, x, mask), expected)
    np.testing.assert_array_equal(apply(variables, np.where(mask[..., None], x, np.nan), mask), expected)
    changed = np.concatenate([x[:2], x[:1]])
    np.testing.assert_array_equal(apply(variables, changed, mask)[:2], expected[:2])


def test_one_way_sees_nothing_later():
    module = GRU(4, bidirectional=False)
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    variables = made_up(module, x)
    assert set(variables["params"]) == {"layer0_forward"}
    apply = quick_jit(module.apply)
    later = np.concatenate([x[:, :3], x[:, :2]], 1)
    np.testing.assert_array_equal(apply(variables, x)[:, :3], apply(variables, later)[:, :3])


def test_bfloat16_keeps_state_and_parameters_in_float32():
    module = GRU(4, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    outputs, last = jax.eval_shape(functools.partial(module.apply, method="states"), variables, x)
    assert outputs.dtype == jnp.bfloat16 and last.dtype == jnp.float32


def test_what_cannot_be_built():
    x = np.zeros((1, 2, 3), np.float32)
    for module, inputs, message in (
        (GRU(5), x, "even number"),
        (GRU(4, num_layers=0), x, "at least one layer"),
        (GRU(4), x[0], "batch, tokens, width"),
    ):
        with pytest.raises(ValueError, match=message):
            module.init(jax.random.key(0), inputs)
