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
