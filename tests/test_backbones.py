from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import quick_jit

from jmt_jax.models.backbones import convolution, winograd
from jmt_jax.models.backbones.conv1d import SignalCNN
from jmt_jax.models.backbones.identity import Identity
from jmt_jax.models.backbones.r2plus1d import R2Plus1D, midplanes
from jmt_jax.models.backbones.r3d import R3D
from jmt_jax.models.backbones.video import KINETICS_MEAN, KINETICS_STD, normalise_frames
from jmt_jax.models.layers import BatchNorm

CONVOLUTIONS = {
    # name: frames [N, T, H, W, C], kernel [kt, kh, kw, in, out], strides
    "space": ((2, 4, 9, 8, 3), (1, 3, 3, 3, 5), (1, 1, 1)),
    "space, strided": ((2, 4, 9, 8, 3), (1, 7, 7, 3, 5), (1, 2, 2)),
    "space, many channels": ((1, 3, 6, 5, 40), (1, 3, 3, 40, 6), (1, 1, 1)),
    "space, many channels, strided": ((1, 3, 7, 6, 40), (1, 3, 3, 40, 6), (1, 2, 2)),
    "space, smaller than the kernel": ((2, 1, 2, 4, 40), (1, 3, 3, 40, 6), (1, 1, 1)),
    "space, smaller than the kernel, strided": ((2, 1, 5, 3, 40), (1, 3, 3, 40, 6), (1, 2, 2)),
    "time": ((2, 5, 4, 3, 6), (3, 1, 1, 6, 4), (1, 1, 1)),
    "time, strided": ((2, 5, 4, 3, 6), (3, 1, 1, 6, 4), (2, 1, 1)),
    "time, one frame": ((2, 1, 4, 3, 6), (3, 1, 1, 6, 4), (1, 1, 1)),
    "time, long": ((2, 45, 2, 1, 3), (5, 1, 1, 3, 4), (2, 1, 1)),
    "full": ((2, 5, 6, 7, 4), (3, 3, 3, 4, 5), (1, 1, 1)),
    "full, strided": ((2, 5, 6, 7, 4), (3, 3, 3, 4, 5), (2, 2, 2)),
    "full, many channels": ((1, 4, 5, 5, 33), (3, 3, 3, 33, 4), (2, 2, 2)),
    "frames by Winograd": ((2, 3, 8, 7, 32), (1, 3, 3, 32, 33), (1, 1, 1)),
    "frames by Winograd, rows in chunks": ((2, 9, 12, 64, 32), (1, 3, 3, 32, 32), (1, 1, 1)),
    "frames by Winograd, clips in chunks": ((8, 2, 22, 21, 32), (1, 3, 3, 32, 32), (1, 1, 1)),
    "time by Winograd": ((2, 5, 4, 9, 32), (3, 1, 1, 32, 33), (1, 1, 1)),
    "full by Winograd": ((2, 6, 7, 8, 32), (3, 3, 3, 32, 33), (1, 1, 1)),
    "full by Winograd, one step": ((5, 1, 8, 8, 32), (3, 3, 3, 32, 33), (1, 1, 1)),
    "shortcut": ((2, 5, 6, 7, 4), (1, 1, 1, 4, 5), (2, 2, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_fast_forms_equal_the_plain_convolution(name):
    input_shape, kernel_shape, strides = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal(input_shape).astype(np.float32)
    kernel = rng.standard_normal(kernel_shape).astype(np.float32)
    padding = tuple((size // 2, size // 2) for size in kernel_shape[:3])

    @quick_jit
    def both(inputs, kernel):
        results = []
        for form in (convolution.conv3d, convolution.plain_conv3d):
            output, pullback = jax.vjp(lambda x, k, form=form: form(x, k, strides, padding), inputs, kernel)
            results.append((output, *pullback(jnp.cos(output))))
        return results

    fast, plain = both(inputs, kernel)
    for ours, expected in zip(fast, plain, strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("outputs", "bound"), [(2, 3e-6), (4, 1e-5)])
def test_winograd_rounds_little(outputs, bound):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((1, 2, 8, 8, 64)).astype(np.float32)
    kernel = rng.standard_normal((1, 3, 3, 64, 32)).astype(np.float32)
    around = np.pad(inputs.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        around[:, :, row : row + 8, column : column + 8] @ kernel[0, row, column].astype(np.float64)
        for row in range(3)
        for column in range(3)
    )
    found = quick_jit(lambda x, k: winograd.conv(x, k, (0, outputs, outputs)))(inputs, kernel)
    assert np.abs(found - exact).max() < bound * np.abs(exact).max()


@pytest.mark.parametrize(
    ("input_shape", "between", "space_strides", "time_strides"),
    [
        ((2, 4, 8, 8, 32), 34, (1, 1, 1), (1, 1, 1)),
        ((3, 2, 6, 6, 32), 33, (1, 1, 1), (1, 1, 1)),
        ((4, 1, 8, 8, 32), 32, (1, 1, 1), (1, 1, 1)),
        ((2, 4, 8, 8, 32), 34, (1, 1, 1), (2, 1, 1)),
        ((2, 4, 9, 8, 3), 5, (1, 2, 2), (2, 1, 1)),
    ],
)
def test_space_and_time_as_one_equal_the_four_steps(input_shape, between, space_strides, time_strides):
    rng = np.random.default_rng(0)
    arguments = [
        rng.standard_normal(shape).astype(np.float32)
        for shape in (input_shape, (1, 3, 3, input_shape[-1], between), (between,), (3, 1, 1, between, 32))
    ]

    def four(inputs, space_kernel, offset, time_kernel):
        x = convolution.plain_conv3d(inputs, space_kernel, space_strides, ((0, 0), (1, 1), (1, 1)))
        x = jnp.maximum(x + offset, 0)
        return convolution.plain_conv3d(x, time_kernel, time_strides, ((1, 1), (0, 0), (0, 0)))

    @quick_jit
    def both(*arguments):
        results = []
        for form in (lambda *a: convolution.space_time_conv(*a, space_strides, time_strides), four):
            output, pullback = jax.vjp(form, *arguments)
            results.append((output, *pullback(jnp.cos(output))))
        return results

    for ours, expected in zip(*both(*arguments), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_rows_of_chunks_do_not_touch_each_other():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4, 2, 22, 21, 32)).astype(np.float32)
    kernel = rng.standard_normal((1, 3, 3, 32, 32)).astype(np.float32)
    run = quick_jit(lambda x, k: convolution.conv3d(x, k, (1, 1, 1), ((0, 0), (1, 1), (1, 1))))
    before = np.asarray(run(inputs, kernel))
    inputs[3] = np.nan
    after = np.asarray(run(inputs, kernel))
    np.testing.assert_array_equal(after[:3], before[:3])
    assert np.isnan(after[3]).all()


def test_unpadded_signal_convolution():
    rng = np.random.default_rng(0)
    signal, kernel = rng.standard_normal((2, 50, 3)), rng.standard_normal((4, 3, 2))
    expected = np.stack(
        [np.einsum("nkc,kco->no", signal[:, 3 * t : 3 * t + 4], kernel) for t in range(16)], 1
    )
    np.testing.assert_allclose(
        convolution.conv1d(jnp.float32(signal), jnp.float32(kernel), 3), expected, rtol=1e-4, atol=1e-4
    )


def test_accelerators_get_the_plain_convolution():
    def loss(inputs, kernel):
        return convolution.conv3d(inputs, kernel, (1, 1, 1), ((1, 1),) * 3).sum()

    arguments = jnp.ones((1, 4, 5, 6, 2)), jnp.ones((3, 3, 3, 2, 3))
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*arguments)
    tpu = traced.lower(lowering_platforms=("tpu",)).as_text()
    cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert tpu.count("lhs_dilate = [1, 1, 1]") == 2 and "concatenate" not in tpu
    assert "lhs_dilate = [1, 1, 1]" not in cpu and "concatenate" in cpu


TINY = {"widths": (4, 6), "blocks": (1, 1), "mean": KINETICS_MEAN, "std": KINETICS_STD}


@pytest.mark.parametrize("network", [R2Plus1D(stem_width=3, **TINY), R3D(**TINY)])
@pytest.mark.parametrize(
    ("reduction", "features", "width"), [("max", None, 6), ("avg", 5, 5), ("flatten", 7, 7)]
)
def test_reductions_and_widths(network, reduction, features, width):
    module = network.clone(reduction=reduction, features=features)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 16, 12, 3), np.uint8)
    tokens, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), frames)
    assert tokens.shape == (2, 3, width) and tokens.dtype == jnp.float32
    assert ("projection" in variables["params"]) == (width != 6)
    with pytest.raises(ValueError, match="median"):
        network.clone(reduction="median").init(jax.random.key(0), frames)


