"""Turns a raw folder into a prepared data set: decoded once, checked, and laid out for random reading.

    python -m data_pipelines.prepare --dataset=biovid --raw=PartA --out=DIR

First every source is decoded into a file of its own (`workers`), then one TFDS builder assembles them
(`builder`), and last of all the data card is written: a folder with a card is finished. Killed at any moment
and started again, it goes on where it was, and the bytes are those of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import endings, inputs, program, reader_options, storage, workers
from data_pipelines.assemble import CARD_TEXT_FILE, assemble
from data_pipelines.errors import BadDataError, Interrupted, UsageError
from data_pipelines.found import Found, find
from data_pipelines.prepare_flags import count_cores, make_parser, parse_shard
from data_pipelines.progress import Progress
from data_pipelines.reader_options import make_reader
from data_pipelines.recording import LeftOut, Reader, Recording, Source
from data_pipelines.source import (
    SOURCES_FOLDER,
    UNFINISHED_FILE,
    annotation_arrays,
    check_seal,
    is_prepared,
    read_card,
)
from data_pipelines.storage import Stopped, StoredSource

__all__ = ["Interrupted", "main", "make_reader", "only_one", "prepare"]

_NAMED_ENTRIES = 5
_UNFINISHED_TEXT = (
    "This folder is being prepared, or its preparation was interrupted: run the same command again.\n"
)

Key = tuple[str, str]
OnDone = Callable[[StoredSource], None]
ShouldStop = Callable[[], bool]
Decode = Callable[[list[Source], Path, ShouldStop, OnDone], None]


def _log_to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def prepare(
    reader: Reader,
    out: Path,
    *,
    workers: int,
    max_damaged_share: float = 0.05,
    beam_runner: str | None = None,
    beam_args: Sequence[str] = (),
    log: Callable[[str], None] = _log_to_stderr,
) -> dict[str, Any]:
    """Prepares a data set, or goes on preparing it, or says that it is prepared.

    Args:
      reader: Knows the raw folder.
      out: Folder of the result: new, empty, or one that an earlier run began.
      workers: Processes that decode.
      max_damaged_share: How much of the recordings may be damaged or lack a file that they need, in [0, 1];
        they are left out and listed.
      beam_runner: Name of an Apache Beam runner that decodes instead of processes of this machine.
      beam_args: Further options for it.
      log: Called with sentences about what happens.

    Returns:
      The data card.

    Raises:
      UsageError: `out` holds something else, or an argument is out of range.
      BadDataError: The raw folder is not what the reader knows, or too much of it is damaged.
      Interrupted: A signal said so.
    """
    if workers < 1:
        raise UsageError(f"workers={workers}: at least 1 process is needed")
    if not 0 <= max_damaged_share <= 1:
        raise UsageError(f"max_damaged={max_damaged_share}: a share from 0 to 1 was expected, e.g. 0.05")
    out = Path(out)
    _check_folder(out, Path(reader.root))
    inputs.recall_scan(reader, out)
    scan = find(reader)
    _begin(out)
    with only_one(out, log):
        fingerprints = _fingerprints(reader, scan)
        if is_prepared(out):
            card = read_card(out)
            check_seal(out, card)
            inputs.check_unchanged(out, card, fingerprints, Path(reader.root), scan.sources)
            log(f"{out} is prepared already, from the same files with the same settings: nothing to do")
        else:
            inputs.remember_scan(reader, out)
            if beam_runner is None:
                decode = _with_processes(reader, workers)
            else:
                decode = _with_beam(reader, beam_runner, beam_args, log)
            card = _run(reader, scan, out, decode, max_damaged_share, fingerprints, log)
        _remove_scaffolding(out)
    return card


def _run(
    reader: Reader,
    scan: Found,
    out: Path,
    decode: Decode,
    max_damaged_share: float,
    fingerprints: Mapping[str, Any],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Both phases; stopped by a signal in between, it says how to go on."""
    with _says_how_to_go_on(out), workers.stop_by_signal() as should_stop:
        workers.remove_partial_files(out)
        stored = _decode_all(reader, scan, out / SOURCES_FOLDER, decode, should_stop, log)
        kept, left_out = _leave_out_damaged(scan, stored, max_damaged_share)
        card = assemble(
            reader,
            out,
            recordings=kept,
            sources=scan.sources,
            left_out=left_out,
            stored=stored,
            fingerprints=fingerprints,
            should_stop=should_stop,
        )
    counts = card["counts"]
    log(
        f"{out}: {counts['recordings']} recordings of {counts['subjects']} subjects; "
        f"{counts['left_out']} left out, of which {counts['damaged']} damaged (see {CARD_TEXT_FILE})"
    )
    return card


