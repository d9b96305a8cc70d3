"""The scripts of launch/: dry runs word for word, and runs against fake gcloud and sbatch, which can fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "launch"
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "launch").rglob("*")
    if path.suffix in (".sh", ".sbatch")
)

# Writes its arguments down as a line; ends with what FAIL says for a call of that number or a worker.
FAKE = """#!/usr/bin/env python3
import json, os, sys
log = os.environ["FAKE_LOG"]
with open(log, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
call = sum(1 for _ in open(log))
codes = json.loads(os.environ.get("FAKE_CODES", "{}"))
if str(call) in codes:
    print(f"Command execution on worker 1 failed with {codes[str(call)]}.", file=sys.stderr)
    sys.exit(codes[str(call)])
if os.path.basename(sys.argv[0]) == "sbatch":
    print(100 + call)
"""


@pytest.fixture
def fakes(tmp_path):
    """Runs a script with fakes in place of the programs that reach out; returns (process, calls)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcloud", "sbatch", "srun", "scontrol"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    log = tmp_path / "calls.jsonl"

    def run(*command: str, codes: dict[int, int] | None = None, **variables: str):
        log.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "FAKE_LOG": str(log),
            "FAKE_CODES": json.dumps(codes or {}),
            **variables,
        }
        done = subprocess.run(
            ["bash", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return done, calls

    return run


POD = ["--name=pod", "--zone=us-west4-a"]
RUN = ["--config=configs/biovid.py:paper", "--workdir=/mnt/shared/a run"]
DRY_RUNS = {
    "local": ["launch/local.sh", "--processes=2", "--devices=2", "--port=4000", "--", *RUN],
    "pod_create": ["launch/tpu_pod.sh", "create", *POD, "--project=p", "--spot"],
    "pod_sync": ["launch/tpu_pod.sh", "sync", *POD],
    "pod_preflight": ["launch/tpu_pod.sh", "preflight", *POD, "--shared=/mnt/shared"],
    "pod_run": ["launch/tpu_pod.sh", "run", *POD, "--shared=/mnt/shared", "--", *RUN],
    "pod_logs": ["launch/tpu_pod.sh", "logs", *POD],
    "pod_stop": ["launch/tpu_pod.sh", "stop", *POD],
    "pod_delete": ["launch/tpu_pod.sh", "delete", *POD],
    "slurm_train": ["launch/slurm/submit.sh", "train", "--nodes=2", "--tasks_per_node=4", "--gpus_per_task=1",
                    "--partition=gpu", "--account=me", "--", *RUN],
    "slurm_folds": ["launch/slurm/submit.sh", "folds", "--folds=5", "--seeds=2", "--", *RUN],
    "slurm_prepare": ["launch/slurm/submit.sh", "prepare", "--shards=4", "--", "--dataset=biovid",
                      "--raw=a b", "--out=c"],
    "slurm_extract": ["launch/slurm/submit.sh", "extract", "--shards=2", "--", *RUN],
}  # fmt: skip


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_prints_exactly_what_would_be_done_and_does_nothing(fakes, name):
    script, *arguments = DRY_RUNS[name]
    place = arguments.index("--") if "--" in arguments else len(arguments)
    done, calls = fakes(script, *arguments[:place], "--dry_run", *arguments[place:], XLA_FLAGS="", PYTHON="")
    assert done.returncode == 0, done.stderr
    assert not calls
    assert done.stdout == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", [name for name in DRY_RUNS if name.startswith("pod") and name != "pod_sync"])
def test_the_pod_script_does_what_its_dry_run_prints(fakes, name):
    done, calls = fakes(*DRY_RUNS[name])
    assert done.returncode == 0, done.stderr
    # Words in quotes as a shell reads them; a start has a number of its own.
    import shlex

    wanted = [shlex.split(line) for line in (GOLDEN / f"{name}.txt").read_text().splitlines()]
    strip = lambda words: [word for word in words if "on_worker.sh start" not in word]  # noqa: E731
    assert [strip(call) for call in calls] == [strip(line) for line in wanted]


def test_sync_copies_the_commit(fakes):
    done, calls = fakes(*DRY_RUNS["pod_sync"])
    assert done.returncode == 0, done.stderr
    assert [call[4] for call in calls] == ["scp", "ssh"]
    assert "--worker=all" in calls[0] and "pip install" in calls[1][-2] + calls[1][-1]


def test_what_fails_on_a_worker_is_tried_again_and_then_given_up(fakes):
    quick = ["--retries=2", "--retry_seconds=0"]
    done, calls = fakes("launch/tpu_pod.sh", "preflight", *POD, *quick, codes={1: 255})
    assert done.returncode == 0 and len(calls) == 2 and "attempt 2" in done.stderr
    done, calls = fakes("launch/tpu_pod.sh", "preflight", *POD, *quick, codes={1: 3, 2: 3, 3: 3})
    assert done.returncode == 3 and len(calls) == 3 and "worker 1" in done.stderr


def test_a_run_that_was_stopped_goes_on_and_one_in_error_does_not(fakes):
    quick = ["--retries=2", "--retry_seconds=0"]
    command = ["launch/tpu_pod.sh", "run", *POD, *quick, "--", *RUN]
    # preflight, start, follow (a worker was taken away), stop, start, follow
    done, calls = fakes(*command, codes={3: 75})
    assert done.returncode == 0, done.stderr
    said = [next(word.split()[2] for word in call if word.startswith("--command=bash")) for call in calls[1:]]
    assert said == ["start", "follow", "stop", "start", "follow"] and "goes on" in done.stderr
    done, calls = fakes(*command, codes={3: 2})
    assert done.returncode == 2 and len(calls) == 3


def test_a_worker_keeps_a_run_apart_from_the_connection(tmp_path, fakes):
    (tmp_path / "launch").mkdir()
    script = shutil.copy(ROOT / "launch" / "on_worker.sh", tmp_path / "launch")
    program = tmp_path / "python"
    program.write_text('#!/usr/bin/env bash\necho "got $*"\nsleep 0.5\nexit 75\n')
    program.chmod(0o755)
    done, _ = fakes(str(script), "start", "7", "--config=a b", PYTHON=str(program))
    assert done.returncode == 0, done.stderr
    assert fakes(str(script), "start", "7", "x", PYTHON=str(program))[0].returncode == 0
    other, _ = fakes(str(script), "start", "8", "x", PYTHON=str(program))
    assert other.returncode == 2 and "is going on" in other.stderr
    done, _ = fakes(str(script), "follow")
    assert done.returncode == 75 and "got -u -m jmt_jax.main --config=a b" in done.stdout


@pytest.mark.parametrize("kind", ["train", "folds", "prepare", "extract"])
def test_submitting_and_the_job_that_waits_for_it(fakes, kind):
    done, calls = fakes(*DRY_RUNS[f"slurm_{kind}"])
    assert done.returncode == 0, done.stderr
    assert all(Path(ROOT, next(word for word in call if word.endswith(".sbatch"))).exists() for call in calls)
    if kind != "train":
        assert "--dependency=afterok:101" in calls[1] and "job 102" in done.stdout
    failed, calls = fakes(*DRY_RUNS[f"slurm_{kind}"], codes={1: 1})
    assert failed.returncode == 1 and len(calls) == 1


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (75, True), (134, True)])
def test_a_stopped_job_goes_back_into_the_queue(fakes, code, requeued):
    job = {"SLURM_JOB_ID": "9", "PYTHON": "python"}
    done, calls = fakes("launch/slurm/train.sbatch", *RUN, codes={1: code}, **job)
    assert done.returncode == code
    assert calls[0][-2:] == RUN and "jmt_jax.main" in calls[0]
    assert (["scontrol", "requeue", "9"] in calls) == requeued
    tired, calls = fakes("launch/slurm/train.sbatch", *RUN, codes={1: code}, SLURM_RESTART_COUNT="100", **job)
    assert tired.returncode == code and len(calls) == 1