def test_max_and_mean_reduce_the_positions():
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, 5, 16, 12, 3), np.uint8)
    network = R2Plus1D(stem_width=3, **TINY)

    @quick_jit
    def everything(key):
        variables = network.init(key, frames)
        return [network.clone(reduction=name).apply(variables, frames) for name in ("none", "max", "avg")]

    positions, largest, averaged = everything(jax.random.key(0))
    np.testing.assert_allclose(largest, positions.max((2, 3, 4)), rtol=1e-6)
    np.testing.assert_allclose(averaged, positions.mean((2, 3, 4)), rtol=1e-5)


def test_frames_are_normalised_on_the_device():
    frames = np.random.default_rng(0).integers(0, 256, (4, 3), np.uint8)
    expected = (frames / 255 - np.array(KINETICS_MEAN)) / np.array(KINETICS_STD)
    ours = normalise_frames(jnp.asarray(frames), KINETICS_MEAN, KINETICS_STD, jnp.float32)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    ready = expected.astype(np.float32)
    np.testing.assert_array_equal(normalise_frames(ready, KINETICS_MEAN, KINETICS_STD, jnp.float32), ready)


def test_midplanes_of_the_paper():
    assert (midplanes(64, 64), midplanes(64, 128), midplanes(128, 128)) == (144, 230, 288)


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("pooling", ["flatten", "mean"])
def test_signal_network_takes_any_channels_and_length(normalization, pooling):
    network = SignalCNN((4, 5, 6), (7, 5, 3), (3, 2, 1), 8, pooling, normalization)
    signal = np.random.default_rng(0).standard_normal((2, 3, 125, 4)).astype(np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), signal)
    apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    assert jax.eval_shape(apply, variables, signal)[0].shape == (2, 3, 8)
    assert ("batch_stats" in variables) == (normalization == "batch")


