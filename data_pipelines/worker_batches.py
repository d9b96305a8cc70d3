"""Batches from Grain's worker processes that end with an error, and never in silence, when a worker does.

Grain raises where it notices that a worker has ended, but waits without end where it has just been asked to
go on from another position (as after every resume).
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import threading
import time
from collections.abc import Iterator
from typing import Any

from data_pipelines.errors import BadDataError

_NAME = "grain-process-prefetch"
_LOOK_EVERY_SECONDS = 0.1
# Workers that have all ended before they were ever seen are missed for so long.
_START_SECONDS = 20.0
_GRAIN_SAYS = "Worker process was terminated unexpectedly"
_LOST = (
    "a loader worker ended abruptly: it was killed, maybe for want of memory, or its decoder crashed; run "
    "the same command again, with a smaller data.loader_workers if it happens again"
)


class LostWorker(BadDataError):
    """A worker process has ended, and was not asked to by the one that it loads for."""


class WorkerBatches(Iterator[Any]):
    """Wraps an endless iterator of Grain's.

    Args:
      batches: The iterator, with ``get_state`` and ``set_state``; its workers start with the first batch.
    """

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self._others = _workers()
        self._own: set[int] = set()
        self._position = batches.get_state()

    def __next__(self) -> Any:
        """The next batch.

        Raises:
          LostWorker: A worker has ended; `get_state` still gives the position of the batch before.
        """
        coming: concurrent.futures.Future[Any] = concurrent.futures.Future()
        # A thread that may wait for ever must not hold up the program's end, as an executor's would.
        threading.Thread(target=self._load, args=(coming,), daemon=True).start()
        started = time.monotonic()
        while not concurrent.futures.wait([coming], timeout=_LOOK_EVERY_SECONDS).done:
            if self._has_lost_one(time.monotonic() - started):
                raise LostWorker(_LOST)
        try:
            batch = coming.result()
        except RuntimeError as error:
            if _GRAIN_SAYS in str(error):
                raise LostWorker(_LOST) from error
            raise
        self._position = self._batches.get_state()
        return batch

    def _load(self, coming: concurrent.futures.Future[Any]) -> None:
        try:
            coming.set_result(next(self._batches))
        except Exception as error:
            coming.set_exception(error)

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch that was handed out."""
        return self._position

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a position of `get_state`."""
        self._batches.set_state(state)
        self._position = state

    def _has_lost_one(self, waited_seconds: float) -> bool:
        alive = _workers() - self._others
        lost = self._own - alive
        self._own |= alive
        return bool(lost) or (not alive and waited_seconds > _START_SECONDS)


def _workers() -> set[int]:
    """Numbers of the worker processes that live."""
    return {one.pid for one in multiprocessing.active_children() if one.name.startswith(_NAME)}
