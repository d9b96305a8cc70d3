"""Being asked to stop: several processes agree on when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import tiny

from jmt_jax import stop, study

# Two processes that work at different speeds; the first prepares data in between, with handlers of its own.
_PROGRAM = """
import sys, time, jax
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[1]))
from data_pipelines import workers
from jmt_jax import stop
stop.install()
with workers.stop_by_signal():
    pass
print("ready", flush=True)
looks = 0
while not stop.requested():
    looks += 1
    time.sleep(0.01 + 0.005 * int(sys.argv[1]))
print("stopped at", looks, stop.requested(), flush=True)
"""


def test_nothing_is_heard_before_the_command_line_says_so():
    assert study.stop is stop and not stop.requested()
    assert all(signal.getsignal(number) is not stop._hear for number in stop.SIGNALS)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


# The signal comes when Python takes itself apart, its own handlers gone.
_DONE = """
import os, signal
from data_pipelines import program
from jmt_jax import stop

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)

late = Late()
program.run(lambda: stop.install() or 0)
"""


def test_a_run_that_is_done_stays_done_whatever_it_hears():
    done = subprocess.run(
        [sys.executable, "-c", _DONE],
        cwd=tiny.CONFIGS.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0


# The signal comes while the libraries are still being imported.
_EARLY = """
import os, signal, sys
from data_pipelines import program
from jmt_jax import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
sys.argv = ["main", "--config=configs/biovid.py"]
program.run(main.main)
"""


def test_a_run_that_has_not_begun_leaves_at_once():
    done = subprocess.run(
        [sys.executable, "-c", _EARLY],
        cwd=tiny.CONFIGS.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    assert "interrupted" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "who", "port"), [(signal.SIGTERM, 0, 17931), (signal.SIGUSR1, 1, 17932)])
def test_two_processes_stop_at_the_same_look(number, who, port, tmp_path):
    outputs = [tmp_path / f"{index}.txt" for index in (0, 1)]
    processes = []
    for index, path in enumerate(outputs):
        with path.open("w") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, str(index), f"localhost:{port}"],
                    cwd=tiny.CONFIGS.parent,
                    env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
                    stdout=file,
                    stderr=subprocess.DEVNULL,
                )
            )
    try:
        while not all("ready" in path.read_text() for path in outputs):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        time.sleep(1.0)
        processes[who].send_signal(number)
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    one, other = (path.read_text().splitlines()[-1] for path in outputs)
    assert one == other and one.startswith("stopped at") and one.endswith("True")