def prepare_shard(
    reader: Reader,
    out: Path,
    shard: tuple[int, int],
    *,
    workers: int,
    log: Callable[[str], None] = _log_to_stderr,
) -> None:
    """Decodes one of several parts of a data set's sources; `prepare` puts them together when all are there.

    Args:
      reader: Knows the raw folder.
      out: Folder of the result, the same for all shards, maybe on different machines.
      shard: (i, n): part i of n, from 0.
      workers, log: As of `prepare`.

    Raises as `prepare` does.
    """
    index, count = shard
    if workers < 1:
        raise UsageError(f"workers={workers}: at least 1 process is needed")
    out = Path(out)
    _check_folder(out, Path(reader.root))
    inputs.recall_scan(reader, out)
    scan = find(reader)
    own = dataclasses.replace(scan, sources=scan.sources[index::count])
    _begin(out)
    with only_one(out, log, shared=True):
        if is_prepared(out):
            log(f"{out} is prepared already; shard {index}/{count} has nothing to do")
            return
        _run_shard(reader, own, out, _with_processes(reader, workers), log)
    log(
        f"shard {index}/{count}: {len(own.sources)} of {len(scan.sources)} sources are decoded; when all "
        "shards are done, the same command without --shard puts them together"
    )


def _run_shard(reader: Reader, own: Found, out: Path, decode: Decode, log: Callable[[str], None]) -> None:
    with _says_how_to_go_on(out), workers.stop_by_signal() as should_stop:
        # Those of other shards are in their hands.
        workers.remove_partial_files(out / SOURCES_FOLDER, own.sources)
        _decode_all(reader, own, out / SOURCES_FOLDER, decode, should_stop, log)


def _check_folder(out: Path, raw: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"the result's folder {out} is a file; name a new folder")
    if raw.exists() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(raw)):
        raise UsageError(
            f"the result's folder {out} lies in the raw folder {raw}, which stays as it is; name another one"
        )
    if out.is_dir() and any(out.iterdir()) and not is_prepared(out) and not (out / UNFINISHED_FILE).is_file():
        raise UsageError(
            f"the result's folder {out} holds files that the preparation did not write; name a new or an "
            "empty one"
        )


@contextlib.contextmanager
def _says_how_to_go_on(out: Path) -> Iterator[None]:
    """Turns a stop, and what the file system says, into the program's own errors."""
    try:
        yield
    except Stopped as stopped:
        sentence = f"stopped; what is decoded is kept in {out}: run the same command again to go on"
        raise Interrupted(sentence) from stopped
    except OSError as error:
        sentence = "Mend it and run the same command again: what is decoded is kept"
        raise UsageError(f"the file system says: {error}. {sentence}") from error


@contextlib.contextmanager
def only_one(out: Path, log: Callable[[str], None], *, shared: bool = False) -> Iterator[None]:
    """Keeps a second process from the same folder: it waits and finds it prepared. Shards share the lock."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"another process is preparing {out}; waiting for it")
            fcntl.flock(descriptor, kind)
        except OSError as error:
            log(f"{out} cannot be locked ({error.strerror}); do not prepare it twice at the same time")
        yield
    finally:
        os.close(descriptor)


def _begin(out: Path) -> None:
    """Makes the folder and marks it as unfinished, unless it is finished."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not is_prepared(out):
            (out / UNFINISHED_FILE).write_text(_UNFINISHED_TEXT)
    except OSError as error:
        raise UsageError(
            f"the folder {out} cannot be written ({error.strerror}); name one that you may write to"
        ) from error


def _fingerprints(reader: Reader, scan: Found) -> dict[str, Any]:
    """What the result is a function of, apart from the content of the sources' files."""
    found = [
        [[r.id, r.subject, r.group, dict(r.sources), dict(r.attributes)] for r in scan.recordings],
        [dataclasses.astuple(source) for source in scan.sources],
        [dataclasses.astuple(entry) for entry in scan.left_out],
    ]
    return {
        "reader": f"{reader.name} version {reader.version}",
        # As they are read back from the card: tuples are lists there.
        "settings": json.loads(json.dumps(dict(reader.settings()), default=list)),
        "recordings": inputs.digest_found(found, _annotations(scan.recordings)),
    }


def _annotations(recordings: Sequence[Recording]) -> dict[str, np.ndarray]:
    return {"names": np.array([json.dumps(r.annotation.names) for r in recordings])} | annotation_arrays(
        recordings
    )


