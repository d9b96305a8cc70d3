from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import quick_jit

from jmt_jax.models import (
    BACKBONES,
    FUSIONS,
    HEADS,
    build_model,
    count_parameters,
    parameter_table,
    present,
)

COMPACT = {
    "visual": {"name": "r2plus1d", "stem_width": 3, "widths": [4, 6], "blocks": [1, 1], "stem_stride": 4},
    "physio": {"name": "conv1d", "channels": [4, 4], "features": 8, "normalization": "batch"},
    "audio": {"name": "identity"},
}
JMT = {"name": "jmt", "dim": 8, "hidden_dim": 8}
CONCAT = {"name": "concat", "dim": 4}  # what needs no attention compiles faster without
HEAD = {"name": "mlp", "outputs": 2, "hidden": [8]}
STREAMS = ("visual", "physio", "audio")


def compact_model(streams=STREAMS, **options):
    head = HEAD | options.pop("head", {})
    return build_model(streams, COMPACT, options.pop("fusion", JMT), head, **options)


def batch(streams=STREAMS):
    """Five samples of 3 moments; physio is one window that all moments share."""
    rng = np.random.default_rng(0)
    inputs = {
        "visual": rng.integers(0, 256, (5, 3, 2, 8, 8, 3), np.uint8),
        "physio": rng.standard_normal((5, 1, 40, 2)).astype(np.float32),
        "audio": rng.standard_normal((5, 3, 6)).astype(np.float32),
    }
    masks = {stream: np.ones(x.shape[:2], bool) for stream, x in inputs.items()}
    masks["visual"][1] = False
    masks["physio"][2] = False
    masks["audio"][0, 1] = False
    masks["visual"][2, 2] = False
    for mask in masks.values():
        mask[4] = False  # a padding row
    return {s: inputs[s] for s in streams}, {s: masks[s] for s in streams}


def made_up(model, inputs, masks):
    """Variables of the right shapes, drawn by NumPy; variances stay positive."""
    rng = np.random.default_rng(1)
    template = jax.eval_shape(model.init, jax.random.key(0), inputs, masks)
    return jax.tree.map(lambda x: (0.5 + 0.2 * rng.standard_normal(x.shape)).astype(np.float32), template)


@pytest.fixture(scope="module")
def three_streams():
    model = compact_model()
    inputs, masks = batch()
    return model, made_up(model, inputs, masks), inputs, masks, quick_jit(model.apply)


def hide(inputs, masks):
    """Other content under the masks: NaN, or other pixels."""
    hidden = {}
    for stream, x in inputs.items():
        shaped = masks[stream].reshape(*masks[stream].shape, *(1,) * (x.ndim - 2))
        other = np.full_like(x, np.nan) if np.issubdtype(x.dtype, np.floating) else 255 - x
        hidden[stream] = np.where(shaped, x, other)
    return hidden


def test_names_of_the_parts(three_streams):
    _, variables, *_ = three_streams
    assert set(variables["params"]) == {"backbone_visual", "backbone_physio", "fusion", "head"}
    assert set(variables["batch_stats"]) == {"backbone_visual", "backbone_physio"}


def test_outputs_are_float32_logits_and_finite(three_streams):
    _, variables, inputs, masks, apply = three_streams
    logits = apply(variables, inputs, masks)
    assert logits.shape == (5, 2) and logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(present(masks), [[True] * 3] * 4 + [[False] * 3])


def test_what_is_masked_changes_no_bit(three_streams):
    _, variables, inputs, masks, apply = three_streams
    np.testing.assert_array_equal(
        apply(variables, inputs, masks), apply(variables, hide(inputs, masks), masks)
    )


def test_another_sample_changes_no_bit(three_streams):
    _, variables, inputs, masks, apply = three_streams
    changed = {stream: np.concatenate([x[:3], x[:1], x[4:]]) for stream, x in inputs.items()}
    others = np.array([0, 1, 2, 4])
    np.testing.assert_array_equal(
        apply(variables, inputs, masks)[others], apply(variables, changed, masks)[others]
    )


def test_same_again(three_streams):
    _, variables, inputs, masks, apply = three_streams
    np.testing.assert_array_equal(apply(variables, inputs, masks), apply(variables, inputs, masks))


def test_no_masks_means_all_present(three_streams):
    _, variables, inputs, _, apply = three_streams
    everything = {stream: np.ones(x.shape[:2], bool) for stream, x in inputs.items()}
    np.testing.assert_array_equal(apply(variables, inputs), apply(variables, inputs, everything))


