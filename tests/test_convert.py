"""Weights of torch become ours by the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from convert_case import paths, physio, run, under
from safetensors.numpy import load_file, save_file
from torch_writer import WRITERS, call, zip_of

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import convert, torch_names, weights
from jmt_jax.torch_networks import NETWORKS


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
