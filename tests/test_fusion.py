from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import quick_jit

from jmt_jax.models.attention import MultiHeadAttention
from jmt_jax.models.baselines import Concat, Unimodal
from jmt_jax.models.fusion import JMT, token_order
from jmt_jax.models.heads import last_present, mean_present


def shapes(module, *arguments):
    return jax.eval_shape(module.init, jax.random.key(0), *arguments)


# --- attention ---


def attention_inputs():
    rng = np.random.default_rng(0)
    query = rng.standard_normal((3, 2, 8)).astype(np.float32)
    keys = rng.standard_normal((3, 5, 8)).astype(np.float32)
    module = MultiHeadAttention(8, 2)
    return module, quick_jit(module.init)(jax.random.key(0), query, keys), query, keys


def test_masked_keys_are_as_if_they_were_not_there():
    module, variables, query, keys = attention_inputs()
    mask = np.array([[True] * 5, [True, False, True, False, False], [False] * 5])
    masked = module.apply(variables, query, keys, mask)
    np.testing.assert_allclose(masked[0], module.apply(variables, query, keys)[0], rtol=1e-6, atol=1e-6)
    kept = module.apply(variables, query[1:2], keys[1:2][:, [0, 2]])
    np.testing.assert_allclose(masked[1:2], kept, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(masked[2], np.zeros((2, 8)))


def test_attention_never_sees_what_is_masked():
    module, variables, query, keys = attention_inputs()
    mask = np.array([[True] * 5, [True, False, True, False, False], [False] * 5])

    def total(variables, keys):
        return jnp.sum(jnp.square(module.apply(variables, query, keys, mask)))

    hidden = np.where(mask[..., None], keys, np.nan)
    value_and_gradient = quick_jit(jax.value_and_grad(total))
    jax.tree.map(
        np.testing.assert_array_equal,
        value_and_gradient(variables, keys),
        value_and_gradient(variables, hidden),
    )


def test_initial_weights_are_torchs_defaults():
    variables = MultiHeadAttention(64).init(jax.random.key(0), np.zeros((1, 1, 64)), np.zeros((1, 1, 64)))
    bounds = {"query": np.sqrt(6 / 256), "key": np.sqrt(6 / 256), "value": np.sqrt(6 / 256), "out": 1 / 8}
    for name, bound in bounds.items():
        kernel, bias = (np.asarray(variables["params"][name][part]) for part in ("kernel", "bias"))
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_array_equal(bias, 0)


# --- fusions of any number of streams ---


def test_token_order_of_two_streams_is_the_papers():
    assert token_order(("v", "p")) == (
        ("v", "p"), ("p", "v"), ("joint", "v"), ("v", "joint"), ("joint", "p"), ("p", "joint"),
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_ordered_pair_is_a_token_once(count):
    streams = tuple("abcd"[:count])
    order = token_order(streams)
    names = (*streams, "joint")
    assert len(order) == len(set(order)) == count * (count + 1)
    assert set(order) == {(query, key) for query in names for key in names if query != key}
    assert order[-1] == (streams[-1], "joint")


def small_fusion(output, count, absent="learned"):
    """A fusion of `count` streams of different widths, variables, tokens, masks: 4 samples, 3 moments."""
    streams = tuple("abc"[:count])
    if output == "concat":
        module = Concat(streams, dim=8, absent=absent)
    elif output == "unimodal":
        module = Unimodal(streams)
    else:
        module = JMT(streams, dim=8, hidden_dim=8, num_heads=2, output=output, absent=absent)
    rng = np.random.default_rng(0)
    tokens = {
        stream: rng.standard_normal((4, 3, width)).astype(np.float32)
        for stream, width in zip(streams, (8, 6, 5), strict=False)
    }
    masks = {stream: np.ones((4, 3), bool) for stream in streams}
    masks["a"][1] = False  # a stream absent for a sample
    for mask in masks.values():
        mask[2, 2] = False  # padding of the sequence
        mask[3] = False  # nothing at all
    template = shapes(module, tokens, masks)
    variables = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), template)
    return module, variables, tokens, masks


FUSIONS = [
    ("self_attention", 1, "learned"),
    ("self_attention", 3, "learned"),
    ("fc", 2, "drop"),
    ("sequence", 2, "learned"),
    ("concat", 3, "learned"),
    ("unimodal", 1, "learned"),
]


@pytest.mark.parametrize(("output", "count", "absent"), FUSIONS)
def test_masks_are_real(output, count, absent):
    module, variables, tokens, masks = small_fusion(output, count, absent)
    apply = quick_jit(module.apply)
    features, mask = apply(variables, tokens, masks)
    present = np.stack(list(masks.values())).any(0)
    np.testing.assert_array_equal(mask, present)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[~present], 0)

    # What stands under a mask changes no bit, be it NaN; nor does another run, nor what another sample holds.
    hidden = {stream: np.where(masks[stream][..., None], x, np.nan) for stream, x in tokens.items()}
    np.testing.assert_array_equal(features, apply(variables, hidden, masks)[0])
    np.testing.assert_array_equal(features, apply(variables, tokens, masks)[0])
    other = {stream: np.concatenate([x[:3], 7 * x[3:]]) for stream, x in tokens.items()}
    shown = {stream: np.concatenate([x[:3], ~x[3:]]) for stream, x in masks.items()}
    np.testing.assert_array_equal(features[:3], apply(variables, other, shown)[0][:3])


