from __future__ import annotations

import functools

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import quick_jit
from jax import lax

from data_pipelines.errors import BadDataError
from jmt_jax import convert, torch_names, weights
from jmt_jax.models import build_model
from jmt_jax.models.backbones.convolution import same_padding
from jmt_jax.models.backbones.i3d import I3D
from jmt_jax.models.backbones.pooling import max_pool
from jmt_jax.models.backbones.tcn import LEAK, TCN, CausalConv, TemporalBlock
from jmt_jax.models.layers import Conv3D, Dropout

TINY = {"width": 0.05, "blocks": (1, 1, 1), "input_size": 0, "tcn_widths": (6, 5)}
TINIEST = TINY | {"blocks": (1, 1)}


def frames_of(shape=(3, 2, 3, 32, 32, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def made_up(network, *arguments, **options):
    """Variables drawn by NumPy, which takes no compiling."""
    rng = np.random.default_rng(1)
    template = jax.eval_shape(functools.partial(network.init, **options), jax.random.key(0), *arguments)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.standard_normal(leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 9))
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, template)


# --- the paper's network and its weights ---


@pytest.fixture(scope="module")
def reference():
    return golden_case.load("i3d_tcn_eval")


@pytest.fixture(scope="module")
def converted(reference):
    conversion = convert.convert(reference.state_dict, "i3d_tcn")
    conversion.check()
    return conversion


def test_every_weight_of_the_file_is_taken_or_named(reference, converted):
    assert len(converted.mapped) == len(converted.plan.rules)
    assert set(converted.mapped) | set(converted.left_out) == set(reference.state_dict)
    assert "no part of this network" not in converted.left_out.values()
    report = converted.report()
    assert "i3d_WSDDA.logits.conv3d.weight" in report and "stands under net as well" in report


def test_weights_go_out_as_they_came_in(reference, converted):
    exported = torch_names.export(converted.plan.rules, converted.variables)
    assert set(exported) == set(converted.mapped)
    for name, array in exported.items():
        np.testing.assert_array_equal(array, reference.state_dict[name])


def test_kinetics_weights_start_a_network_with_or_without_a_tcn(tmp_path, reference):
    prefix = "i3d_WSDDA."
    kinetics = {
        name.removeprefix(prefix): reference.state_dict[name]
        for name in reference.state_dict
        if name.startswith(prefix)
    }
    conversion = convert.convert(kinetics, "i3d_kinetics")
    conversion.check()
    assert {name.split(".")[0] for name in conversion.left_out if "num_batches" not in name} == {"logits"}
    assert "no TCN" in conversion.report()
    path = tmp_path / "kinetics.safetensors"
    weights.save_weights(path, conversion.variables, conversion.config())

    fresh, lines = untrained(), []
    bare = {collection: dict(tree) for collection, tree in fresh.items()}
    bare["params"]["backbone_visual"] = {
        name: tree for name, tree in fresh["params"]["backbone_visual"].items() if name != "tcn"
    }
    without = weights.apply_weights(bare, "visual", path, lines.append)
    stem = without["params"]["backbone_visual"]["stem1"]["conv"]["kernel"]
    np.testing.assert_array_equal(stem[1, 2, 3, 0, 4], kinetics["Conv3d_1a_7x7.conv3d.weight"][4, 0, 1, 2, 3])
    assert "keep" not in lines[0]
    started = weights.apply_weights(fresh, "visual", path, lines.append)
    assert np.all(started["params"]["backbone_visual"]["tcn"]["level0"]["conv1"]["scale"] == 7)
    assert "tcn/level0/conv1/scale" in lines[1] and "keep their initial values" in lines[1]
    del conversion.variables["params"]["backbone"]["stage5b"]
    weights.save_weights(path, conversion.variables, {})
    with pytest.raises(BadDataError, match="lacks params/stage5b"):
        weights.apply_weights(fresh, "visual", path)


def test_half_a_tcn_is_no_tcn(tmp_path):
    path = tmp_path / "half.safetensors"
    tree = untrained(**TINY)
    weights.save_weights(path, tree, {})
    weights.apply_weights(tree, "visual", path)
    half = weights.load_weights(path)
    del half["params"]["backbone_visual"]["tcn"]["level1"]
    weights.save_weights(path, half, {})
    with pytest.raises(BadDataError, match="lacks params/tcn/level1"):
        weights.apply_weights(tree, "visual", path)


def untrained(**options):
    """Variables of a model of one video stream, 7 everywhere."""
    backbone = {"visual": {"name": "i3d", **options}}
    model = build_model(["visual"], backbone, {"name": "unimodal"}, {"name": "mlp", "outputs": 2})
    inputs = {"visual": jax.ShapeDtypeStruct((1, 1, 2, 32, 32, 3), jnp.uint8)}
    template = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 7, np.float32), template)


