"""The command line, as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tiny


def _run(*arguments: str, cwd=tiny.CONFIGS.parent, **environment: str) -> subprocess.CompletedProcess:
    # One device, and programs compiled by the other tests are not waited for again.
    variables = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", **environment}
    return subprocess.run(
        [sys.executable, "-m", "jmt_jax.main", *arguments],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_from_nothing_to_results_and_evaluated_again(cache_dir, tmp_path):
    options = [
        *tiny.arguments("biovid", cache_dir),
        "--config.model.streams=physio",
        "--config.model.fusion=concat",
        "--config.training.stages=joint",
    ]
    workdir = tmp_path / "run"
    done = _run("--config=configs/biovid.py", *options, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert f"run folder: {workdir}" in done.stderr and "say nothing about biovid" in done.stderr
    log = (workdir / "log.txt").read_text()
    assert (workdir / "results.json").exists() and "steps/s" in log
    (begins,) = (line for line in log.splitlines() if "stage joint: " in line and "global batch" in line)
    assert "epochs of" in begins and "learning rate" in begins and "parameters_joint.txt" in begins
    assert "trained: " in (workdir / "parameters_joint.txt").read_text() and "| " not in log
    # Whoever reads what it says leaves after the first line.
    again = subprocess.run(
        f"{sys.executable} -m jmt_jax.main --mode=eval --workdir={workdir} --config.eval.split=validation "
        "2>&1 | head -1; exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        cwd=tiny.CONFIGS.parent,
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0 and again.stdout.count("\n") == 1, again
    assert (workdir / "evaluations" / "validation_best" / "results_validation.json").exists()
    assert "done in" in (workdir / "evaluations" / "log.txt").read_text().splitlines()[-1]
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    other = _run("--mode=eval", f"--workdir={workdir}", "--config.protocol.seed=7")
    assert other.returncode == 2 and "protocol.seed" in other.stderr and "Traceback" not in other.stderr
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_help_answers_without_importing_jax():
    done = _run("--help", JAX_PLATFORMS="nonsense")
    assert done.returncode == 0
    for word in ("--mode", "--workdir", "--config", "configs/biovid.py", "Exit codes"):
        assert word in done.stdout


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    done = _run("--config=configs/biovid.py", f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "file" in done.stderr and "cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--config=configs/biovid.py"),
        (["--config=configs/biovd.py"], 2, "configs/biovd.py"),
        (["--config=configs/biovid.py:papr"], 2, "sample or paper"),
        (["--config=configs/biovid.py", "--config.model.fusoin=concat"], 2, "'model.fusion'"),
        (["--config=configs/biovid.py", "--config.training.joint.learning_rte=1"], 2, "learning_rate"),
        (["--config=configs/biovid.py", "--config.protocol.seed=abc"], 2, "abc"),
        (["--config=configs/biovid.py", "train"], 2, "'train'"),
        (["--confg=configs/biovid.py"], 2, "confg"),
        (["--mode=eval", "--workdir=nowhere"], 2, "nowhere"),
        (["--config=configs/affwild2.py", "--mode=extract", "--shard=2/2"], 2, "i/n"),
        (["--config=configs/affwild2.py", "--shard=0/2"], 2, "--mode=extract"),
        (["--config=configs/biovid.py", "--watch"], 2, "--mode=eval"),
        (["--config=configs/biovid.py", "--config.data.dir=nowhere"], 3, "nowhere"),
        (["--config=configs/biovid.py", "--config.data.dir=tests"], 3, "samples.csv"),
        (["--config=configs/stress.py", "--config.data.dir=configs"], 3, "configs"),
    ],
)
def test_what_goes_wrong_is_a_sentence(tmp_path, arguments, code, words):
    done = _run(*arguments, *([] if "--mode=eval" in arguments else [f"--workdir={tmp_path / 'run'}"]))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and words in done.stderr