def test_padding_is_as_if_the_sequence_were_shorter():
    module, variables, tokens, masks = small_fusion("self_attention", 2)
    apply = quick_jit(module.apply)
    padded = apply(variables, tokens, masks)[0][2:3, :2]
    alone = apply(
        variables, *({stream: x[2:3, :2] for stream, x in part.items()} for part in (tokens, masks))
    )
    np.testing.assert_allclose(padded, alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("output", "count", "absent"), FUSIONS)
def test_every_weight_is_used(output, count, absent):
    module, variables, tokens, masks = small_fusion(output, count, absent)

    def loss(variables):
        features, _ = module.apply(variables, tokens, masks)
        return jnp.sum(jnp.square(features - 0.3)) + jnp.sum(features**3)

    gradients = quick_jit(jax.grad(loss))(variables)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all()
        name = jax.tree_util.keystr(path)
        if "['key']['bias']" in name:  # one number added to all of a query's logits changes no softmax
            continue
        if "'input_" in name and "absent" in name and "input_a" not in name:
            continue  # only the first stream is ever absent beside another one here
        assert np.any(np.asarray(gradient) != 0), name
    assert ("absent" in str(jax.tree_util.tree_structure(variables))) == (
        absent == "learned" and count > 1 and output != "unimodal"
    )


def test_read_out_is_the_last_token_whose_query_and_key_are_present():
    module, variables, tokens, masks = small_fusion("self_attention", 2)
    masks = {stream: np.ones((4, 3), bool) for stream in masks}
    masks["b"][1] = masks["a"][2] = False

    @quick_jit
    def parts(variables):
        wanted = ("token_encoder", "token_attention")
        return module.apply(
            variables, tokens, masks, capture_intermediates=lambda m, _: m.name in wanted, mutable=True
        )[1]

    kept = parts(variables)["intermediates"]
    encoded, output = kept["token_encoder"]["__call__"][0], kept["token_attention"]["__call__"][0]
    order = token_order(("a", "b"))
    token_masks = {("a", "b"): masks["a"] & masks["b"], ("b", "a"): masks["a"] & masks["b"]}
    for stream in "ab":
        token_masks["joint", stream] = token_masks[stream, "joint"] = masks[stream]
    key_mask = np.stack([token_masks[pair] for pair in order], -1)
    attention = MultiHeadAttention(8, 2)
    everything = attention.apply(
        {"params": variables["params"]["token_attention"]}, encoded, encoded, key_mask
    )
    for sample, pair in enumerate([("b", "joint"), ("a", "joint"), ("b", "joint"), ("b", "joint")]):
        expected = everything[sample, :, order.index(pair)]
        np.testing.assert_allclose(output[sample, :, 0], expected, rtol=1e-5, atol=1e-5)


def test_joint_takes_a_learned_vector_or_nothing():
    module, variables, tokens, masks = small_fusion("concat", 2)
    vector = np.asarray(variables["params"]["input_a"]["absent"])
    kernel, bias = (np.asarray(variables["params"]["joint"][part]) for part in ("kernel", "bias"))
    projection = variables["params"]["input_b"]["projection"]
    b = tokens["b"][1] / np.linalg.norm(tokens["b"][1], axis=-1, keepdims=True)
    b = b @ projection["kernel"] + projection["bias"]
    features = module.apply(variables, tokens, masks)[0][1]
    np.testing.assert_allclose(features, vector @ kernel[:8] + b @ kernel[8:] + bias, rtol=1e-4, atol=1e-5)
    dropped = module.clone(absent="drop").apply(variables, tokens, masks)[0][1]
    np.testing.assert_allclose(dropped, b @ kernel[8:] + bias, rtol=1e-4, atol=1e-5)


def test_moments_have_no_order():
    module, variables, tokens, masks = small_fusion("self_attention", 2)
    order = np.array([2, 0, 1])
    turned = [{stream: x[:, order] for stream, x in part.items()} for part in (tokens, masks)]
    apply = quick_jit(module.apply)
    expected = apply(variables, tokens, masks)[0][:, order]
    np.testing.assert_allclose(apply(variables, *turned)[0], expected, rtol=1e-4, atol=1e-5)


def test_wrong_arguments_are_named():
    tokens, masks = {"a": np.zeros((1, 1, 8), np.float32)}, {"a": np.ones((1, 1), bool)}
    for module, word in [
        (JMT(("a",), dim=8, output="mean"), "mean"),
        (JMT(("a",), dim=8, output_dim=4), "output_dim"),
        (JMT(("a",), dim=8, absent="zeros"), "zeros"),
        (JMT(("a",), dim=8, num_heads=3), "num_heads"),
        (JMT(("joint",), dim=8), "joint"),
        (Unimodal(("a", "b")), "one stream"),
    ]:
        with pytest.raises(ValueError, match=word):
            shapes(module, tokens, masks)


# --- pooling ---


def test_pooling_looks_at_present_steps_only():
    features = jnp.arange(12.0).reshape(3, 4, 1)
    mask = np.array([[True] * 4, [True, True, False, False], [False] * 4])
    np.testing.assert_array_equal(last_present(features, mask)[:, 0], [3, 5, 11])
    np.testing.assert_array_equal(mean_present(features, mask)[:, 0], [1.5, 4.5, 0])
