"""One of two processes is killed, stopped or hangs: the other has to end, with its number, in time.

    python tests/faults/lost_process.py --limit_seconds=30

Trains the sample in two processes, and after the first steps sends one of them KILL or STOP, or lets it
HANG: alive, but without end in its loader. Prints how long the other lived on, its exit code and the line
that names the lost one; exit code 1 if it lived longer than the limit or named nobody. On a machine that is
too busy to run both, they are silent as if they were lost.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import tiny  # noqa: E402

# What JAX says of a process that is silent (its number, on the next line), and of process 0, its coordinator,
# which it names by its part; the run's first lines say that this is process 0.
_LOST = {
    0: re.compile(
        r"the leader \(usually slice 0 task 0\)|RPC: /xla.coordination.CoordinationService/Heartbeat"
    ),
    1: re.compile(r"tasks are unhealthy \(stopped sending heartbeats\):\n1\b"),
}
# What the program itself says of one that is alive.
_HANGING = {number: re.compile(rf"process {number} is stuck: .*") for number in (0, 1)}
HANG = "HANG"


def begin(
    number: int, port: int, folder: pathlib.Path, cache: pathlib.Path, limit: float, log: pathlib.Path
) -> subprocess.Popen:
    """One of the two processes, training without end as far as this script is concerned."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment["STUCK_WHEN"] = str(_stuck_when(folder, number))
    command = [sys.executable, "-u", "tests/faults/stuck_run.py", "--config=configs/biovid.py"]
    command += tiny.arguments("biovid", cache)
    command += [
        "--config.model.streams=physio",
        "--config.model.fusion=concat",
        "--config.training.stages=joint",
    ]
    command += ["--config.training.joint.epochs=100000", "--config.training.joint.eval_every_epochs=50.0"]
    command += [f"--workdir={folder / 'run'}", f"--coordinator=127.0.0.1:{port}", f"--process_id={number}"]
    command += ["--process_count=2"]
    command += [f"--{name}_seconds={max(5, round(limit * 0.6))}" for name in ("distributed_timeout", "stuck")]
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def _stuck_when(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"{number}.hangs"


def measure(lost: int, how: str, port: int, limit: float, cache: pathlib.Path) -> bool:
    """Loses a process, prints the figures, and says whether all was as it has to be."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        logs = [folder / f"{index}.log" for index in (0, 1)]
        both = [begin(index, port, folder, cache, limit, logs[index]) for index in (0, 1)]
        try:
            wait_for_first_step(both, logs[0])
            if how == HANG:
                _stuck_when(folder, lost).touch()
            else:
                os.kill(both[lost].pid, signal.Signals[f"SIG{how}"])
            started = time.monotonic()
            other = both[1 - lost]
            try:
                code = other.wait(timeout=3 * limit)
            except subprocess.TimeoutExpired:
                code = None
            seconds = time.monotonic() - started
            said = logs[1 - lost].read_text()
            named = (_HANGING if how == HANG else _LOST)[lost].search(said)
        finally:
            for process in both:
                process.kill()
                process.wait()
    is_well = code not in (None, 0) and seconds <= limit and bool(named)
    what = "did not end" if code is None else f"ended after {seconds:.1f} s with exit code {code}"
    print(f"process {lost}, {how}: the other {what}; {'well' if is_well else 'MISS'}", flush=True)
    print(f"    it said: {' '.join(named[0].split()) if named else said[-500:]}")
    return is_well


def wait_for_first_step(both: list[subprocess.Popen], log: pathlib.Path) -> None:
    """Returns when training is under way."""
    give_up = time.monotonic() + 600
    while "first training step done" not in log.read_text():
        if any(process.poll() is not None for process in both) or time.monotonic() > give_up:
            sys.exit(f"training did not begin:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)
    time.sleep(1)


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit_seconds", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=7810, help="and the five after it")
    parser.add_argument("--how", default=f"KILL,STOP,{HANG}", help="signals, and HANG")
    given = parser.parse_args()
    cases = [(lost, how) for how in given.how.split(",") for lost in (1, 0)]
    with tempfile.TemporaryDirectory() as name:
        well = [
            measure(lost, how, given.port + index, given.limit_seconds, pathlib.Path(name))
            for index, (lost, how) in enumerate(cases)
        ]
    print(f"{sum(well)} of {len(well)} as they have to be, limit {given.limit_seconds:.0f} s")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
