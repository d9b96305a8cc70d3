"""The options of ``python -m data_pipelines.prepare``."""

from __future__ import annotations

import argparse
import os

from data_pipelines import command_line, reader_options
from data_pipelines.errors import UsageError


def make_parser() -> argparse.ArgumentParser:
    """The command line's options, with those of every reader."""
    parser = command_line.Parser(
        prog="python -m data_pipelines.prepare",
        description="Turns a raw data set into a prepared one that training reads. Interrupted at any "
        "moment, the same command goes on where it was.",
        epilog="Exit codes: 0 done, 2 the command asks for something impossible, 3 the raw data are not as "
        "they should be, 75 interrupted by a signal (run it again).",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=sorted(reader_options.READERS), help="layout of the raw folder")
    add("--raw", required=True, metavar="DIR", help="the raw folder; it is only read")
    add("--out", required=True, metavar="DIR", help="folder of the result, new or begun by an earlier run")
    add("--workers", type=int, metavar="N", help="processes that decode (default: one a core)")
    add(
        "--max_damaged",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="go on if at most this share of the recordings is damaged or lacks a file that it needs; they "
        "are left out and listed (default: 0.05)",
    )
    add(
        "--beam_runner",
        metavar="NAME",
        help="decode with this Apache Beam runner, e.g. DirectRunner; its workers must see both folders "
        "under the same paths (pip install 'jmt-jax[beam]')",
    )
    add(
        "--beam_args",
        default="",
        metavar="ARGS",
        help='options of the runner, e.g. --beam_args="--direct_num_workers=2"',
    )
    add(
        "--shard",
        metavar="I/N",
        help="decode part I of N only, from 0, e.g. on several machines that see the same folders; the same "
        "command without --shard then puts all of them together",
    )
    reader_options.add_arguments(parser)
    return parser


def parse_shard(text: str) -> tuple[int, int]:
    """``"0/4"`` as (0, 4).

    Raises:
      UsageError: It is no shard.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(f"--shard={text!r}: I/N was expected, part I of N from 0, e.g. 0/4")
    return int(index), int(count)


def count_cores() -> int:
    """The cores that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