def test_tokens_for_extraction(three_streams):
    model, variables, inputs, masks, _ = three_streams
    tokens = jax.eval_shape(lambda v: model.apply(v, inputs, masks, method="encode"), variables)
    assert {stream: x.shape for stream, x in tokens.items()} == {
        "visual": (5, 3, 6),
        "physio": (5, 1, 8),
        "audio": (5, 3, 6),
    }


def training(model, inputs, masks, variables):
    """Gradients, new batch statistics and logits of one training step."""

    def loss(params):
        logits, state = model.apply(
            {"params": params, "batch_stats": variables.get("batch_stats", {})},
            inputs,
            masks,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1), "modality": jax.random.key(2)},
        )
        return jnp.sum(jnp.square(logits)), (logits, state)

    return jax.grad(loss, has_aux=True)(variables["params"])


def test_training_ignores_what_is_masked():
    model = compact_model(("visual", "physio"), fusion=CONCAT)
    inputs, masks = batch(("visual", "physio"))
    variables = made_up(model, inputs, masks)
    step = quick_jit(lambda inputs: training(model, inputs, masks, variables))
    expected = step(inputs)
    jax.tree.map(np.testing.assert_array_equal, expected, step(hide(inputs, masks)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))


def test_a_frozen_stream_keeps_weights_and_statistics():
    model = compact_model(("visual", "physio"), fusion=CONCAT, frozen=("visual",))
    inputs, masks = batch(("visual", "physio"))
    variables = made_up(model, inputs, masks)
    gradients, (_, state) = quick_jit(lambda: training(model, inputs, masks, variables))()
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients["backbone_visual"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients["backbone_physio"]))
    before, after = variables["batch_stats"], state["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, after["backbone_visual"], before["backbone_visual"])
    changed = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), after["backbone_physio"], before["backbone_physio"]
    )
    assert all(jax.tree.leaves(changed))


def test_modality_dropout_hides_streams_but_never_the_last():
    features = {"a": np.ones((400, 2, 4), np.float32), "b": np.ones((400, 2, 4), np.float32)}
    masks = {stream: np.ones((400, 2), bool) for stream in features}
    masks["b"][:100] = False
    model = build_model(
        ("a", "b"),
        {stream: {"name": "identity"} for stream in features},
        {"name": "concat", "dim": 4, "absent": "drop", "l2_norm": False},
        {"name": "mlp", "outputs": 2, "hidden": [], "pooling": "none"},
        modality_dropout=0.4,
    )
    template = jax.eval_shape(model.init, jax.random.key(0), features)
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), template)["params"]
    params["fusion"]["joint"]["kernel"][0, 0] = params["fusion"]["joint"]["kernel"][4, 1] = 1
    params["head"]["output"]["kernel"][:2] = np.eye(2)

    def seen(key, train=True):
        logits = model.apply({"params": params}, features, masks, train=train, rngs={"modality": key})
        assert np.array_equal(logits[:, 0], logits[:, 1])  # a whole stream, not a moment of it
        return np.asarray(logits[:, 0] > 0)

    kept = seen(jax.random.key(0))
    np.testing.assert_array_equal(kept[:100], [[True, False]] * 100)
    assert kept[100:].any(1).all()
    assert 0.55 < kept[100:].mean() < 0.8  # each is hidden with 0.4, less where the other one is hidden too
    np.testing.assert_array_equal(kept, seen(jax.random.key(0)))
    assert (kept != seen(jax.random.key(1))).any()
    np.testing.assert_array_equal(seen(jax.random.key(0), train=False)[100:], True)


def test_pooling_and_separate_heads():
    features = {"a": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    backbones, fusion = {"a": {"name": "identity"}}, {"name": "unimodal"}
    sizes = {}
    for separate in (False, True):
        for pooling, shape in (("last", (2, 5)), ("mean", (2, 5)), ("none", (2, 3, 5))):
            head = {"name": "mlp", "outputs": 5, "hidden": (6,), "pooling": pooling, "separate": separate}
            model = build_model(("a",), backbones, fusion, head)
            logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), features)
            assert logits.shape == shape
            sizes[separate] = count_parameters(variables)
    assert sizes == {False: 4 * 6 + 6 + 6 * 5 + 5, True: 5 * (4 * 6 + 6 + 6 + 1)}


