"""Commands started in this process with wrong inputs, and runs that somebody has damaged."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import tiny
from absl import flags

from data_pipelines import program
from jmt_jax import logging, run_record, study
from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.main import FLAGS

ROOT = tiny.CONFIGS.parent


class Ended(NamedTuple):
    """How a command has ended; what it raised, a fault of ours, is in `err` as Python would print it."""

    code: int
    out: str
    err: str


def start(module: str, *arguments: str) -> Ended:
    """Calls a module's ``main`` as ``python -m`` does, with a command line."""
    main = importlib.import_module(module).main
    kept = sys.argv, {number: signal.getsignal(number) for number in program.SIGNALS}, os.getcwd()
    known = set(FLAGS)
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [module, *arguments]
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main() or 0
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 1
            except Exception:
                code = 1
                err.write(traceback.format_exc())
    finally:
        sys.argv = kept[0]
        os.chdir(kept[2])
        for number, handler in kept[1].items():
            signal.signal(number, handler)
        for name in set(FLAGS) - known:
            with contextlib.suppress(AttributeError, flags.Error):
                delattr(FLAGS, name)
        FLAGS.unparse_flags()
        logging.set_up()
    return Ended(code, out.getvalue(), err.getvalue())


def make_run(cache_dir: Path, folder: Path) -> Path:
    """A run that has begun and has no checkpoint yet: its configuration, its record, its data."""
    options = {"model.streams": "physio", "model.fusion": "concat", "training.stages": "joint"}
    config = tiny.shrunk("biovid", cache_dir, **options)
    data = open_data(config)
    study._write_config(config, folder)
    run_record.keep(make_experiment(config, data, fold=0, seed=0), folder, is_main=True)
    return folder


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without(path: Path, key: str) -> None:
    """Takes a dotted key out of a JSON file."""
    tree = json.loads(path.read_text())
    *groups, name = key.split(".")
    branch = tree
    for group in groups:
        branch = branch[group]
    del branch[name]
    path.write_text(json.dumps(tree))
