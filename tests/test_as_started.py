"""Runs as people start them: output that nobody reads, odd locales, full disks, no home, no name service."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny

from data_pipelines import datasets, endings
from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import distributed, divergence, logging
from jmt_jax.train import train_and_evaluate

_COMMAND = """
import sys
from data_pipelines import program
def main():
    {body}
    return 0
program.run(main)
"""


def _start(body: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND.format(body=body)], cwd=tiny.CONFIGS.parent, **options
    )


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_command_goes_on_when_its_reader_has_gone(tmp_path, stream):
    body = (
        f"print('first', file=sys.{stream}, flush=True); sys.stdin.read();"
        f"[print('x' * 9999, file=sys.{stream}) for _ in range(99)]; open('{tmp_path}/done', 'w').close()"
    )
    command = _start(body, stdin=subprocess.PIPE, **{stream: subprocess.PIPE})
    reader = getattr(command, stream)
    assert reader.readline() == b"first\n"
    reader.close()
    command.stdin.close()
    assert command.wait(60) == 0 and (tmp_path / "done").exists()


def test_a_closed_terminal_and_closed_output_end_nothing(tmp_path):
    before = signal.getsignal(signal.SIGHUP)
    body = (
        "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('said');"
        f"open('{tmp_path}/done', 'w').write(str(open('{tmp_path}/done').fileno()))"
    )
    (tmp_path / "done").touch()
    command = _start(body, preexec_fn=lambda: [os.close(number) for number in (0, 1, 2)])
    assert command.wait(60) == 0
    assert int((tmp_path / "done").read_text()) > 2  # no file got the number of standard output
    assert signal.getsignal(signal.SIGHUP) == before  # only commands ignore it


def test_names_of_files_are_utf8_where_the_locale_is_ascii(tmp_path):
    folder = tmp_path / "läuft gut (1)"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    script = tmp_path / "command.py"
    body = "import pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(); print(p); p.name.encode()"
    script.write_text(_COMMAND.format(body=body))
    environment["PYTHONPATH"] = str(tiny.CONFIGS.parent)
    done = subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == str(folder) and folder.is_dir()


def test_what_the_file_system_says_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for work, words in (
        (lambda: (tmp_path / "none").read_text(), "none is not there"),
        (lambda: tmp_path.read_text(), "is a folder; a file was expected"),
        (lambda: (tmp_path / "file" / "x").write_text(""), "cannot be written or read"),
    ):
        with pytest.raises(OSError) as caught:
            work()
        ending = endings.of(caught.value)
        assert ending.code == 3 and words in ending.sentence and str(tmp_path) in ending.sentence
    assert endings.of(ZeroDivisionError()) is None  # a fault of ours keeps its stack trace


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_a_sentence_and_the_log_says_so_once(tmp_path, capsys):
    def write():
        with open("/dev/full", "w") as file:
            file.write("x")

    assert endings.guarded(write) == 3
    assert "No space left on device; make room" in capsys.readouterr().err
    (tmp_path / "log.txt").symlink_to("/dev/full")
    logging.set_up(tmp_path)
    try:
        logging.info("one")
        logging.info("two")
    finally:
        logging.set_up()
    said = capsys.readouterr().err
    assert said.count("cannot be written") == 1 and "Traceback" not in said and "two" in said


def test_the_log_file_has_the_ending(tmp_path):
    logging.set_up(tmp_path)
    try:
        with pytest.raises(OSError), logging.ending_noted():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results.json")
    finally:
        logging.set_up()
    text = (tmp_path / "log.txt").read_text()
    assert "data error: results.json cannot be written" in text and "Traceback" in text


def test_a_cache_that_cannot_be_made_names_the_variable(monkeypatch):
    for name in ("JMT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    with pytest.raises(UsageError, match="JMT_CACHE_DIR=DIR"):
        datasets.usable_cache_dir("")


def test_a_process_that_is_alone_joins_nobody():
    import jax

    options = distributed.Options()
    if distributed.find_source(options) != "one process":
        pytest.skip("this machine is one of several")
    assert distributed.initialise(options) == "one process" and not jax.distributed.is_initialized()


def test_outputs_that_are_no_numbers_are_found_where_they_count():
    outputs = np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
    divergence.check_outputs(outputs, np.array([True, False, False]))
    with pytest.raises(BadDataError, match="1 of 2 outputs"):
        divergence.check_outputs(outputs, np.array([True, False, True]))


def test_a_training_that_diverges_says_stage_step_and_key_and_keeps_the_good_checkpoint(cache_dir, tmp_path):
    config = tiny.shrunk("stress", cache_dir, model__streams="pulse", model__fusion="concat")
    config.training.stages = "joint"
    # The first epoch is good, and is saved; with the second the rate explodes.
    config.training.joint.update(
        schedule="step", decay_every_epochs=1, decay_factor=1e35, learning_rate_floor=1e38
    )
    config.training.joint.update(optimizer="sgd", epochs=2, warmup_epochs=0.0, clip_gradient_norm=0.0)
    config.training.max_bad_steps = 2
    with pytest.raises(divergence.Diverged) as caught:
        train_and_evaluate(config, tmp_path)
    said = str(caught.value)
    assert (
        said.startswith("stage joint has diverged: ") and "training.joint.learning_rate (it is 0.001)" in said
    )
    assert re.search(r"\bstep \d+", said)
    (kept,) = (tmp_path / "checkpoints" / "joint").iterdir()
    assert f"checkpoint {kept.name} of before is kept" in said
