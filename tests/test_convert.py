from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch_writer import WRITERS, call, zip_of

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import convert, torch_files, torch_names, torch_networks, weights
from jmt_jax.models import build_model
from jmt_jax.torch_networks import NETWORKS

FILES = Path(__file__).parent / "data" / "torch"


def physio(features=8, steps=3, channels=2):
    """A small physio_conv1d in torch's names: 43 samples leave three steps."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (32, channels, 5),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 5),
        "conv2.bias": (64,),
        "fc1.weight": (features, 64 * steps),
        "fc1.bias": (features,),
        "fc2.weight": (2, features),
        "fc2.bias": (2,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def regressor():
    rng = np.random.default_rng(0)
    shapes = {
        "regressor.0.weight": (128, 512),
        "regressor.0.bias": (128,),
        "regressor.3.weight": (2, 128),
        "regressor.3.bias": (2,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def under(prefix, state):
    return {prefix + name: array for name, array in state.items()}


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def paths(tree, names=()):
    """Path -> leaf."""
    if not isinstance(tree, dict):
        return {names: tree}
    return {path: leaf for name, part in tree.items() for path, leaf in paths(part, (*names, name)).items()}


# --- the networks ---


@pytest.mark.parametrize("name", NETWORKS)
def test_rules_fill_exactly_our_modules(name):
    entry = NETWORKS[name]
    plan = entry.plan({}, entry.streams)
    ours = [path for rule in plan.rules for path in rule.ours]
    assert len(ours) == len(set(ours))
    assert set(ours) == {path for path in paths(convert._template(plan)) if path[1] in parts_of(plan)}
    assert len({rule.torch for rule in plan.rules}) == len(plan.rules)


def parts_of(plan):
    return {path[1] for rule in plan.rules for path in rule.ours}


# --- the command ---


@pytest.mark.parametrize("format_name", WRITERS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: under("module.", state),
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"m": np.zeros(3)}}}},
        lambda state: {"model": under("module.", state)},
        lambda state: {**under("vision.", {"stem.0.weight": np.zeros(3)}), **under("physio.", state)},
    ],
    ids=["bare", "module", "state_dict", "model", "all backbones"],
)
def test_every_usual_wrapping(tmp_path, capsys, format_name, wrap):
    source = WRITERS[format_name](tmp_path / "physio.pth", wrap(physio()))
    out = tmp_path / "new" / "physio.safetensors"
    assert run(f"--from={source}", "--network=physio_conv1d", f"--out={out}") == 0
    rules = torch_names.under(torch_names.conv1d(), "", ("backbone",))
    expected, _, _ = torch_names.convert(rules, physio())
    jax.tree.map(np.testing.assert_array_equal, weights.load_weights(out), expected)
    assert {path.name for path in out.parent.iterdir()} == {"physio.safetensors", "physio.json"}
    printed = capsys.readouterr().out
    assert "mapped: 6 of 6" in printed and "fc2.bias" in printed and "missing: nothing" in printed


def test_from_safetensors(tmp_path):
    save_file(physio(), tmp_path / "x.safetensors")
    arguments = (f"--from={tmp_path / 'x.safetensors'}", "--network=physio_conv1d")
    assert run(*arguments, f"--out={tmp_path / 'out.safetensors'}") == 0
    assert set(load_file(tmp_path / "out.safetensors")) == {
        f"params/backbone/{layer}/{leaf}"
        for layer in ("conv1", "conv2", "projection")
        for leaf in ("kernel", "bias")
    }


def test_config_beside_the_weights(tmp_path):
    source = WRITERS["zip"](tmp_path / "x.pt", under("module.", physio()))
    run(f"--from={source}", "--network=physio_conv1d", f"--out={tmp_path / 'y.safetensors'}")
    config = json.loads((tmp_path / "y.json").read_text())
    assert config.pop("source")["file"] == "x.pt"
    assert config == {
        "network": "physio_conv1d",
        "model": {"backbone": {"name": "conv1d", "channels": [32, 64], "features": 8}},
        "prefix": "module.",
        "tensors": 6,
        "parameters": sum(array.size for name, array in physio().items() if "fc2" not in name),
        "statistics": 0,
        "left_out": dict.fromkeys(
            ["module.fc2.weight", "module.fc2.bias"], "the classifier of the data it was trained on"
        ),
    }


def test_precision_and_other_layouts(tmp_path):
    state = {
        name: array.astype(np.float64 if "1" in name else np.float16) for name, array in physio().items()
    }
    conversion = convert.convert(state, "physio_conv1d")
    conversion.check()
    for path, leaf in paths(conversion.variables).items():
        assert leaf.dtype == np.float32, path


def test_dead_weights_are_named():
    state = {
        name: np.zeros((1, 1), np.float32)
        for name in (
            "module.fc.weight",
            "module.layer1.0.conv1.0.1.num_batches_tracked",
            "module.extra",
            "ema.x",
        )
    }
    conversion = convert.convert(state | {"module.stem.0.weight": np.zeros(1)}, "r2plus1d_18")
    assert conversion.left_out == {
        "module.fc.weight": "the classifier of the data it was trained on",
        "module.layer1.0.conv1.0.1.num_batches_tracked": "torch's counter of batches, which nothing reads",
        "module.extra": "no part of this network",
        "ema.x": "not under module.",
    }


def failing(tmp_path, capsys, state, network="physio_conv1d", *more):
    """The message of a conversion that is refused, and that nothing is left behind."""
    source = WRITERS["zip"](tmp_path / "x.pt", state)
    assert run(f"--from={source}", f"--network={network}", f"--out={tmp_path / 'y.safetensors'}", *more) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    return capsys.readouterr()


def test_missing_weights(tmp_path, capsys):
    state = physio()
    del state["conv2.weight"], state["conv2.bias"]
    printed = failing(tmp_path, capsys, state)
    assert "missing: 2: conv2.weight, conv2.bias" in printed.out
    assert "lacks 2 of the 6 tensors of physio_conv1d: conv2.weight, conv2.bias" in printed.err


def test_another_network_is_suggested(tmp_path, capsys):
    printed = failing(tmp_path, capsys, physio() | {"stem.0.weight": np.zeros(1)}, "r3d_18")
    assert "that it belongs to (physio_conv1d)" in printed.err


def test_nothing_of_the_network(tmp_path, capsys):
    printed = failing(tmp_path, capsys, {"a": np.zeros(2)}, "affwild2")
    assert "none of the names of affwild2; it holds a" in printed.err
    printed = failing(tmp_path, capsys, {"epoch": 1}, "affwild2")
    assert "no tensor at all" in printed.err


def test_wrong_shapes_name_both(tmp_path, capsys):
    state = physio() | {"conv2.weight": np.zeros((64, 16, 5), np.float32)}
    printed = failing(tmp_path, capsys, state)
    assert "conv2.weight has shape (64, 16, 5) in the file, and (64, 32, 5) in physio_conv1d" in printed.err
    assert "wrong shape: conv2.weight is (64, 16, 5), expected (64, 32, 5)" in printed.out


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (32, 0, 5), (1, 1, 1, 1)])
@pytest.mark.parametrize("name", ["conv1.weight", "fc1.weight"])
def test_shapes_of_another_kind(name, shape):
    conversion = convert.convert(physio() | {name: np.zeros(shape, np.float32)}, "physio_conv1d")
    assert conversion.misshapen[name][0] == shape and not conversion.variables
    with pytest.raises(BadDataError, match="has shape"):
        conversion.check()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((64,), np.nan, np.float32), "infinite numbers or numbers that are none"),
        (np.full((64,), 1e300), "infinite numbers"),
        (np.zeros(64, np.int64), "holds int64, not floating numbers"),
    ],
)
def test_values_that_are_no_weights(tmp_path, capsys, values, message):
    assert message in failing(tmp_path, capsys, physio() | {"conv2.bias": values}).err


def test_two_copies_need_a_choice(tmp_path, capsys):
    copies = {"model": physio(), "ema": under("module.", physio(features=5))}
    printed = failing(tmp_path, capsys, copies)
    assert "2 times, under model., ema.module.; choose with --prefix=" in printed.err
    arguments = (
        f"--from={tmp_path / 'x.pt'}",
        "--network=physio_conv1d",
        f"--out={tmp_path / 'y.safetensors'}",
    )
    assert run(*arguments, "--prefix=ema.module.") == 0
    assert (
        weights.load_weights(tmp_path / "y.safetensors")["params"]["backbone"]["projection"]["bias"].size == 5
    )
    assert "not under ema.module.: model.conv1.weight" in capsys.readouterr().out
    assert run(*arguments, "--prefix=nowhere.") == 3


def test_streams_get_the_users_names():
    entry = NETWORKS["affwild2_concat"]
    state = {
        rule.torch: array.astype(np.float32)
        for rule, array in zip(
            entry.plan({}, entry.streams).rules,
            torch_names.export(
                entry.plan({}, entry.streams).rules, convert._template(entry.plan({}, entry.streams))
            ).values(),
            strict=True,
        )
    }
    conversion = convert.convert(under("module.", state), "affwild2_concat", streams=["face", "voice"])
    conversion.check()
    assert conversion.config()["model"]["streams"] == ["face", "voice"]
    for streams, network in ((["a"], "affwild2"), (["a", "a"], "affwild2"), (["a"], "r3d_18")):
        with pytest.raises(UsageError, match="streams are"):
            convert.convert({}, network, streams=streams)


def test_usage(tmp_path, capsys):
    source = WRITERS["zip"](tmp_path / "x.pt", physio())
    save_file(physio(), tmp_path / "x.safetensors")
    good = {"--from": source, "--network": "physio_conv1d", "--out": tmp_path / "y.safetensors"}
    for wrong, message in (
        ({"--network": "resnet1000"}, "there is no network 'resnet1000'; known are r2plus1d_18"),
        ({"--from": tmp_path / "none.pt"}, "there is no file"),
        ({"--out": tmp_path / "y.npz"}, "ends with .safetensors"),
        ({"--out": source / "y.safetensors"}, "usage error"),
        ({"--streams": "a,b"}, "physio_conv1d takes none"),
        ({"--from": tmp_path / "x.safetensors", "--out": tmp_path / "x.safetensors"}, "the very file"),
    ):
        assert run(*(f"{name}={value}" for name, value in (good | wrong).items())) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        run("--from=x")
    assert caught.value.code == 2


def test_the_command_itself(tmp_path):
    """In a process of its own: the help, and a file that would run code."""
    command = [sys.executable, "-m", "jmt_jax.convert"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for name, entry in NETWORKS.items():
        assert name in shown and entry.summary in shown
    assert "exit codes: 0 done, 2 usage, 3 bad data" in shown
    witness = tmp_path / "executed"
    evil = call("builtins.eval", f"open({str(witness)!r}, 'w')")
    path = zip_of(tmp_path / "evil.pt", b"\x80\x02" + evil + b".", {})
    arguments = [f"--from={path}", "--network=jmt", f"--out={tmp_path / 'x.safetensors'}"]
    refused = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert refused.returncode == 3 and not witness.exists()
    assert refused.stderr.startswith("data error: evil.pt holds builtins.eval, which is not a tensor")


def test_help_waits_for_no_jax():
    program = "import sys, jmt_jax.convert; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# --- weights into a model ---


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
