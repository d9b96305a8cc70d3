"""Decodes sources in parallel: in processes of this machine, or on a cluster engine through Apache Beam."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.program import SIGNALS, begin_worker
from data_pipelines.recording import Reader, Source
from data_pipelines.storage import PARTIAL_SUFFIX, Stopped, StoredSource, source_path, store_source

_POLL_SECONDS = 0.2
# A batch system ends a job by a signal to all its processes: ours may arrive after a worker's end shows.
_SIGNAL_GRACE_SECONDS = 1.0
_NAMED_SOURCES = 8

# What a worker process got at its start: (reader, folder, the flag that its parent raises to stop it).
_work: tuple[Reader, Path, Any] | None = None


def decode_with_processes(
    reader: Reader,
    sources: Sequence[Source],
    folder: Path,
    workers: int,
    *,
    should_stop: Callable[[], bool],
    on_done: Callable[[StoredSource], None],
) -> None:
    """Writes each source's file (`storage.store_source`) in `workers` processes.

    Args:
      reader: Copied to each process.
      sources: What to decode; handed out one by one, so a long one holds up nobody.
      folder: Folder of the sources' files.
      workers: Number of processes.
      should_stop: Asked five times a second.
      on_done: Called in this process as each one is finished.

    Raises:
      Stopped: `should_stop` said so; unfinished files are gone.
      BadDataError: A worker process was killed or crashed; says which sources were being decoded.
    """
    context = multiprocessing.get_context("spawn")
    stop_flag = context.RawValue("b", 0)
    workers = min(workers, len(sources))
    executor = concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(reader, folder, stop_flag)
    )
    waiting = iter(sources)
    running: dict[concurrent.futures.Future[StoredSource], Source] = {}
    try:
        while True:
            while len(running) <= workers and (source := next(waiting, None)) is not None:
                running[executor.submit(_store_in_worker, source)] = source
            if not running:
                return
            done, _ = concurrent.futures.wait(running, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in done:
                stored = future.result()
                del running[future]
                on_done(stored)
            if should_stop():
                raise Stopped("stopped")
    except BrokenProcessPool as error:
        time.sleep(_SIGNAL_GRACE_SECONDS)
        if should_stop():
            raise Stopped("stopped") from error
        raise BadDataError(_describe_death(running.values())) from error
    finally:
        stop_flag.value = 1
        executor.shutdown(wait=True, cancel_futures=True)
        remove_partial_files(folder, sources)


def _describe_death(running: Iterable[Source]) -> str:
    names = [f"{source.stream} {source.id}" for source in running]
    named = ", ".join(names[:_NAMED_SOURCES]) + (" ..." if len(names) > _NAMED_SOURCES else "")
    return (
        "a worker process ended abruptly (killed for want of memory, or its decoder crashed) while these "
        f"were being decoded: {named}. What is finished is kept: run the same command again, with fewer "
        "workers, or without the file at fault"
    )


def remove_partial_files(folder: Path, sources: Iterable[Source] | None = None) -> None:
    """Removes what a killed process left half written: of these sources in their folder, or everything."""
    own = {source_path(folder, source.stream, source.id) for source in sources or ()}
    for partial in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        whole = partial.with_name(partial.name.removesuffix(PARTIAL_SUFFIX).rpartition(".")[0])
        if sources is None or whole in own:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def stop_by_signal() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM, SIGUSR1 and SIGINT into a flag."""
    received: list[int] = []
    with _signal_handler(lambda number, frame: received.append(number)):
        yield lambda: bool(received)


@contextlib.contextmanager
def _signal_handler(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    # Python allows handlers in the main thread only; elsewhere the program's own stay.
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in SIGNALS} if is_main else {}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _start_worker(reader: Reader, folder: Path, stop_flag: Any) -> None:
    global _work
    _work = reader, folder, stop_flag
    begin_worker()
    try:
        import cv2
    except ImportError:
        return
    # There is a process a core already.
    cv2.setNumThreads(1)


def _store_in_worker(source: Source) -> StoredSource:
    reader, folder, stop_flag = _work
    return store_source(reader, source, folder, should_stop=lambda: bool(stop_flag.value))


def decode_with_beam(
    reader: Reader, sources: Sequence[Source], folder: Path, runner: str, arguments: Sequence[str]
) -> None:
    """Writes each source's file on a Beam engine, whose workers must see the raw folder and `folder`.

    Args:
      reader: Copied to each worker.
      sources: What to decode.
      folder: Folder of the sources' files.
      runner: Name of the Beam runner, e.g. ``DirectRunner``.
      arguments: Further pipeline options, e.g. ``("--direct_num_workers=2",)``.

    Raises:
      UsageError: apache-beam is not installed, or knows no such runner.
      Stopped: SIGTERM or SIGINT.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UsageError(
            "a Beam runner needs Apache Beam, which is not installed: pip install 'jmt-jax[beam]'"
        ) from error
    store = functools.partial(_store_on_beam, reader, folder.resolve())
    try:
        pipeline = apache_beam.Pipeline(runner=runner, options=PipelineOptions(list(arguments)))
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"Apache Beam has no runner {runner!r} ready to use: {error}") from error
    (
        pipeline
        | "Sources" >> apache_beam.Create(list(sources))
        # Otherwise one worker would take them all.
        | "Spread" >> apache_beam.Reshuffle()
        | "Decode" >> apache_beam.Map(store)
    )
    try:
        # Nobody looks at a flag while the engine works.
        with _signal_handler(signal.default_int_handler):
            pipeline.run().wait_until_finish()
    except KeyboardInterrupt as interrupt:
        raise Stopped("stopped") from interrupt


def _store_on_beam(reader: Reader, folder: Path, source: Source) -> str:
    return store_source(reader, source, folder).source