def test_dropout_needs_its_key_only_in_training():
    features = {"a": np.ones((2, 3, 4), np.float32)}
    head = HEAD | {"dropout": 0.5}
    model = build_model(("a",), {"a": {"name": "identity"}}, {"name": "unimodal"}, head)
    variables = model.init(jax.random.key(0), features)
    logits = [
        model.apply(variables, features, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.any(logits[0] != logits[2])
    model.apply(variables, features)


def test_bfloat16_computes_close_to_float32():
    inputs, masks = batch(("audio",))
    exact, rounded = (compact_model(("audio",), dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    variables = made_up(exact, inputs, masks)
    template = jax.eval_shape(rounded.init, jax.random.key(0), inputs, masks)
    assert {leaf.dtype for leaf in jax.tree.leaves(template)} == {jnp.dtype(jnp.float32)}
    expected = quick_jit(exact.apply)(variables, inputs, masks)
    logits = quick_jit(rounded.apply)(variables, inputs, masks)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=0.1, atol=0.05)


def test_unknown_names_are_answered_with_the_known_ones():
    identity = {"a": {"name": "identity"}}
    unimodal = {"name": "unimodal"}
    for known, arguments in [
        (BACKBONES, ({"a": {"name": "resnet"}}, unimodal, HEAD)),
        (FUSIONS, (identity, {"name": "jtm"}, HEAD)),
        (HEADS, (identity, unimodal, {"name": "linear"})),
    ]:
        with pytest.raises(ValueError, match=", ".join(known)):
            build_model(("a",), *arguments)
    with pytest.raises(ValueError, match="'dims'; it has .*hidden_dim"):
        build_model(("a",), identity, JMT | {"dims": 4}, HEAD)
    with pytest.raises(ValueError, match="'b' has no backbone"):
        build_model(("a", "b"), identity, JMT, HEAD)
    with pytest.raises(ValueError, match="frozen"):
        build_model(("a",), identity, JMT, HEAD, frozen=("b",))
    with pytest.raises(ValueError, match="modality_dropout"):
        build_model(("a",), identity, JMT, HEAD, modality_dropout=1.0)
    with pytest.raises(ValueError, match="each once"):
        build_model(("a", "a"), identity, JMT, HEAD)


def test_wrong_batches_are_named():
    model = compact_model(("audio", "physio"))
    inputs, masks = batch(("audio", "physio"))

    def init(inputs, masks=None):
        return jax.eval_shape(model.init, jax.random.key(0), inputs, masks)

    with pytest.raises(ValueError, match="needs 'physio'"):
        init({"audio": inputs["audio"]})
    with pytest.raises(ValueError, match=r"mask of 'audio' has shape \(5, 2\)"):
        init(inputs, masks | {"audio": masks["audio"][:, :2]})
    with pytest.raises(ValueError, match="same number, or 1"):
        init(inputs | {"physio": np.ones((5, 2, 40, 2), np.float32)})


def test_paper_sized_model_is_built_abstractly():
    model = build_model(
        ("visual", "physio"),
        {"visual": {"name": "r3d"}, "physio": {"name": "conv1d"}},
        {"name": "jmt", "output": "sequence", "l2_norm": False},
        {"name": "mlp", "outputs": 2, "hidden": (1024, 512, 256, 64)},
    )
    inputs = {
        "visual": jax.ShapeDtypeStruct((2, 4, 5, 112, 112, 3), jnp.uint8),
        "physio": jax.ShapeDtypeStruct((2, 1, 2816, 1), jnp.float32),
    }
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
    assert logits.shape == (2, 2)
    table = parameter_table(variables)
    assert "fusion/sequence_encoder/layer0/attention/out/kernel" in table
    assert f"{count_parameters(variables):,}" in table


def test_live_parameters_of_the_affwild2_model():
    model = build_model(
        ("visual", "audio"),
        {stream: {"name": "identity"} for stream in ("visual", "audio")},
        {"name": "jmt", "absent": "drop"},
        {"name": "mlp", "outputs": 2, "separate": True, "pooling": "none"},
    )
    features = {stream: jax.ShapeDtypeStruct((2, 16, 512), jnp.float32) for stream in ("visual", "audio")}
    variables = jax.eval_shape(model.init, jax.random.key(0), features)
    assert count_parameters(variables) == pytest.approx(11.17e6, rel=1e-3)
