"""A run's folder has one writer; the second is told who, and one that died is taken over."""

import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest

from data_pipelines.errors import UsageError
from jmt_jax import folder_lock

HOLD = """
import sys, time, pathlib
from jmt_jax import folder_lock
with folder_lock.held(pathlib.Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_told_by_whom_and_a_killed_holder_is_taken_over(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        kept = (tmp_path / folder_lock.FILE).read_bytes()
        with (
            pytest.raises(UsageError, match=f"process {holder.pid} on {socket.gethostname()}"),
            folder_lock.held(tmp_path, "run"),
        ):
            pass
        assert (tmp_path / folder_lock.FILE).read_bytes() == kept
        holder.kill()
    with folder_lock.held(tmp_path, "run"):
        assert json.loads((tmp_path / folder_lock.FILE).read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("holder", "taken"),
    [
        ({}, True),
        ({"process": 2**22 + 1}, True),  # beyond the largest number of a process
        ({"process": os.getpid(), "clock": 1}, True),  # the number came again
        ({"process": os.getpid()}, False),
        ({"host": "elsewhere", "process": 1}, False),
    ],
    ids=["empty", "gone", "number came again", "alive", "another host"],
)
def test_where_the_file_system_knows_no_locks_the_file_says_it(tmp_path, monkeypatch, holder, taken):
    def no_locks(descriptor, kind):
        raise OSError(95, "Operation not supported")

    if holder:
        (tmp_path / folder_lock.FILE).write_text(json.dumps({**folder_lock._self(), **holder}))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    if taken:
        with folder_lock.held(tmp_path, "run"):
            pass
        return
    with pytest.raises(UsageError, match="remove"), folder_lock.held(tmp_path, "run"):
        pass
