"""Two backbones on one stream, and the files of the reference that hold several networks."""

from __future__ import annotations

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import quick_jit

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import convert, weights
from jmt_jax.models import build_backbone, build_model, present
from jmt_jax.torch_networks import NETWORKS

COMBINE = ("feat_concat_fc", "encoder_plus_self_attention")
RESNET = {"name": "resnet18", "widths": [4, 6], "blocks": [1, 1], "stem_stride": 4}
PAIR = {"name": "pair", "first": RESNET, "second": {"name": "identity"}, "features": 8, "hidden_dim": 8}
HEAD = {"name": "mlp", "outputs": 2, "hidden": [], "pooling": "none"}


def made_up(module, *arguments):
    template = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.uniform(0.1, 0.9, x.shape).astype(np.float32), template)


def test_feat_concat_fc_is_a_linear_over_both():
    rng = np.random.default_rng(0)
    a, b = (
        rng.standard_normal((2, 3, 4)).astype(np.float32),
        rng.standard_normal((2, 3, 5)).astype(np.float32),
    )
    identity = {"name": "identity"}
    config = {"name": "pair", "first": identity, "second": identity, "combine": COMBINE[0], "features": 6}
    module = build_backbone(config)
    variables = made_up(module, (a, b))
    linear = variables["params"]["joint"]
    expected = np.concatenate([a, b], -1) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(module.apply(variables, (a, b)), expected, rtol=1e-5)


def batch():
    """Spectrograms and ready-made features of 4 samples at 3 moments; sample 3 has neither."""
    rng = np.random.default_rng(0)
    inputs = (
        rng.standard_normal((4, 3, 16, 12)).astype(np.float32),
        rng.standard_normal((4, 3, 5)).astype(np.float32),
    )
    masks = np.ones((2, 4, 3), bool)
    masks[0, 1] = masks[1, 2, 1] = False
    masks[:, 3] = False
    return inputs, (masks[0], masks[1])


@pytest.fixture(scope="module", params=COMBINE)
def model(request):
    model = build_model(("audio",), {"audio": PAIR | {"combine": request.param}}, {"name": "unimodal"}, HEAD)
    inputs, masks = batch()
    variables = made_up(model, {"audio": inputs}, {"audio": masks})
    apply = quick_jit(lambda inputs, masks: model.apply(variables, {"audio": inputs}, {"audio": masks}))
    return model, variables, apply


def test_each_input_has_its_own_mask(model):
    _, variables, apply = model
    assert set(variables["params"]["backbone_audio"]) >= {"first"}
    inputs, masks = batch()
    logits = apply(inputs, masks)
    np.testing.assert_array_equal(logits, apply(inputs, masks))
    hidden = (
        np.where(masks[0][..., None, None], inputs[0], np.nan),
        np.where(masks[1][..., None], inputs[1], np.nan),
    )
    np.testing.assert_array_equal(logits, apply(hidden, masks))
    np.testing.assert_array_equal(present({"audio": masks}), [[True] * 3] * 3 + [[False] * 3])
    everything = (np.ones((4, 3), bool),) * 2
    differs = np.any(apply(inputs, everything) != logits, -1)
    np.testing.assert_array_equal(differs, ~(masks[0] & masks[1]))
    assert np.isfinite(logits).all()


def test_another_sample_changes_no_bit(model):
    _, _, apply = model
    inputs, masks = batch()
    changed = tuple(np.concatenate([x[:2], x[:1], x[3:]]) for x in inputs)
    others = np.array([0, 1, 3])
    np.testing.assert_array_equal(apply(inputs, masks)[others], apply(changed, masks)[others])


def test_gradients_are_finite_under_masks(model):
    module, variables, _ = model
    inputs, masks = batch()

    def loss(params):
        logits, _ = module.apply(
            {**variables, "params": params},
            {"audio": inputs},
            {"audio": masks},
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.square(logits))

    gradients = quick_jit(jax.grad(loss))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients["backbone_audio"]["first"]))


def test_both_may_see_the_same_window():
    config = {"name": "pair", "first": RESNET, "second": RESNET | {"gru_layers": 1}, "features": 8}
    module = build_backbone(config)
    (x, _), (mask, _) = batch()
    tokens, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x, mask)
    assert tokens.shape == (4, 3, 8)
    assert set(variables["params"]) == {
        "first",
        "second",
        "projection_first",
        "projection_second",
        "token_encoder",
        "token_attention",
    }


