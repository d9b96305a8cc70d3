"""What the JMT is compared with: real masks, no mixing of samples, no idle weight, and what each one is."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from golden_case import quick_jit

from jmt_jax.models import FUSIONS, build_model, count_parameters
from jmt_jax.models.fusion import JMT
from jmt_jax.models.model import OPTIONS_OF
from jmt_jax.models.vanilla import Vanilla, VanillaMatched

SMALL = {"dim": 8, "hidden_dim": 8}
NETWORKS = {
    "vanilla": ("vanilla", {**SMALL, "num_heads": 2}),
    "vanilla, side by side": ("vanilla", {**SMALL, "output": "concat"}),
    "vanilla, matched": ("vanilla_matched", SMALL),
    "late": ("late", {"dim": 4, "hidden": (8,)}),
    "bottleneck": ("bottleneck", {**SMALL, "num_bottlenecks": 2}),
    "bottleneck, later": ("bottleneck", {**SMALL, "num_layers": 1}),
    "rjca": ("rjca", SMALL),
    "rjca, dropping": ("rjca", {**SMALL, "absent": "drop"}),
}
CASES = [
    ("vanilla", 1),
    ("vanilla", 2),
    ("vanilla, side by side", 3),
    ("vanilla, matched", 2),
    ("late", 1),
    ("late", 3),
    ("bottleneck", 2),
    ("bottleneck", 3),
    ("bottleneck, later", 1),
    ("rjca", 1),
    ("rjca", 3),
    ("rjca, dropping", 2),
]
WIDTHS = {"a": 8, "b": 6, "c": 5}


def inputs_of(count):
    """Streams of different widths: 4 samples, 3 moments; masks as in `masks_of`."""
    rng = np.random.default_rng(0)
    return {
        stream: rng.standard_normal((4, 3, width)).astype(np.float32)
        for stream, width in list(WIDTHS.items())[:count]
    }


def masks_of(count):
    masks = {stream: np.ones((4, 3), bool) for stream in list(WIDTHS)[:count]}
    masks["a"][1] = False  # a stream absent for a sample
    for stream in list(masks)[1:]:
        masks[stream][0, 1] = False  # only the first is there
    for mask in masks.values():
        mask[2, 2] = False  # padding of the sequence
        mask[3] = False  # nothing at all
    return masks


def made_up(module, tokens, masks):
    rng = np.random.default_rng(1)
    template = jax.eval_shape(module.init, jax.random.key(0), tokens, masks)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), template)


@functools.cache
def network(name, count):
    """Module, made up variables, and (variables, tokens, masks) -> (features, mask), gradients of a loss."""
    kind, options = NETWORKS[name]
    module = FUSIONS[kind](tuple(WIDTHS)[:count], **options)

    def loss(variables, tokens, masks):
        features, mask = module.apply(variables, tokens, masks)
        return jnp.sum(jnp.square(features - 0.3)) + jnp.sum(features**3), (features, mask)

    @quick_jit
    def step(variables, tokens, masks):
        gradients, outputs = jax.grad(loss, has_aux=True)(variables, tokens, masks)
        return outputs, gradients

    return module, made_up(module, inputs_of(count), masks_of(count)), step


@pytest.mark.parametrize(("name", "count"), CASES)
def test_masks_are_real_and_samples_are_alone(name, count):
    _, variables, step = network(name, count)
    tokens, masks = inputs_of(count), masks_of(count)
    (features, mask), gradients = step(variables, tokens, masks)
    present = np.stack(list(masks.values())).any(0)
    np.testing.assert_array_equal(mask, present)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[~present], 0)

    # Neither another run nor what stands under a mask, be it NaN, changes a bit, of the gradients neither.
    hidden = {stream: np.where(masks[stream][..., None], x, np.nan) for stream, x in tokens.items()}
    for other in (tokens, hidden):
        (again, _), others = step(variables, other, masks)
        np.testing.assert_array_equal(features, again)
        jax.tree.map(np.testing.assert_array_equal, gradients, others)

    # Nor does what another sample holds.
    other = {stream: np.concatenate([x[:3], 7 * x[3:]]) for stream, x in tokens.items()}
    shown = {stream: np.concatenate([x[:3], ~x[3:]]) for stream, x in masks.items()}
    np.testing.assert_array_equal(features[:3], step(variables, other, shown)[0][0][:3])


@pytest.mark.parametrize(("name", "count"), CASES)
def test_every_weight_is_used(name, count):
    _, variables, step = network(name, count)
    _, gradients = step(variables, inputs_of(count), masks_of(count))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        parameter = jax.tree_util.keystr(path)
        if "['key']['bias']" in parameter:  # one number added to all of a query's logits changes no softmax
            continue
        assert np.isfinite(gradient).all() and np.any(np.asarray(gradient) != 0), parameter
    learns = name == "rjca" and count > 1
    assert ("absent" in str(jax.tree_util.tree_structure(variables))) == learns


@pytest.mark.parametrize(("name", "count"), CASES)
def test_moments_have_no_order(name, count):
    _, variables, step = network(name, count)
    order = np.array([2, 0, 1])
    turned = [{s: x[:, order] for s, x in part.items()} for part in (inputs_of(count), masks_of(count))]
    (expected, _), _ = step(variables, inputs_of(count), masks_of(count))
    (features, _), _ = step(variables, *turned)
    np.testing.assert_allclose(features, expected[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vanilla", "bottleneck", "rjca, dropping"])
def test_padding_is_as_if_the_sequence_were_shorter(name):
    module, variables, step = network(name, 2)
    tokens, masks = inputs_of(2), masks_of(2)
    (features, _), _ = step(variables, tokens, masks)
    short = [{stream: x[2:3, :2] for stream, x in part.items()} for part in (tokens, masks)]
    alone, _ = quick_jit(module.apply)(variables, *short)
    np.testing.assert_allclose(features[2:3, :2], alone, rtol=1e-4, atol=1e-5)


# --- vanilla ---


def test_vanilla_keeps_the_stream_that_is_left():
    """With nothing to look at, a stream's token is itself, as it is for one stream alone."""
    module, variables, step = network("vanilla, side by side", 3)
    tokens, masks = inputs_of(3), masks_of(3)
    masks["b"][0] = masks["c"][0] = False
    (features, _), _ = step(variables, tokens, masks)
    params = {name: variables["params"][name] for name in ("encoder_a",)}
    alone = Vanilla(("a",), **NETWORKS["vanilla, side by side"][1])
    expected, _ = quick_jit(alone.apply)({"params": params}, {"a": tokens["a"]}, {"a": masks["a"]})
    for token in range(2):
        np.testing.assert_allclose(
            features[0, :, 8 * token : 8 * token + 8], expected[0], rtol=1e-5, atol=1e-6
        )
    np.testing.assert_array_equal(features[0, :, 16:], 0)