def test_tasks_of_arrays_know_which_they_are(fakes):
    job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "7", "PYTHON": "python"}
    done, calls = fakes(
        "launch/slurm/folds.sbatch", RUN[0], JMT_FOLDS="5", JMT_WORKDIR="w", codes={1: 75}, **job
    )
    assert calls[0][-3:] == [
        "--config.protocol.folds=(2,)",
        "--config.seeds=(1,)",
        "--workdir=w/fold_2_seed_1",
    ]
    assert calls[1] == ["scontrol", "requeue", "8_7"] and done.returncode == 75
    module = "data_pipelines.prepare"
    done, calls = fakes("launch/slurm/shards.sbatch", module, "--out=c", SLURM_ARRAY_TASK_COUNT="9", **job)
    assert calls[0][-3:] == [module, "--out=c", "--shard=7/9"] and done.returncode == 0
    done, calls = fakes("launch/slurm/shards.sbatch", module, "--out=c", SLURM_JOB_ID="9", PYTHON="python")
    assert calls[0][-2:] == [module, "--out=c"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["launch/local.sh"], "--config"),
        (["launch/local.sh", "--processes=none", "--", "x"], "none"),
        (["launch/local.sh", "--proceses=2", "--", "x"], "--proceses=2"),
        (["launch/tpu_pod.sh", "fly"], "fly"),
        (["launch/tpu_pod.sh", "create"], "--zone"),
        (["launch/tpu_pod.sh", "run", *POD, "--", "--config=x"], "--workdir"),
        (["launch/slurm/submit.sh", "train", "--", "--config=x"], "--workdir"),
        (["launch/slurm/submit.sh", "folds", "--", *RUN], "--folds"),
        (["launch/slurm/submit.sh", "prepare", "--", "--shard=1/2"], "--shards"),
    ],
)
def test_what_cannot_be_is_a_sentence(fakes, command, words):
    done, calls = fakes(*command)
    assert done.returncode == 2 and words in done.stderr and not calls


def test_shellcheck_has_nothing_to_say():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "--shell=bash", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_container_runs_as_nobody_special_and_has_all_three_kinds():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    assert text.index("USER jmt") < text.index("ENTRYPOINT") and "ARG ACCELERATOR=cpu" in text
    extras = (ROOT / "pyproject.toml").read_text()
    assert all(f"{name} = [" in extras for name in ("tpu", "cuda", "gcs"))
    assert 'extra="[tpu,gcs]"' in text and 'extra="[cuda]"' in text
    for line in text.splitlines():
        if line.startswith("COPY"):
            for name in line.split()[2:-1]:
                assert (ROOT / name).exists() and f"!{name}" in (ROOT / ".dockerignore").read_text()
