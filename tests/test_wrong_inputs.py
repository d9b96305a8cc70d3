"""Every command with every kind of wrong input: exit code 2 or 3, a sentence that names it and no trace."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys

import pytest
from test_compare import write_run
from test_results import make_table
from wrong_inputs_case import ROOT, cut, make_run, start, without

COMMANDS = {
    "jmt_jax.main",
    "jmt_jax.compare",
    "jmt_jax.convert",
    "data_pipelines.prepare",
    "launch.preflight",
    *(f"benchmarks.{name}" for name in "affwild2 chance checkpoints coverage extract models prepare".split()),
}
BIOVID = "--config=configs/biovid.py"
# Command, arguments, what the sentence names. {} is a folder that holds what `given` makes.
CASES = [
    ("jmt_jax.main", [], "--config"),
    ("jmt_jax.main", ["--nonsense=1"], "nonsense"),
    ("jmt_jax.main", [BIOVID, "--help=no", "--mode=fly"], "fly"),
    ("jmt_jax.main", ["--config={}/none.py"], "{}/none.py"),
    ("jmt_jax.main", ["--config={}"], "{}"),
    ("jmt_jax.main", ["--config={}/text.txt"], "{}/text.txt"),
    ("jmt_jax.main", ["--config={}/text.txt", "--help"], "{}/text.txt"),
    ("jmt_jax.main", ["--config={}/lacks.py"], "training.max_bad_steps"),
    ("jmt_jax.main", ["--config={}/lacks.py", "--mode=plan"], "training.max_bad_steps"),
    ("jmt_jax.main", ["--config={}/number.py"], "get_config"),
    ("jmt_jax.main", ["--config={}/fails.py"], "{}/fails.py"),
    ("jmt_jax.main", ["--config="], "configs/biovid.py"),
    ("jmt_jax.main", ["--config"], "config"),
    ("jmt_jax.main", [BIOVID, "--config.epochs=3"], "training.all.epochs"),
    ("jmt_jax.main", [BIOVID, "--config.data=3"], "data"),
    ("jmt_jax.main", [BIOVID, "--config.training.all.epochs"], "training.all.epochs"),
    ("jmt_jax.main", [BIOVID, "--config.training.all.epochs=x"], "x"),
    ("jmt_jax.main", [BIOVID, "--config.training.all.epochs=0"], "epochs=0"),
    ("jmt_jax.main", [BIOVID, "--config.protocol.folds=a"], "a"),
    ("jmt_jax.main", [BIOVID, "--config.data.dir={}/none"], "{}/none"),
    ("jmt_jax.main", [BIOVID, "--config.data.dir={}/text.txt"], "{}/text.txt"),
    ("jmt_jax.main", [BIOVID, "--config.data.dir={}/empty"], "{}/empty"),
    ("jmt_jax.main", ["--config=configs/affwild2.py", "--config.data.dir={}/empty"], "{}/empty"),
    ("jmt_jax.main", ["--config=configs/stress.py", "--config.data.dir={}/empty"], "{}/empty"),
    ("jmt_jax.main", [BIOVID, "--config.data.cache_dir={}/text.txt"], "{}/text.txt"),
    ("jmt_jax.main", [BIOVID, "--workdir={}/text.txt"], "{}/text.txt"),
    ("jmt_jax.main", [BIOVID, "--workdir=none://x/y"], "none://x/y"),
    ("jmt_jax.main", [BIOVID, "--config.training.backbones_from={}/empty"], "{}/empty"),
    ("jmt_jax.main", [BIOVID, "--config.model.physio.weights={}/text.txt"], "{}/text.txt"),
    ("jmt_jax.main", [BIOVID, "--process_id=1"], "process_count"),
    ("jmt_jax.main", [BIOVID, "--process_id=x"], "process_id"),
    ("jmt_jax.main", [BIOVID, "--stuck_seconds=-1"], "stuck_seconds"),
    ("jmt_jax.main", [BIOVID, "--shard=1"], "--shard=1"),
    ("jmt_jax.main", [BIOVID, "--mode=plan", "--topology=v9:4"], "v9:4"),
    ("jmt_jax.main", ["--mode=eval"], "--workdir"),
    ("jmt_jax.main", ["--mode=eval", "--workdir={}/none"], "{}/none"),
    ("jmt_jax.main", ["--mode=eval", "--workdir={}/empty"], "{}/empty"),
    ("jmt_jax.main", ["--mode=eval", "--workdir={}/text.txt"], "{}/text.txt"),
    ("jmt_jax.main", ["--mode=extract", "--workdir={}/empty"], "{}/empty"),
    ("jmt_jax.compare", [], "RUN"),
    ("jmt_jax.compare", ["--nonsense", "{}"], "--nonsense"),
    ("jmt_jax.compare", ["{}/none"], "{}/none"),
    ("jmt_jax.compare", ["{}/empty"], "{}/empty"),
    ("jmt_jax.compare", ["{}/text.txt"], "{}/text.txt"),
    ("jmt_jax.compare", ["{}/good", "--metric=f1"], "f1"),
    ("jmt_jax.compare", ["{}/good", "--split=all"], "all"),
    ("jmt_jax.convert", [], "--from"),
    ("jmt_jax.convert", ["--network=r2plus1d_18", "--from={}/none.pt", "--out={}/o.safetensors"], "none.pt"),
    ("jmt_jax.convert", ["--network=r2plus1d_18", "--from={}", "--out={}/o.safetensors"], "{}"),
    (
        "jmt_jax.convert",
        ["--network=r2plus1d_18", "--from={}/text.txt", "--out={}/o.safetensors"],
        "text.txt",
    ),
    ("jmt_jax.convert", ["--network=vgg", "--from={}/text.txt", "--out={}/o.safetensors"], "vgg"),
    ("jmt_jax.convert", ["--network=r2plus1d_18", "--from={}/text.txt", "--out={}/o.pt"], "o.pt"),
    ("data_pipelines.prepare", [], "--dataset"),
    ("data_pipelines.prepare", ["--dataset=ck", "--raw={}", "--out={}/o"], "ck"),
    ("data_pipelines.prepare", ["--dataset=biovid", "--raw={}/none", "--out={}/o"], "{}/none"),
    ("data_pipelines.prepare", ["--dataset=biovid", "--raw={}/text.txt", "--out={}/o"], "{}/text.txt"),
    ("data_pipelines.prepare", ["--dataset=biovid", "--raw={}/empty", "--out={}/text.txt"], "{}/text.txt"),
    ("data_pipelines.prepare", ["--dataset=e4", "--raw={}/empty", "--out={}/o", "--workers=0"], "workers"),
    ("data_pipelines.prepare", ["--dataset=e4", "--raw={}/empty", "--out={}/o", "--workers=x"], "x"),
    ("data_pipelines.prepare", ["--dataset=e4", "--raw={}/empty", "--out={}/o", "--max_damaged=2"], "2"),
    ("data_pipelines.prepare", ["--dataset=e4", "--raw={}/empty", "--out={}/o", "--shard=9"], "9"),
    *(
        ("data_pipelines.prepare", [f"--dataset={name}", "--raw={}/empty", "--out={}/o"], "{}/empty")
        for name in ("biovid", "affwild2", "e4")
    ),
    ("launch.preflight", ["--nonsense"], "--nonsense"),
    ("launch.preflight", ["--process_id=0"], "--coordinator"),
    ("launch.preflight", ["--timeout_seconds=x"], "x"),
    *((name, ["--nonsense"], "--nonsense") for name in sorted(COMMANDS) if name.startswith("benchmarks.")),
    ("benchmarks.affwild2", ["--row=all"], "all"),
    ("benchmarks.affwild2", ["--row=loader", "--rounds=0"], "--rounds"),
    ("benchmarks.chance", ["--grids=circle"], "circle"),
    ("benchmarks.chance", ["--seeds=1"], "--seeds"),
    ("benchmarks.checkpoints", ["--config=none"], "none"),
    ("benchmarks.checkpoints", ["--stage=none"], "none"),
    ("benchmarks.checkpoints", ["--steps=3", "--every=2"], "--steps=3"),
    ("benchmarks.checkpoints", ["--rounds=0"], "--rounds"),
    ("benchmarks.coverage", ["--repetitions=0"], "--repetitions"),
    ("benchmarks.coverage", ["--seed=-1"], "--seed"),
    ("benchmarks.coverage", ["--only=speed"], "speed"),
    ("benchmarks.extract", ["--seconds=-1"], "--seconds"),
    ("benchmarks.extract", ["--batch_size=0"], "--batch_size"),
    ("benchmarks.models", ["--rounds=none"], "none"),
    ("benchmarks.models", ["--rounds=0"], "--rounds"),
    ("benchmarks.models", ["--row=vgg"], "vgg"),
    ("benchmarks.prepare", ["--clips=0"], "--clips"),
    ("benchmarks.prepare", ["--crf=99"], "--crf"),
]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Wrong things to give."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("nothing of the kind\n")
    (folder / "number.py").write_text("def get_config():\n    return 3\n")
    (folder / "fails.py").write_text("def get_config():\n    return 1 / 0\n")
    (folder / "lacks.py").write_text(
        "from configs import stress\ndef get_config():\n    config = stress.get_config()\n"
        "    del config.training.max_bad_steps\n    return config\n"
    )
    write_run(folder / "good", make_table())
    return folder


def one_sentence(ended, words):
    """Asserts that a command has ended as one does that was asked for what cannot be."""
    said = [line for line in ended.err.splitlines() if line.strip()]
    assert ended.code in (2, 3), ended
    assert "Traceback" not in ended.err + ended.out and "usage: " not in ended.err, ended
    assert said and words in said[-1], ended


@pytest.mark.parametrize(("command", "arguments", "words"), CASES, ids=lambda x: str(x)[:60])
def test_a_wrong_input_is_a_sentence(given, cache_dir, monkeypatch, command, arguments, words):
    monkeypatch.setenv("JMT_CACHE_DIR", str(cache_dir))
    if command == "jmt_jax.main" and arguments and not any("workdir" in one for one in arguments):
        arguments = [*arguments, "--workdir={}/run"]
    before = {path.name for path in given.iterdir()}
    ended = start(command, *(one.replace("{}", str(given)) for one in arguments))
    one_sentence(ended, words.replace("{}", str(given)))
    # A run whose data turn out to be none leaves its log, and claims nothing.
    assert {path.name for path in given.iterdir()} - {"run"} == before - {"run"}
    assert not (given / "run" / "config.json").exists() and list((given / "empty").iterdir()) == []


def test_every_command_is_walked():
    found = set()
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).with_suffix("")
        if name.parts[0] in ("jmt_jax", "data_pipelines", "launch", "benchmarks", "configs"):
            tests = [node.test for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
            if any("__main__" in ast.unparse(test) for test in tests):
                found.add(".".join(name.parts))
    assert found == COMMANDS == {command for command, _, _ in CASES}


@pytest.fixture(scope="module")
def begun(cache_dir, tmp_path_factory):
    """A run without checkpoints."""
    return make_run(cache_dir, tmp_path_factory.mktemp("begun") / "run")


DAMAGE = [
    ("no checkpoints", lambda run: None, "checkpoint"),
    ("half a config.json", lambda run: cut(run / "config.json"), "config.json"),
    ("no object", lambda run: (run / "config.json").write_text("[1]"), "config.json"),
    ("an older config.json", lambda run: without(run / "config.json", "eval.select"), "eval.select"),
    ("no group", lambda run: without(run / "config.json", "protocol"), "protocol."),
    ("bytes", lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json"),
    ("half a record", lambda run: cut(run / "record.json"), "record.json"),
    ("a list for a record", lambda run: (run / "record.json").write_text("[]"), "record.json"),
    ("bytes for a record", lambda run: (run / "record.json").write_bytes(b"\xff\xfe"), "record.json"),
    ("no record", lambda run: (run / "record.json").unlink(), "record.json"),
    ("an empty checkpoint", lambda run: (run / "checkpoints/joint/3").mkdir(parents=True), "checkpoint"),
    ("a file for them", lambda run: (run / "checkpoints").write_text(""), "checkpoint"),
]


@pytest.mark.parametrize(("damage", "words"), [one[1:] for one in DAMAGE], ids=[one[0] for one in DAMAGE])
def test_an_evaluation_of_a_damaged_run_is_a_sentence(begun, tmp_path, damage, words):
    run = shutil.copytree(begun, tmp_path / "run")
    damage(run)
    one_sentence(start("jmt_jax.main", "--mode=eval", f"--workdir={run}"), words)


@pytest.mark.parametrize("name", ["half a config.json", "no object", "bytes", "half a record"])
def test_a_training_does_not_go_on_in_a_damaged_run(begun, tmp_path, name):
    run = shutil.copytree(begun, tmp_path / "run")
    arguments = [f"--config={ROOT}/jmt_jax/run_config.py:{begun}/config.json", f"--workdir={run}"]
    _, damage, words = next(one for one in DAMAGE if one[0] == name)
    damage(run)
    kept = (run / "config.json").read_bytes()
    one_sentence(start("jmt_jax.main", *arguments), words)
    assert (run / "config.json").read_bytes() == kept


@pytest.mark.parametrize("name", ["config.json", "results.json", "predictions/test.csv"])
def test_damaged_results_are_not_compared(given, tmp_path, name):
    for number, damage in enumerate(
        (
            cut,
            lambda path: path.write_bytes(b"\xff\xfe\x00"),
            lambda path: path.write_text("[]"),
            lambda path: path.write_text("{}"),
            lambda path: path.unlink(),
        )
    ):
        run = shutil.copytree(given / "good", tmp_path / f"run_{number}")
        damage(run / name)
        one_sentence(start("jmt_jax.compare", str(given / "good"), str(run)), str(run))


def test_the_scripts_of_launch_refuse_in_a_sentence():
    for script, *arguments, words in (
        ("local.sh", "behind --"),
        ("local.sh", "--processes=none", "--", "--help", "none"),
        ("local.sh", "--nonsense", "--nonsense"),
        ("on_worker.sh", "fly", "start, follow or stop"),
        ("tpu_pod.sh", "fly", "fly"),
        ("tpu_pod.sh", "run", "--name"),
        ("slurm/submit.sh", "fly", "fly"),
        ("slurm/submit.sh", "train", "--nodes=none", "--", "--config=configs/biovid.py", "none"),
    ):
        command = ["bash", f"launch/{script}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and words in done.stderr.splitlines()[-1], (command, done)


def test_a_process_of_its_own_ends_so_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seeds": [0]})[:-1])
    for arguments, words in (
        (["-m", "jmt_jax.main", "--mode=eval", f"--workdir={tmp_path}"], str(tmp_path)),
        (["-m", "jmt_jax.compare", str(tmp_path)], str(tmp_path)),
    ):
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 3 and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1 and words in done.stderr, done.stderr