@pytest.mark.parametrize(
    ("count", "output", "layers"),
    [(1, "self_attention", 1), (2, "self_attention", 2), (2, "fc", 1), (3, "sequence", 1)],
)
def test_matched_vanilla_has_the_parameters_and_the_width_of_the_jmt(count, output, layers):
    streams = tuple(WIDTHS)[:count]
    options = {"dim": 16, "hidden_dim": 12, "num_heads": 2, "num_layers": layers, "output": output}
    tokens = {stream: jax.ShapeDtypeStruct((2, 3, WIDTHS[stream]), jnp.float32) for stream in streams}
    masks = dict.fromkeys(streams, jax.ShapeDtypeStruct((2, 3), jnp.bool_))

    def built(kind):
        (features, _), variables = jax.eval_shape(
            kind(streams, **options).init_with_output, jax.random.key(0), tokens, masks
        )
        return features.shape, count_parameters(variables)

    (shape, parameters), (expected_shape, expected) = built(VanillaMatched), built(JMT)
    assert shape == expected_shape
    assert parameters == pytest.approx(expected, rel=0.01)


def test_live_parameters_of_the_affwild2_baselines():
    """Facts A4, heads included; the gate of the reference's vanilla is never read."""
    features = {stream: jax.ShapeDtypeStruct((2, 16, 512), jnp.float32) for stream in ("visual", "audio")}
    head = {"name": "mlp", "outputs": 2, "separate": True, "pooling": "none"}

    def parameters(fusion):
        backbones = dict.fromkeys(features, {"name": "identity"})
        model = build_model(tuple(features), backbones, fusion, head)
        return count_parameters(jax.eval_shape(model.init, jax.random.key(0), features))

    assert parameters({"name": "vanilla"}) == pytest.approx(5.91e6, rel=1e-3)
    assert parameters({"name": "concat", "absent": "drop"}) == pytest.approx(0.66e6, rel=1e-2)
    jmt = parameters({"name": "jmt"})
    assert parameters({"name": "vanilla_matched"}) == pytest.approx(jmt, rel=1e-3)


# --- late fusion ---


def late_model(**head):
    head = {"name": "mlp", "outputs": 3, "hidden": [], "pooling": "none", **head}
    fusion = {"name": "late", **NETWORKS["late"][1]}
    return build_model(tuple("abc"), dict.fromkeys("abc", {"name": "identity"}), fusion, head)


