"""Processes: how they are found, what they say, and that their number changes neither batches nor losses."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from data_pipelines.errors import UsageError
from jmt_jax import distributed, first_lines
from jmt_jax.distributed import Options
from jmt_jax.runtime import Runtime

ROOT = Path(__file__).resolve().parent.parent
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1,n2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(coordinator="h:1"), "belong together"),
        (Options(process_id=0), "belong together"),
        (Options(mode="off", coordinator="h:1", process_id=0, process_count=2), "--distributed=off"),
        (Options(mode="maybe"), "auto, off"),
        (Options(coordinator="h", process_id=0, process_count=2), "host:port"),
        (Options(coordinator="h:1", process_id=2, process_count=2), "begin at 0"),
        (Options(timeout_seconds=1), "at least 5"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(UsageError, match=words):
        distributed.initialise(options)


def test_who_says_which_process_this_is(tmp_path):
    def source(options: Options | None = None, **environment):
        return distributed.find_source(options or Options(), environment, tmp_path)

    assert source() == "one process" and source(Options(mode="off"), **SRUN) == "off"
    flags = Options(coordinator="h:1", process_id=0, process_count=2)
    assert source(flags, **SRUN, SLURM_NTASKS="2") == "flags"
    assert source(**SRUN, SLURM_NTASKS="2") == "SLURM" and source(**SRUN, SLURM_NTASKS="1") == "one process"
    assert source(SLURM_JOB_ID="7", SLURM_NTASKS="2") == "one process"  # a shell in an allocation
    (tmp_path / "accel0").touch()
    has_libtpu = importlib.util.find_spec("libtpu") is not None
    assert source() == ("Cloud TPU" if has_libtpu else "one process")
    assert source(JAX_PLATFORMS="cpu") == "one process"


def test_a_pod_started_on_one_host_only_is_warned_of():
    pod = {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}
    assert "speaks of 4 processes, but this run has 1" in distributed.too_few_processes(1, pod)
    assert "SLURM_NTASKS speaks of 8" in distributed.too_few_processes(2, {"SLURM_NTASKS": "8"})
    assert distributed.too_few_processes(4, pod) == distributed.too_few_processes(1, {}) == ""
    assert distributed.too_few_processes(1, {"TPU_WORKER_HOSTNAMES": "localhost", "SLURM_NTASKS": "1"}) == ""
    assert not distributed.too_few_processes(
        1, {"TPU_WORKER_HOSTNAMES": "WARNING: unknown hosts, please set"}
    )


def test_a_process_that_is_alone_raises_as_ever():
    with pytest.raises(UsageError), distributed.ends_with_others(Options()):
        raise UsageError("no")


def test_the_first_block_says_how_the_batch_is_shared(cache_dir):
    config = tiny.shrunk("biovid", cache_dir, training__physio__global_batch_size=6)
    lines = first_lines.batch_arithmetic(config, Runtime.create("jit", jax.devices()[:2]))
    assert "training.visual.global_batch_size: 4 global, 4 per process, 2 per device" in lines
    lines = first_lines.batch_arithmetic(config, Runtime.create("jit", jax.devices()[:4]))
    assert any("cannot be shared equally by 4" in line for line in lines)


def test_wide_matrices_are_cut_along_the_model_axis_and_made_so():
    runtime = Runtime.create("jit", jax.devices()[:4], model_axis_devices=2)
    assert runtime.num_row_shards == 2 and "2 (data) x 2 (model)" in runtime.mesh_text

    def make(key):
        wide = jax.random.normal(key, (128, 256))
        return {"fusion": {"kernel": wide, "bias": wide[0]}, "backbone_a": {"kernel": wide}}

    made = runtime.compile_once(make)(jax.random.key(0))
    assert made["fusion"]["kernel"].addressable_shards[0].data.shape == (128, 128)
    assert made["fusion"]["bias"].sharding.is_fully_replicated
    assert made["backbone_a"]["kernel"].sharding.is_fully_replicated

    def step(state, batch):
        out = batch @ state["fusion"]["kernel"]
        return jax.tree.map(lambda x: x * 0.5, state), out.sum()

    batch = np.ones((8, 128), np.float32)
    halved, total = runtime.compile(step)(made, runtime.put_batch(batch))
    assert halved["fusion"]["kernel"].sharding == made["fusion"]["kernel"].sharding
    alone = Runtime.create("jit", jax.devices()[:1])
    _, expected = alone.compile(step)(alone.put_state(jax.device_get(made)), alone.put_batch(batch))
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    for options in (
        {"parallelism": "pmap", "model_axis_devices": 2},
        {"parallelism": "jit", "model_axis_devices": 3},
    ):
        with pytest.raises(UsageError, match="model_axis_devices"):
            Runtime.create(**options, devices=jax.devices()[:4])


_ENVIRONMENT = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}


def _launch(processes: int, devices: int, workdir: Path, options: list[str]) -> list[str]:
    """The command of a run by launch/local.sh."""
    launch = ["bash", "launch/local.sh", f"--processes={processes}", f"--devices={devices}"]
    launch += ["--timeout_seconds=300", f"--python={sys.executable}", "--"]
    return [*launch, *options, f"--workdir={workdir}"]


def _rows(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _run(processes: int, devices: int, workdir: Path, options: list[str]) -> list[dict]:
    """Metrics of a run by launch/local.sh."""
    done = subprocess.run(
        _launch(processes, devices, workdir, options),
        cwd=ROOT,
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Nor does the coordination service print one when all is over.
    assert "Traceback" not in done.stderr and not re.search(r"^\[\d\] [EF]\d{4} ", done.stderr, re.M)
    assert f"{processes * devices} device(s)" in done.stderr and f"of {processes}" in done.stderr
    assert sorted(path.name for path in workdir.glob("*.json")) == [
        "config.json",
        "record.json",
        "results.json",
    ]
    return _rows(workdir)


def _stop(processes: int, devices: int, workdir: Path, options: list[str], rows: int) -> None:
    """Begins or goes on with a run, and asks it to stop once there are so many rows of metrics."""
    log = workdir.with_name(f"{workdir.name}_{rows}.log")
    with log.open("w") as file:
        command = _launch(processes, devices, workdir, options)
        process = subprocess.Popen(command, cwd=ROOT, env=_ENVIRONMENT, stdout=file, stderr=file)
        while len(_rows(workdir)) < rows:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 75, log.read_text()[-3000:]
    said = log.read_text()
    assert said.count("is saved at step") == processes and not (workdir / "done").exists()


def _assert_close(one: list[dict], other: list[dict], *, validation: float = 1e-5) -> None:
    assert len(one) == len(other)
    for expected, found in zip(one, other, strict=True):
        assert expected.keys() == found.keys() and expected["step"] == found["step"]
        within = 1e-5 if expected["part"] == "train" else validation
        assert found["loss"] == pytest.approx(expected["loss"], rel=within), expected


# Dropout draws by a row's place in the global batch: the batches have to be the same, row for row.
_JOINT = ["--config.training.stages=joint", "--config.model.streams=physio"]


@pytest.mark.slow
def test_2_x_2_1_x_4_and_4_x_1_give_the_same_losses(cache_dir, tmp_path):
    options = ["--config=configs/biovid.py", *tiny.arguments("biovid", cache_dir), *_JOINT]
    options += ["--config.training.joint.epochs=2"]
    expected = _run(1, 4, tmp_path / "1_4", options)
    assert len(expected) == 4
    for processes, devices in ((2, 2), (4, 1)):
        _assert_close(expected, _run(processes, devices, tmp_path / f"{processes}_{devices}", options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whole", "stops", "epochs", "validation"),
    [
        pytest.param((2, 2), [(2, 2, 2), (1, 4, 8)], 40, 1e-5, id="processes"),
        # A sum in another order changes the biases before batch norms, whose gradient is all rounding; batch
        # statistics take that out again, the running ones of validation follow later.
        pytest.param((1, 2), [(2, 2, 2)], 20, 1e-3, id="devices"),
    ],
)
def test_a_run_goes_on_with_another_number_and_back(cache_dir, tmp_path, whole, stops, epochs, validation):
    options = ["--config=configs/biovid.py", *tiny.arguments("biovid", cache_dir), *_JOINT]
    options += [f"--config.training.joint.epochs={epochs}", "--config.training.joint.eval_every_epochs=4.0"]
    expected, workdir = _run(*whole, tmp_path / "whole", options), tmp_path / "changing"
    for processes, devices, rows in stops:
        _stop(processes, devices, workdir, options, rows)
    _assert_close(expected, _run(*whole, workdir, options), validation=validation)


@pytest.mark.slow
def test_jit_and_pmap_over_two_processes_give_the_same_losses(cache_dir, tmp_path):
    options = ["--config=configs/biovid.py", *tiny.arguments("biovid", cache_dir)]
    options += ["--config.training.stages=fusion", "--config.model.streams=physio"]
    options += ["--config.training.fusion.epochs=3", "--config.training.extract=True"]
    expected = _run(2, 2, tmp_path / "jit", options)
    options += [f"--config.data.cache_dir={tmp_path / 'another_cache'}", "--config.parallelism=pmap"]
    _assert_close(expected, _run(2, 2, tmp_path / "pmap", options))
