from __future__ import annotations

import functools

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import quick_jit

from jmt_jax import convert
from jmt_jax.models import build_model
from jmt_jax.models.backbones.resnet18 import ResNet18, _largest_of_three

COMPACT = {"widths": (4, 6), "blocks": (1, 1), "stem_stride": 4}


def made_up(module, *arguments):
    """Variables of the right shapes, drawn by NumPy; variances stay positive."""
    template = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.uniform(0.1, 0.9, x.shape).astype(np.float32), template)


def backbone_of(conversion):
    return {kind: tree["backbone"] for kind, tree in conversion.variables.items()}


def test_imagenet_weights_become_mono_by_the_mean_of_the_colours():
    case = golden_case.load("resnet18_audio_eval")
    state = dict(case.state_dict)
    colours = golden_case.make_tensor(1, "conv1.weight", (64, 3, 7, 7))
    state |= {"conv1.weight": colours, "fc.weight": np.zeros((1000, 512), np.float32)}
    conversion = convert.convert(state, "resnet18")
    conversion.check()
    assert conversion.left_out["fc.weight"] == "the classifier of the data it was trained on"
    stem = conversion.variables["params"]["backbone"]["stem"]["kernel"]
    np.testing.assert_allclose(stem[0, :, :, 0], colours.mean(1).transpose(1, 2, 0), rtol=1e-6)
    # One network's file is not the other's.
    for network, weights, found in (("resnet18_audio", state, 3), ("resnet18", case.state_dict, 1)):
        conversion = convert.convert(weights, network)
        assert conversion.misshapen == {"conv1.weight": ((64, found, 7, 7), (64, 4 - found, 7, 7))}


def test_largest_of_three_is_the_padded_maximum():
    x = np.random.default_rng(0).standard_normal((2, 1, 7, 8, 3)).astype(np.float32) - 5
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.stack(
        [
            np.stack([padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3)) for j in range(4)], 2)
            for i in range(4)
        ],
        2,
    )

    @quick_jit
    def pool(x):
        pooled, pullback = jax.vjp(lambda x: _largest_of_three(_largest_of_three(x, 2), 3), x)
        return pooled, pullback(jnp.ones_like(pooled))[0]

    pooled, gradient = pool(x)
    np.testing.assert_array_equal(pooled, expected)
    for found in (gradient, pool(np.zeros_like(x))[1]):
        assert found.sum() == pytest.approx(expected.size) and (found >= 0).all()


@pytest.fixture(scope="module", params=[0, 1], ids=["plain", "gru"])
def compact(request):
    module = ResNet18(**COMPACT, gru_layers=request.param, gru_features=8 if request.param else None)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 16, 12)).astype(np.float32)
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    return module, made_up(module, x), x, mask, quick_jit(module.apply)


def test_shape_and_repetition(compact):
    module, variables, x, mask, apply = compact
    tokens = apply(variables, x, mask)
    assert tokens.shape == (4, 3, 8 if module.gru_layers else 6) and np.isfinite(tokens).all()
    np.testing.assert_array_equal(tokens, apply(variables, x, mask))


def test_another_sample_changes_no_bit(compact):
    _, variables, x, mask, apply = compact
    changed = np.concatenate([x[:3], x[:1]])
    np.testing.assert_array_equal(apply(variables, x, mask)[:3], apply(variables, changed, mask)[:3])


def test_what_is_masked_changes_no_bit_in_a_model(compact):
    module, _, x, mask, _ = compact
    config = {key: getattr(module, key) for key in (*COMPACT, "gru_layers", "gru_features")}
    model = build_model(
        ("audio",),
        {"audio": {"name": "resnet18", **config}},
        {"name": "unimodal"},
        {"name": "mlp", "outputs": 2, "hidden": []},
    )
    variables = made_up(model, {"audio": x}, {"audio": mask})
    hidden = {"audio": np.where(mask[..., None, None], x, np.nan)}

    @quick_jit
    def step(inputs):
        def loss(params):
            logits, state = model.apply(
                {**variables, "params": params}, inputs, {"audio": mask}, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.square(logits)), (logits, state)

        return jax.grad(loss, has_aux=True)(variables["params"])

    expected = step({"audio": x})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    jax.tree.map(np.testing.assert_array_equal, expected, step(hidden))


def test_arguments():
    x = jax.ShapeDtypeStruct((2, 3, 16, 12), jnp.float32)
    for options, width in (({}, 6), ({"features": 5}, 5), ({"features": 10, "gru_layers": 2}, 10)):
        module = ResNet18(**COMPACT, **options, dtype=jnp.bfloat16)
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
        apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        tokens, _ = jax.eval_shape(apply, variables, x)
        assert tokens.shape == (2, 3, width) and tokens.dtype == jnp.bfloat16
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="mels, frames"):
        ResNet18(**COMPACT).init(key, np.zeros((2, 16, 12), np.float32))
    with pytest.raises(ValueError, match="int16"):
        ResNet18(**COMPACT).init(key, np.zeros((1, 2, 16, 12), np.int16))
    with pytest.raises(ValueError, match="equally long"):
        ResNet18(widths=(4,)).init(key, np.zeros((1, 2, 16, 12), np.float32))
    with pytest.raises(ValueError, match="gru_layers"):
        ResNet18(**COMPACT, gru_features=4).init(key, np.zeros((1, 2, 16, 12), np.float32))