def test_what_cannot_be_built():
    identity = {"name": "identity"}
    x = np.zeros((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match="needs second; its arguments are combine, .*first"):
        build_backbone({"name": "pair", "first": identity})
    with pytest.raises(ValueError, match="unknown backbone 'resnet'"):
        build_backbone({"name": "pair", "first": identity, "second": {"name": "resnet"}})
    with pytest.raises(ValueError, match="combine is 'mean'"):
        build_backbone({"name": "pair", "first": identity, "second": identity, "combine": "mean"}).init(
            jax.random.key(0), x
        )
    with pytest.raises(ValueError, match="same number"):
        build_backbone({"name": "pair", "first": identity, "second": identity}).init(
            jax.random.key(0), (x, x[:, :1])
        )
    model = build_model(("a",), {"a": identity}, {"name": "unimodal"}, HEAD)
    with pytest.raises(ValueError, match="only a backbone 'pair'"):
        model.init(jax.random.key(0), {"a": (x, x)})


def test_each_backbone_starts_from_its_own_file(tmp_path):
    model = build_model(("audio",), {"audio": PAIR}, {"name": "unimodal"}, HEAD)
    inputs, masks = batch()
    variables = made_up(model, {"audio": inputs}, {"audio": masks})
    resnet = build_backbone(RESNET | {"gru_layers": 1})
    alone = made_up(build_backbone(RESNET), inputs[0])
    path, lines = tmp_path / "resnet.safetensors", []
    weights.save_weights(path, {kind: {"backbone": tree} for kind, tree in alone.items()}, {})
    after = weights.apply_weights(variables, "audio", path, lines.append, part="first")
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    for kind, tree in alone.items():
        jax.tree.map(np.testing.assert_array_equal, after[kind]["backbone_audio"]["first"], tree)
    joint = "token_encoder"
    assert after["params"]["backbone_audio"][joint] is variables["params"]["backbone_audio"][joint]
    assert lines == [f"backbone_audio/first: weights of {path}"]
    with pytest.raises(UsageError, match="no part third.*first and second"):
        weights.apply_weights(variables, "audio", path, part="third")
    # A GRU after the network keeps its own values.
    longer = {kind: {"backbone_audio": tree} for kind, tree in made_up(resnet, inputs[0]).items()}
    after = weights.apply_weights(longer, "audio", path, lines.append)
    assert "backbone_audio/params/gru/layer0_forward/input_bias" in lines[-1]
    assert after["params"]["backbone_audio"]["gru"] == longer["params"]["backbone_audio"]["gru"]


# --- files with several networks ---


@pytest.fixture(scope="module")
def all_backbones():
    """The reference's all_backbones.pt, as far as its layout is known: networks under prefixes."""
    parts = {"vision_r2d1.": "r2plus1d_18_eval", "audio_resnet.": "resnet18_audio_eval", "gru.": "gru_bi2"}
    state = {}
    for prefix, name in parts.items():
        case = golden_case.load(name)
        state |= {prefix + key: array for key, array in case.state_dict.items()}
    for key, shape in (("vision_r2d1_fc.weight", (512, 25088)), ("vision_r2d1_fc.bias", (512,))):
        state[key] = golden_case.make_tensor(7, key, shape)
    fusion = golden_case.load("model_transformer_self_atten_512").state_dict
    wanted = {rule.torch for rule in NETWORKS["affwild2"].plan({}, ("visual", "audio")).rules}
    return state | {key: fusion[key] for key in fusion if key in wanted}


@pytest.mark.parametrize("module", ["", "module."])
@pytest.mark.parametrize(
    ("network", "prefix"),
    [
        ("r2plus1d_18", "vision_r2d1."),
        ("r2plus1d_18_flatten", ""),
        ("resnet18_audio", "audio_resnet."),
        ("gru", "gru."),
        ("affwild2", ""),
        ("jmt", "mm_transformer."),
    ],
)
def test_one_network_out_of_a_file_of_many(all_backbones, network, prefix, module):
    state = {module + name: array for name, array in all_backbones.items()}
    conversion = convert.convert(state, network)
    conversion.check()
    assert conversion.prefix == module + prefix
    assert len(conversion.mapped) + len(conversion.left_out) == len(state)
    with pytest.raises(BadDataError, match="lacks"):
        convert.convert(state, "intra_modal").check()