def test_signal_network_says_how_long_a_window_must_be():
    network = SignalCNN((4, 5), (5, 5), (2, 1), 8)
    with pytest.raises(ValueError, match="need 27"):
        network.init(jax.random.key(0), np.zeros((1, 1, 26, 1), np.float32))
    tokens, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), np.zeros((1, 1, 27, 1)))
    assert tokens.shape == (1, 1, 8)
    with pytest.raises(ValueError, match="one entry a convolution"):
        SignalCNN((4, 5), (5,)).init(jax.random.key(0), np.zeros((1, 1, 99, 1)))


def test_identity_keeps_the_features():
    features = np.random.default_rng(0).standard_normal((2, 3, 768)).astype(np.float32)
    np.testing.assert_array_equal(Identity().apply({}, features), features)
    with pytest.raises(ValueError, match="width"):
        Identity().apply({}, features[0])


def test_batch_norm_counts_only_real_rows():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 5, 3)).astype(np.float32) * 4 + 30
    mask = np.array([True, True, False, True, False, False])
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), rows)
    masked, state = norm.apply(variables, rows, mask, train=True, mutable=["batch_stats"])
    real, expected = norm.apply(variables, rows[mask], train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(masked[mask], real, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state, expected)
    values = rows[mask].reshape(-1, 3)
    np.testing.assert_allclose(real.reshape(-1, 3), (values - values.mean(0)) / values.std(0), atol=1e-3)
    kept = state["batch_stats"]
    np.testing.assert_allclose(kept["mean"], 0.1 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(kept["var"], 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-4)


def test_batch_norm_of_nothing_real_is_finite_and_learns_nothing():
    rows = np.full((2, 4), 7, np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), rows)
    output, state = norm.apply(variables, rows, np.zeros(2, bool), train=True, mutable=["batch_stats"])
    assert np.isfinite(output).all()
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"])


def test_batch_norm_over_unequal_devices_is_that_of_one():
    rows = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32) + 5
    mask = np.array([[True, True, True, True], [True, False, False, False]])
    variables = BatchNorm().init(jax.random.key(0), rows[0])
    expected, state = BatchNorm().apply(
        variables, rows.reshape(8, 3), mask.reshape(8), train=True, mutable=["batch_stats"]
    )
    across = BatchNorm(axis_name="devices")
    ours, states = jax.vmap(
        lambda x, m: across.apply(variables, x, m, train=True, mutable=["batch_stats"]), axis_name="devices"
    )(rows, mask)
    np.testing.assert_allclose(ours.reshape(8, 3), expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5), states, state)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    network = R2Plus1D(stem_width=3, dtype=jnp.bfloat16, **TINY)
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 5, 16, 12, 3), np.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), frames)
    apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    tokens, state = jax.eval_shape(apply, variables, frames)
    assert tokens.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, state))} == {jnp.dtype(jnp.float32)}
