"""Writes the parts of a sample in several processes; the bytes are the same whatever their number."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from data_pipelines.errors import Interrupted
from data_pipelines.program import begin_worker

WritePart = Callable[[Path, Any, int], None]


def write_parts(
    write: WritePart,
    out: Path,
    spec: Any,
    count: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> None:
    """Calls ``write(out, spec, index)`` for each index below `count`.

    Args:
      write: A function of a module; what it writes depends on its arguments alone.
      out: The raw folder.
      spec: What to make.
      count: Number of parts.
      progress: Called with (parts written, parts in all).
      workers: Number of processes; None for one a core.

    Raises:
      Interrupted: A process was ended from outside.
    """
    workers = min(workers or os.cpu_count() or 1, count)
    if workers == 1:
        for index in range(count):
            write(out, spec, index)
            if progress is not None:
                progress(index + 1, count)
        return
    # Spawned, not forked: the caller may run threads, and these processes need none of what it has loaded.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=begin_worker) as pool:
        futures = [pool.submit(write, out, spec, index) for index in range(count)]
        for done, future in enumerate(concurrent.futures.as_completed(futures), start=1):
            try:
                future.result()
            except BrokenProcessPool as error:
                raise Interrupted(
                    "a process that makes the sample was ended from outside; the same command makes it again"
                ) from error
            if progress is not None:
                progress(done, count)