# --- forms ---


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({}, (48, 48), (5,)),
        ({"input_size": 64}, (20, 33), (5,)),
        ({"reduction": "none"}, (33, 40), (3, 5)),
        ({"reduction": "none", "features": 7}, (5, 4), (3, 7)),
        ({"reduction": "avg", "tcn_widths": ()}, (48, 48), (50,)),
        ({"tcn_widths": (), "blocks": (2, 1), "features": 9}, (256, 256), (9,)),
    ],
)
def test_compact_forms(options, shape, expected):
    network = I3D(**TINY | options)
    frames = frames_of((1, 2, 4, *shape, 3))
    tokens, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), frames)
    assert tokens.shape == (1, 2, *expected) and tokens.dtype == jnp.float32
    assert ("tcn" in variables["params"]) == bool(network.tcn_widths)
    assert ("projection" in variables["params"]) == (network.features is not None)


def test_one_frame_is_a_clip_too():
    network = I3D(**TINY | {"reduction": "none"})
    tokens, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), frames_of((1, 1, 1, 16, 16, 3)))
    assert tokens.shape == (1, 1, 1, 5)


def test_what_it_cannot_be_is_said():
    for options, message in (
        ({"blocks": (3, 5, 2)}, "at most"),
        ({"blocks": ()}, "one to three"),
        ({"width": 0}, "factor above 0"),
        ({"reduction": "median"}, "'median'"),
    ):
        with pytest.raises(ValueError, match=message):
            I3D(**TINY | options).init(jax.random.key(0), frames_of())


@pytest.fixture(scope="module")
def compact():
    """A compact network, its variables, and itself in evaluation, compiled."""
    network = I3D(**TINIEST)
    variables = made_up(network, frames_of())
    return network, variables, quick_jit(network.apply)


def test_rows_are_independent_to_the_bit(compact):
    _, variables, apply = compact
    frames = frames_of()
    changed = frames.copy()
    changed[2] = 255 - changed[2]
    before, after = apply(variables, frames), apply(variables, changed)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert np.abs(before[2] - after[2]).max() > 0
    np.testing.assert_array_equal(before, apply(variables, frames))


def test_frames_are_enlarged_bilinearly(compact):
    network, variables, apply = compact
    small = np.random.default_rng(0).standard_normal((3, 2, 3, 16, 16, 3)).astype(np.float32)
    large = small
    for axis in (3, 4):  # every pixel becomes two, each a quarter of the way to its neighbour
        ends = [np.take(large, [0], axis), np.take(large, [-1], axis)]
        before = np.concatenate([ends[0], large], axis)
        after = np.concatenate([large, ends[1]], axis)
        pairs = np.stack(
            [
                0.25 * np.take(before, range(16), axis) + 0.75 * large,
                0.75 * large + 0.25 * np.take(after, range(1, 17), axis),
            ],
            axis + 1,
        )
        large = pairs.reshape(*large.shape[:axis], 32, *large.shape[axis + 1 :])
    enlarging = quick_jit(network.clone(input_size=32).apply)
    np.testing.assert_allclose(
        enlarging(variables, small), apply(variables, np.float32(large)), rtol=1e-4, atol=1e-5
    )


@pytest.fixture(scope="module")
def training(compact):
    """(frames) -> tokens, statistics and gradients with the first sample's second token masked."""
    network, variables, _ = compact
    mask = np.ones((3, 2), bool)
    mask[0, 1] = False

    def step(frames, key):
        def loss(params):
            tokens, state = network.apply(
                {**variables, "params": params},
                frames,
                mask,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            real = jnp.where(mask[..., None], tokens, 0)
            return jnp.sum(jnp.square(real)), (real, state)

        (_, (tokens, state)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return tokens, state, gradients

    return quick_jit(step), mask


def test_training_learns_from_what_is_real_only(training):
    step, mask = training
    frames, key = frames_of(), jax.random.key(3)
    expected = step(frames, key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    for name in ("stem1", "stage4f", "tcn"):
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected[2][name])), name
    hidden = np.where(mask[..., None, None, None, None], frames, 255 - frames)
    jax.tree.map(np.testing.assert_array_equal, expected, step(hidden, key))


def test_dropout_depends_on_its_key_alone(training):
    step, _ = training
    tokens = [step(frames_of(), jax.random.key(seed))[0] for seed in (3, 3, 4)]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert np.abs(tokens[0] - tokens[2]).max() > 0


def test_constant_frames_give_finite_gradients(training):
    """Black frames: every window of every pooling is full of equals."""
    step, _ = training
    result = step(np.zeros_like(frames_of()), jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    network = I3D(dtype=jnp.bfloat16, **TINY | {"input_size": 32})
    variables = jax.eval_shape(network.init, jax.random.key(0), frames_of())
    apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    rngs = {"dropout": jax.random.key(0)}
    tokens, state = jax.eval_shape(apply, variables, frames_of(), rngs=rngs)
    assert tokens.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, state))} == {jnp.dtype(jnp.float32)}