def test_late_fusion_averages_the_predictions_of_the_present_streams():
    model = late_model()
    tokens, masks = inputs_of(3), {stream: np.ones((4, 3), bool) for stream in "abc"}
    rng = np.random.default_rng(1)
    template = jax.eval_shape(model.init, jax.random.key(0), tokens)
    variables = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), template)
    apply = quick_jit(model.apply)

    def only(*streams):
        return apply(variables, tokens, {s: mask & (s in streams) for s, mask in masks.items()})

    alone = {stream: only(stream) for stream in "abc"}
    expected = (alone["a"] + alone["c"]) / 2
    np.testing.assert_allclose(only("a", "c"), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(only(*"abc"), sum(alone.values()) / 3, rtol=1e-4, atol=1e-5)


def test_late_fusion_wants_a_linear_head():
    with pytest.raises(ValueError, match="must be linear"):
        late_model(hidden=[8])


# --- bottleneck ---


def test_streams_meet_in_the_bottleneck():
    """A moment that only one stream has hears of the other one's other moments, and of nothing else."""
    module, variables, step = network("bottleneck", 2)
    tokens, masks = inputs_of(2), masks_of(2)
    (features, _), _ = step(variables, tokens, masks)
    changed = {"a": tokens["a"], "b": tokens["b"] + 1}
    (others, _), _ = step(variables, changed, masks)
    assert not masks["b"][0, 1] and np.abs(features[0, 1] - others[0, 1]).max() > 1e-6

    masks["b"][0] = False
    (features, _), _ = step(variables, tokens, masks)
    alone = {k: v for k, v in variables["params"].items() if not k.endswith("_b")}
    one = [{"a": part["a"]} for part in (tokens, masks)]
    expected, _ = quick_jit(module.clone(streams=("a",)).apply)({"params": alone}, *one)
    np.testing.assert_allclose(features[0], expected[0], rtol=1e-5, atol=1e-6)


# --- recursive joint cross-attention ---


def test_rjca_is_its_equations():
    module, variables, step = network("rjca, dropping", 2)
    tokens, masks = inputs_of(2), {stream: np.ones((4, 3), bool) for stream in "ab"}
    params = jax.tree.map(np.float64, variables["params"])
    x = {s: tokens[s] / np.linalg.norm(tokens[s], axis=-1, keepdims=True) for s in "ab"}
    projection = params["input_b"]["projection"]
    x["b"] = x["b"] @ projection["kernel"] + projection["bias"]
    for _ in range(module.num_iterations):
        joint = np.concatenate([x["a"], x["b"]], -1)
        refined = {}
        for stream in "ab":
            w = {name: part["kernel"] for name, part in params[f"round_{stream}"].items()}
            c = np.tanh(x[stream] @ w["correlation"] @ joint.swapaxes(1, 2) / np.sqrt(16))
            h = np.maximum(x[stream] @ w["own"] + c @ (joint @ w["joint"]) / 3, 0)
            refined[stream] = h @ w["output"] + x[stream]
        x = refined
    (features, _), _ = step(variables, tokens, masks)
    np.testing.assert_allclose(features, np.concatenate([x["a"], x["b"]], -1), rtol=1e-4, atol=1e-5)


# --- arguments and configurations ---


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vanilla", {"output": "sequence"}, "can be fc or concat"),
        ("vanilla", {"output": "concat", "output_dim": 4}, "output_dim"),
        ("vanilla_matched", {"output": "mean"}, "can be self_attention"),
        ("bottleneck", {"num_fusion_layers": 1}, "at least 2"),
        ("bottleneck", {"num_bottlenecks": 0}, "at least 1"),
        ("rjca", {"num_iterations": 0}, "at least 1"),
        ("rjca", {"absent": "zeros"}, "learned or drop"),
    ],
)
def test_wrong_arguments_are_named(kind, options, message):
    module = FUSIONS[kind](("a", "b"), **options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), inputs_of(2), masks_of(2))


@pytest.mark.parametrize("arguments", [("biovid",), ("biovid", "paper"), ("stress",)])
def test_every_fusion_has_options_in_every_configuration(arguments):
    config = tiny.load(*arguments).model
    streams = tuple(config.streams.split(","))
    width = config[streams[-1]].features
    inputs = {stream: jax.ShapeDtypeStruct((2, 4, width), jnp.float32) for stream in streams}
    parameters = {}
    for name in set(FUSIONS) - {"unimodal"}:
        fusion = {"name": name, **config[OPTIONS_OF.get(name, name)].to_dict()}
        head = {"outputs": 2, **config.get(f"{name}_head", config.head).to_dict()}
        model = build_model(streams, dict.fromkeys(streams, {"name": "identity"}), fusion, head)
        logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
        assert logits.shape == (2, 2)
        parameters[name] = count_parameters(variables)
    assert parameters["vanilla_matched"] == pytest.approx(parameters["jmt"], rel=0.01)
    assert parameters["vanilla"] < parameters["jmt"]
