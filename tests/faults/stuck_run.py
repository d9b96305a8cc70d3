"""The command line, hanging in the loader, as on a file system that has gone away, once a file is there.

STUCK_WHEN=FILE python tests/faults/stuck_run.py ARGUMENTS OF jmt_jax.main
"""

from __future__ import annotations

import os
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from data_pipelines import program  # noqa: E402
from data_pipelines.loader import Loader  # noqa: E402
from jmt_jax import main  # noqa: E402

_load_item = Loader.load_item


def _hanging(*arguments: object) -> object:
    if pathlib.Path(os.environ["STUCK_WHEN"]).exists():
        threading.Event().wait()
    return _load_item(*arguments)


if __name__ == "__main__":
    Loader.load_item = _hanging
    program.run(main.main)
