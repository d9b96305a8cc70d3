"""A model takes the weights that were converted, and refuses others."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from convert_case import FILES, paths, physio, regressor, under
from safetensors.numpy import save_file

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import convert, torch_files, torch_networks, weights
from jmt_jax.models import build_model


def skin_model(**backbone):
    backbone = {"name": "conv1d", "channels": [32, 64], "features": 8} | backbone
    return build_model(
        ["skin", "face"],
        {"skin": backbone, "face": {"name": "identity"}},
        {"name": "jmt", "dim": 8, "hidden_dim": 8},
        {"name": "mlp", "outputs": 2, "hidden": (4,)},
    )


def initial(**backbone):
    inputs = {"skin": np.zeros((1, 1, 43, 2), np.float32), "face": np.zeros((1, 1, 6), np.float32)}
    shapes = jax.eval_shape(skin_model(**backbone).init, jax.random.key(0), inputs)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.fixture
def converted(tmp_path):
    conversion = convert.convert(physio(), "physio_conv1d")
    conversion.check()
    weights.save_weights(tmp_path / "physio.safetensors", conversion.variables, conversion.config())
    return tmp_path / "physio.safetensors"


def test_a_run_starts_from_weights(converted):
    before, lines = initial(), []
    after = weights.apply_weights(before, "skin", converted, lines.append)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    skin = after["params"]["backbone_skin"]
    np.testing.assert_array_equal(skin["conv1"]["kernel"], physio()["conv1.weight"].transpose(2, 1, 0))
    np.testing.assert_array_equal(skin["projection"]["bias"], physio()["fc1.bias"])
    assert after["params"]["fusion"] is before["params"]["fusion"]
    assert not before["params"]["backbone_skin"]["conv1"]["kernel"].any()
    assert lines == [f"backbone_skin: weights of {converted}"]


def test_weights_lie_where_the_model_lies(converted):
    placed = jax.device_put(initial(), jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    after = weights.apply_weights(placed, "skin", converted)
    for before, leaf in zip(jax.tree.leaves(placed), jax.tree.leaves(after), strict=True):
        assert isinstance(leaf, jax.Array) and leaf.sharding == before.sharding


def test_weights_that_do_not_fit(converted):
    with pytest.raises(BadDataError, match=r"projection/bias has shape \(8,\), and in this model \(5,\)"):
        weights.apply_weights(initial(features=5), "skin", converted)
    with pytest.raises(BadDataError, match="lacks params/norm1/bias, params/norm1/scale.*physio.json"):
        weights.apply_weights(initial(normalization="layer"), "skin", converted)
    with pytest.raises(UsageError, match="no backbone_voice.*it has backbone_skin, fusion, head"):
        weights.apply_weights(initial(), "voice", converted)
    with pytest.raises(BadDataError, match="has no part fusion; it has backbone"):
        weights.apply_fusion_weights(initial(), converted)


def test_weights_with_something_more(tmp_path, converted):
    more = weights.load_weights(converted)
    more["params"]["backbone"]["conv3"] = {"kernel": np.zeros(3, np.float32)}
    weights.save_weights(tmp_path / "more.safetensors", more, {})
    with pytest.raises(BadDataError, match="has, unlike this model, params/conv3/kernel"):
        weights.apply_weights(initial(), "skin", tmp_path / "more.safetensors")


def test_a_new_projection_keeps_its_values(tmp_path, converted):
    fewer, lines = weights.load_weights(converted), []
    del fewer["params"]["backbone"]["projection"]
    weights.save_weights(tmp_path / "fewer.safetensors", fewer, {})
    before = initial(features=5)
    after = weights.apply_weights(before, "skin", tmp_path / "fewer.safetensors", lines.append)
    kernel = after["params"]["backbone_skin"]["projection"]["kernel"]
    assert kernel is before["params"]["backbone_skin"]["projection"]["kernel"]
    assert "backbone_skin/params/projection/bias, backbone_skin/params/projection/kernel keep" in lines[0]


def test_weights_of_a_run_come_back(tmp_path):
    """A whole model written and put into another one: backbone, fusion and head."""
    variables = jax.tree.map(lambda leaf: leaf + 1, initial())
    weights.save_weights(tmp_path / "run.safetensors", variables, {"any": "thing"})
    after = weights.apply_weights(initial(), "skin", tmp_path / "run.safetensors")
    after = weights.apply_fusion_weights(after, tmp_path / "run.safetensors")
    jax.tree.map(np.testing.assert_array_equal, after, variables)
    assert json.loads((tmp_path / "run.json").read_text()) == {"any": "thing"}


def test_fusion_without_the_vectors_for_what_is_absent(tmp_path):
    """The reference has none, so its files lack them."""
    variables = jax.tree.map(lambda leaf: leaf + 1, initial())
    fusion = {name: part for name, part in variables["params"]["fusion"].items()}
    absent = [name for name, part in fusion.items() if "absent" in part]
    assert absent
    for name in absent:
        fusion[name] = {key: leaf for key, leaf in fusion[name].items() if key != "absent"}
    weights.save_weights(tmp_path / "x.safetensors", {"params": {"fusion": fusion}}, {})
    after = weights.apply_fusion_weights(initial(), tmp_path / "x.safetensors")
    for path, leaf in paths(after["params"]["fusion"]).items():
        assert (np.asarray(leaf) == (path[-1] != "absent")).all(), path
    assert not any(leaf.any() for leaf in jax.tree.leaves(after["params"]["head"]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"stem.0.weight": np.zeros(3, np.float32)}, "no path in a model.*python -m jmt_jax.convert"),
        ({"params/x": np.zeros(3, np.float32)}, "no path in a model"),
        ({"params//x": np.zeros(3, np.float32)}, "no path in a model"),
        ({"params/a/x": np.zeros(3, np.int32)}, "params/a/x as int32"),
        ({"batch_stats/a/x": np.zeros(3, np.float32)}, "holds no parameters"),
        (
            {"params/a/x": np.zeros(3, np.float32), "params/a/x/y": np.zeros(3, np.float32)},
            "inside another tensor",
        ),
        ({}, "holds no parameters"),
    ],
)
def test_files_that_are_no_weights_of_ours(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(BadDataError, match=message):
        weights.load_weights(tmp_path / "x.safetensors")


def test_torch_files_are_sent_to_the_converter():
    with pytest.raises(BadDataError, match="convert it first: python -m jmt_jax.convert"):
        weights.load_weights(FILES / "state_dict_zip.pt")


def test_names_of_weights(tmp_path):
    with pytest.raises(UsageError, match="not as 'x.npz'"):
        weights.save_weights(tmp_path / "x.npz", {}, {})


def test_prefixes_are_found_in_long_names():
    state = under("a.b.c.", regressor()) | {"x." * 300 + "regressor.0.bias": np.zeros(128, np.float32)}
    conversion = convert.convert(state, "affwild2_regressor")
    conversion.check()
    assert conversion.prefix == "a.b.c." and torch_networks.BACKBONE not in conversion.variables["params"]
    assert torch_files.flatten(state).keys() == state.keys()