def _with_processes(reader: Reader, count: int) -> Decode:
    def decode(todo: list[Source], folder: Path, should_stop: ShouldStop, on_done: OnDone) -> None:
        workers.decode_with_processes(reader, todo, folder, count, should_stop=should_stop, on_done=on_done)

    return decode


def _with_beam(reader: Reader, runner: str, arguments: Sequence[str], log: Callable[[str], None]) -> Decode:
    def decode(todo: list[Source], folder: Path, should_stop: ShouldStop, on_done: OnDone) -> None:
        log(f"decoding {len(todo)} sources with Apache Beam's {runner}")
        workers.decode_with_beam(reader, todo, folder, runner, arguments)
        for stored in storage.find_finished(reader, todo, folder).values():
            on_done(stored)

    return decode


def _decode_all(
    reader: Reader,
    scan: Found,
    folder: Path,
    decode: Decode,
    should_stop: ShouldStop,
    log: Callable[[str], None],
) -> dict[Key, StoredSource]:
    """Decodes what is not decoded yet."""
    folder.mkdir(exist_ok=True)
    stored = storage.find_finished(reader, scan.sources, folder)
    todo = [source for source in scan.sources if (source.stream, source.id) not in stored]
    if stored:
        log(f"going on: {len(stored)} of {len(scan.sources)} sources are decoded already")
    if todo:
        with Progress(len(scan.sources), "decoding", "sources", done=len(stored)) as progress:

            def on_done(result: StoredSource) -> None:
                stored[result.stream, result.source] = result
                progress.advance()

            decode(todo, folder, should_stop, on_done)
    missing = [source.id for source in todo if (source.stream, source.id) not in stored]
    if missing:
        raise BadDataError(
            f"{len(missing)} sources were not decoded, or their files changed meanwhile ({missing[0]} ...); "
            "run the same command again"
        )
    return stored


def _leave_out_damaged(
    scan: Found, stored: Mapping[Key, StoredSource], max_damaged_share: float
) -> tuple[list[Recording], list[LeftOut]]:
    """The recordings whose sources are all sound, and everything left out with its reason."""
    kept, damaged = [], [entry for entry in scan.left_out if entry.damaged]
    present = len(scan.recordings) + len(damaged)
    for recording in scan.recordings:
        problems = [
            f"{stream}: {stored[stream, source].damaged}"
            for stream, source in recording.sources.items()
            if stored[stream, source].damaged
        ]
        if problems:
            damaged.append(LeftOut(recording.id, "; ".join(problems), damaged=True))
        else:
            kept.append(recording)
    share = len(damaged) / present
    if share > max_damaged_share or not kept:
        listed = "".join(f"\n  {entry.id}: {entry.reason}" for entry in damaged[:_NAMED_ENTRIES])
        if len(damaged) > _NAMED_ENTRIES:
            listed += f"\n  and {len(damaged) - _NAMED_ENTRIES} more"
        if not kept:
            raise BadDataError(
                f"all {present} recordings are damaged or lack a file; mend some of them:{listed}"
            )
        raise BadDataError(
            f"{len(damaged)} of {present} recordings are damaged or lack a file, more than the "
            f"{max_damaged_share:.1%} allowed:{listed}\nMend them, or go on without them: "
            f"max_damaged={math.ceil(share * 100) / 100:g}. What is decoded is kept"
        )
    return kept, [entry for entry in scan.left_out if not entry.damaged] + damaged


def _remove_scaffolding(out: Path) -> None:
    shutil.rmtree(out / SOURCES_FOLDER, ignore_errors=True)
    (out / UNFINISHED_FILE).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    return endings.guarded(lambda: _prepare_as_said(given), name="prepare")


def _prepare_as_said(given: argparse.Namespace) -> None:
    reader = make_reader(given.dataset, Path(given.raw).absolute(), **reader_options.chosen(given))
    count = count_cores() if given.workers is None else given.workers
    if given.shard:
        if given.beam_runner:
            raise UsageError("--shard is for processes of this machine; Beam shares the work by itself")
        prepare_shard(reader, Path(given.out), parse_shard(given.shard), workers=count)
        return
    card = prepare(
        reader,
        Path(given.out),
        workers=count,
        max_damaged_share=given.max_damaged,
        beam_runner=given.beam_runner,
        beam_args=shlex.split(given.beam_args),
    )
    for text in card.get("warnings", ()):
        _log_to_stderr(f"warning: {text}")


if __name__ == "__main__":
    program.run(main)
