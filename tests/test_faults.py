"""The scripts of tests/faults, with few faults; they print their figures and exit with 1 on a miss."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("flip_bytes.py", "--flips=40"), ("kill_and_resume.py", "--kills=4", "--terms=2")]
)
def test_nothing_is_lost(arguments):
    script, *options = arguments
    done = subprocess.run(
        [sys.executable, f"tests/faults/{script}", *options],
        cwd=tiny.CONFIGS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