# --- its layers ---


@pytest.mark.parametrize(
    ("window", "strides"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (1, 2, 2))]
)
def test_max_pooling_and_its_gradient(window, strides):
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * 4 * 7 * 6 * 3).reshape(2, 4, 7, 6, 3).astype(np.float32)  # no two alike

    def expected(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "SAME")

    @quick_jit
    def both(x):
        results = []
        for pool in (lambda x: max_pool(x, window, strides), expected):
            pooled, pullback = jax.vjp(pool, x)
            results.append((pooled, pullback(1 + pooled % 7)[0]))
        return results

    for ours, theirs in zip(*both(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_of_equals_in_a_window_one_is_moved():
    @quick_jit
    def both(x):
        pooled, pullback = jax.vjp(lambda x: max_pool(x, (3, 3, 3), (1, 2, 2)), x)
        return pooled, pullback(jnp.ones_like(pooled))[0]

    pooled, gradient = both(np.ones((1, 4, 6, 6, 2), np.float32))
    assert gradient.sum() == pooled.size and set(np.unique(gradient % 1)) == {0.0}


def test_windows_are_padded_with_zeros():
    assert max_pool(-jnp.ones((1, 1, 2, 2, 1)), (1, 3, 3), (1, 1, 1)).max() == 0


@pytest.mark.parametrize("size", [(5, 12, 9), (4, 7, 8)])
def test_convolution_padded_as_tensorflow_does(size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    layer = Conv3D(4, (7, 7, 7), (1, 2, 2), padding="same")
    kernel = rng.standard_normal((7, 7, 7, 3, 4)).astype(np.float32)
    expected = lax.conv_general_dilated(
        x, kernel, (1, 2, 2), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    ours = layer.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)
    assert same_padding(224, 7, 2) == (2, 3) and same_padding(5, 1, 2) == (0, 0)


@pytest.mark.parametrize(("steps", "dilation"), [(1, 1), (3, 2), (7, 8), (12, 2)])
def test_causal_convolution_with_weight_norm(steps, dilation):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, steps, 3)).astype(np.float32)
    layer = CausalConv(4, 5, dilation)
    params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    direction = np.asarray(params["direction"])
    np.testing.assert_allclose(params["scale"], np.sqrt(np.square(direction).sum((0, 1))), rtol=1e-5)
    kernel = 2 * direction / np.linalg.norm(direction.reshape(-1, 4), axis=0)
    expected = np.zeros((2, steps, 4)) + np.asarray(params["bias"])
    for step in range(steps):
        for tap in range(5):
            source = step - (4 - tap) * dilation
            if source >= 0:
                expected[:, step] += x[:, source] @ kernel[tap]
    ours = layer.apply({"params": params | {"scale": np.full(4, 2, np.float32)}}, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_direction_of_zeros_is_finite():
    layer = CausalConv(2, 3)
    x = jnp.ones((1, 4, 2))
    params = jax.tree.map(np.zeros_like, made_up(layer, x)["params"])
    gradients = quick_jit(jax.grad(lambda params: layer.apply({"params": params}, x).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_no_step_of_a_tcn_sees_the_future():
    network = TCN((4, 5, 5), 3)
    x = np.random.default_rng(0).standard_normal((1, 9, 3)).astype(np.float32)
    variables = made_up(network, x, train=False)
    apply = quick_jit(functools.partial(network.apply, train=False))
    later = x.copy()
    later[:, 6:] += 1
    before, after = apply(variables, x), apply(variables, later)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).min() > 0


def test_temporal_block_without_convolutions_is_its_leaky_shortcut():
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    for features in (3, 5):
        block = TemporalBlock(features)
        params = made_up(block, x, train=False)["params"]
        for name in ("conv1", "conv2"):
            params[name] = jax.tree.map(np.zeros_like, params[name])
        expected = x
        if features != 3:
            expected = x @ params["shortcut"]["kernel"] + params["shortcut"]["bias"]
        else:
            assert "shortcut" not in params
        expected = np.where(expected > 0, expected, LEAK * expected)
        ours = quick_jit(functools.partial(block.apply, train=False))({"params": params}, x)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_channel_dropout_drops_whole_channels_alike_on_any_devices():
    x = np.ones((8, 5, 40), np.float32)
    rngs = {"dropout": jax.random.key(0)}
    dropped = Dropout(0.25, shared_axes=(1,)).apply({}, x, train=True, rngs=rngs)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], x.shape))
    assert np.unique(dropped[:, 0], axis=0).shape[0] == 8
    across = Dropout(0.25, "devices", shared_axes=(1,))
    parts = jax.vmap(lambda x: across.apply({}, x, train=True, rngs=rngs), axis_name="devices")(
        x.reshape(2, 4, 5, 40)
    )
    np.testing.assert_array_equal(parts.reshape(x.shape), dropped)
