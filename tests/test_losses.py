"""Losses: additivity of the moments, and finiteness in every degenerate case."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmt_jax import losses

CCC_OF_PAIR = jax.jit(
    jax.value_and_grad(lambda x, labels, mask: losses.ccc(1).value(losses.ccc(1).moments(x, labels, mask)))
)


def whole(loss, logits, labels, mask):
    return jax.jit(jax.value_and_grad(lambda x: loss.value(loss.moments(x, labels, mask))))(logits)


def in_parts(loss, logits, labels, mask, bounds):
    """The two-pass scheme over row ranges."""
    parts = [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    @jax.jit
    def run(logits):
        sums = [loss.moments(logits[p], labels[p], mask[p]) for p in parts]
        total = jax.tree.map(lambda *leaves: sum(leaves), *sums)
        value, cotangent = jax.value_and_grad(loss.value)(total)
        gradients = []
        for p in parts:
            _, pull_back = jax.vjp(lambda x, p=p: loss.moments(x, labels[p], mask[p]), logits[p])
            gradients.append(pull_back(cotangent)[0])
        return value, jnp.concatenate(gradients)

    return run(logits)


def make_case(name, seed, rows, tokens=3):
    rng = np.random.default_rng(seed)
    if name == "cross_entropy":
        return (
            losses.cross_entropy(4, 0.1),
            jnp.asarray(rng.normal(size=(rows, tokens, 4)), jnp.float32),
            jnp.asarray(rng.integers(0, 4, (rows, tokens))),
            jnp.asarray(rng.random((rows, tokens)) < 0.7),
        )
    labels = rng.uniform(-1, 1, (rows, tokens, 2))
    return (
        {"ccc": losses.ccc(2), "ccc_biased": losses.ccc(2, unbiased=False), "mse": losses.mse(2)}[name],
        jnp.asarray(0.7 * labels + 0.1 + 0.3 * rng.normal(size=labels.shape), jnp.float32),
        jnp.asarray(labels, jnp.float32),
        jnp.asarray(rng.random(labels.shape) < 0.7),
    )


def test_ccc_centre_changes_nothing_but_the_rounding():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(500, 1)) * 0.01
    logits = labels + 0.005 * rng.normal(size=labels.shape)
    expected = 1 - 2 * np.cov(logits[:, 0], labels[:, 0])[0, 1] / (
        logits.var(ddof=1) + labels.var(ddof=1) + (logits.mean() - labels.mean()) ** 2
    )
    loss = losses.ccc(1, center=5.0)
    mask = np.ones(labels.shape, bool)
    value = loss.value(loss.moments(jnp.asarray(logits + 5.0), jnp.asarray(labels + 5.0), mask))
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_cross_entropy_is_the_mean_over_labelled_entries():
    logits = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [jnp.nan, 5.0]])
    labels = jnp.asarray([0, 0, -1])
    value, gradient = whole(losses.cross_entropy(2), logits, labels, jnp.asarray([True, True, False]))
    np.testing.assert_allclose(value, (np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2, rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert (gradient[2] == 0).all()


def test_label_smoothing_spreads_the_target_evenly():
    logits = jnp.asarray([[1.0, -1.0, 0.5]])
    target = np.array([0.1, 0.8, 0.1])
    value, _ = whole(losses.cross_entropy(3, 0.3), logits, jnp.asarray([1]), jnp.asarray([True]))
    np.testing.assert_allclose(value, -(target * np.log(jax.nn.softmax(logits[0]))).sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "ccc", "ccc_biased", "mse"])
@pytest.mark.parametrize("bounds", [(0, 6, 12), (0, 0, 1, 12)])
def test_a_batch_in_parts_has_the_same_value_and_gradient(name, bounds):
    loss, logits, labels, mask = make_case(name, 5, rows=12)
    value, gradient = whole(loss, logits, labels, mask)
    value_in_parts, gradient_in_parts = in_parts(loss, logits, labels, mask, bounds)
    np.testing.assert_allclose(value_in_parts, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient_in_parts, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "ccc", "mse"])
def test_what_is_masked_changes_nothing(name):
    loss, logits, labels, mask = make_case(name, 3, rows=9)
    value, gradient = whole(loss, logits, labels, mask)
    wide = mask[..., None] if name == "cross_entropy" else mask
    dirty_labels = jnp.where(mask, labels, -5 if name == "cross_entropy" else jnp.nan)
    dirty_value, dirty_gradient = whole(loss, jnp.where(wide, logits, jnp.nan), dirty_labels, mask)
    np.testing.assert_array_equal(dirty_value, value)
    np.testing.assert_array_equal(dirty_gradient, gradient)
    assert (np.asarray(gradient)[~np.broadcast_to(wide, gradient.shape)] == 0).all()


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize(
    "prediction, label, mask, expected",
    [
        pytest.param([0.3] * 6, [-1, -0.5, 0, 0.5, 1, 0.2], [1] * 6, 1.0, id="constant predictions"),
        pytest.param([-1, -0.5, 0, 0.5, 1, 0.2], [0.9] * 6, [1] * 6, 1.0, id="constant labels"),
        pytest.param([0.2] * 6, [-0.7] * 6, [1] * 6, 1.0, id="both constant"),
        pytest.param([0.0] * 6, [0.0] * 6, [1] * 6, 0.0, id="both zero"),
        pytest.param([0.5, 9, 9, 9, 9, 9], [-0.5] * 6, [1, 0, 0, 0, 0, 0], 1.0, id="one label"),
        pytest.param([0.5, 9, 9, 9, 9, 9], [0.5] * 6, [1, 0, 0, 0, 0, 0], 0.0, id="one label, hit"),
        pytest.param([0.5] * 6, [np.nan] * 6, [0] * 6, 0.0, id="no label"),
    ],
)
def test_ccc_is_finite_everywhere(prediction, label, mask, expected, unbiased):
    value, gradient = whole(
        losses.ccc(1, unbiased=unbiased),
        jnp.asarray(prediction, jnp.float32)[:, None],
        jnp.asarray(label, jnp.float32)[:, None],
        jnp.asarray(mask, bool)[:, None],
    )
    np.testing.assert_allclose(value, expected, atol=1e-4)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 10


@pytest.mark.parametrize("labelled", [0, 1, 6])
@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_the_other_losses_are_finite_with_constants_one_label_or_none(name, labelled):
    loss = {"cross_entropy": losses.cross_entropy(2), "mse": losses.mse(2)}[name]
    labels = (
        jnp.zeros(6, int) if name == "cross_entropy" else jnp.full((6, 2), jnp.nan).at[:labelled].set(0.2)
    )
    mask = (jnp.arange(6) < labelled).reshape((6,) + (1,) * (labels.ndim - 1)) & jnp.ones(labels.shape, bool)
    value, gradient = whole(loss, jnp.full((6, 2), 0.2), labels, mask)
    expected = np.log(2) if name == "cross_entropy" and labelled else 0.0
    np.testing.assert_allclose(value, expected, atol=1e-6)
    assert np.isfinite(gradient).all() and (gradient[labelled:] == 0).all()


@settings(max_examples=20, deadline=None)
@given(
    constant=st.floats(-1, 1, width=32), other=st.floats(-1, 1, width=32), rows=st.sampled_from([1, 2, 300])
)
def test_ccc_of_any_two_constants_is_finite(constant, other, rows):
    shape = (rows, 1)
    value, gradient = CCC_OF_PAIR(jnp.full(shape, constant), jnp.full(shape, other), jnp.ones(shape, bool))
    assert 0 <= value <= 2
    assert np.isfinite(gradient).all()


def test_constant_predictions_still_learn():
    labels = jnp.linspace(-1, 1, 8)[:, None]
    _, gradient = whole(losses.ccc(1), jnp.full((8, 1), 0.4), labels, jnp.ones((8, 1), bool))
    assert (jnp.sign(-gradient + gradient.mean()) == jnp.sign(labels)).all()


def test_half_precision_logits_are_summed_in_float32():
    loss, logits, labels, mask = make_case("ccc", 1, rows=200)
    sums = loss.moments(logits.astype(jnp.bfloat16), labels, mask)
    assert {leaf.dtype for leaf in jax.tree.leaves(sums)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(sums["count"], mask.sum((0, 1)))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"expected logits \[\.\.\., 2\]"):
        losses.ccc(2).moments(jnp.zeros((4, 2)), jnp.zeros((4, 2)), jnp.ones(4, bool))
    with pytest.raises(ValueError, match="cross_entropy"):
        losses.cross_entropy(3).moments(jnp.zeros((4, 2)), jnp.zeros(4, int), jnp.ones(4, bool))
    with pytest.raises(ValueError, match="label_smoothing"):
        losses.cross_entropy(3, 1.0)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("name", ["cross_entropy", "ccc"])
def test_devices_that_sum_their_moments_agree_with_one(name, devices):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} devices")
    loss, logits, labels, mask = make_case(name, 2, rows=12)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_row = jax.sharding.PartitionSpec("data")

    def local(logits, labels, mask):
        sums, pull_back = jax.vjp(lambda x: loss.moments(x, labels, mask), logits)
        total = jax.tree.map(lambda x: jax.lax.psum(x, "data"), sums)
        value, cotangent = jax.value_and_grad(loss.value)(total)
        return value, pull_back(cotangent)[0]

    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(by_row,) * 3,
        out_specs=(jax.sharding.PartitionSpec(), by_row),
        check_vma=False,
    )
    value, gradient = jax.jit(run)(logits, labels, mask)
    expected_value, expected_gradient = whole(loss, logits, labels, mask)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
