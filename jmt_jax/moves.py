"""Processes that are alive but do not move: found out, named, and all of them ended.

A process that is dead, stopped or cut off is noticed by JAX's coordination service. One that hangs, say on a
file system that has gone away, still answers it, and the others wait for it without end. So each process says
in that service's store how far it is, and looks at how far the others are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed  # the store has no public name

from data_pipelines.errors import Interrupted
from data_pipelines.progress import Progress
from jmt_jax.logging import LOGGER, say_as_process

_FOLDER = "jmt/moves"
_MOST_POLL_SECONDS = 15.0


class _Moves:
    """What this process has done so far.

    Attributes:
      count: Moves that all processes make alike: steps, batches.
      signs: Of life; those moves, lines of the log, progress of long work.
      place: The last move.
    """

    def __init__(self) -> None:
        self.count = self.signs = 0
        self.place = "the start"


_moves = _Moves()


def made(place: str) -> None:
    """Counts a move that every process makes: the same places in the same order everywhere."""
    _moves.count += 1
    _moves.signs += 1
    _moves.place = place


def alive() -> None:
    """Says that work goes on which not every process does, such as preparing data."""
    _moves.signs += 1


class Watch:
    """Decides whether the job is stuck: no process has given a sign of life for so long.

    Args:
      stuck_seconds: For how long.
      clock: Of this process alone; the others' clocks do not matter.
    """

    def __init__(self, stuck_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = stuck_seconds, clock
        self._seen: dict[int, int] = {}
        self._changed = clock()

    def verdict(self, all_moves: Mapping[int, Mapping[str, Any]]) -> list[str]:
        """What is wrong, as lines for people; nothing if something still moves.

        Args:
          all_moves: Number of a process to its ``host``, ``count``, ``signs`` and ``place``.
        """
        signs = {number: int(one["signs"]) for number, one in all_moves.items()}
        if signs != self._seen:
            self._seen, self._changed = signs, self._clock()
        if self._clock() - self._changed < self._limit:
            return []
        least = min(one["count"] for one in all_moves.values())
        behind = [number for number, one in all_moves.items() if one["count"] == least]
        lines = [
            f"process {number} ({one['host']}) has come to move {one['count']}, {one['place']}"
            for number, one in sorted(all_moves.items())
        ]
        numbers = ", ".join(str(number) for number in sorted(behind))
        if len(behind) < len(all_moves):
            lines.append(f"process {numbers} is stuck: the others wait for it")
        else:
            lines.append("all of them wait at the same place: the devices or the network hang")
        return [f"no process has moved for {self._limit:.0f} s", *lines]


@contextlib.contextmanager
def watched(stuck_seconds: float) -> Iterator[None]:
    """Ends this process, like all others at about the same time, once the job is stuck.

    For the command line, once the processes know each other; a process that is alone is not watched.

    Args:
      stuck_seconds: For how long nothing moves then; 0 for never.
    """
    if jax.process_count() == 1 or not stuck_seconds:
        yield
        return
    Progress.on_advance = alive
    LOGGER.addHandler(_SignsOfLife())
    poll, over = min(_MOST_POLL_SECONDS, stuck_seconds / 10), threading.Event()
    threading.Thread(target=_watch, args=(Watch(stuck_seconds), poll, over), daemon=True).start()
    # After an error the watch goes on: it may be that of a collective whose other end was found to be stuck.
    yield
    over.set()


class _SignsOfLife(logging.Handler):
    """Every line of the log is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Counts it."""
        alive()


def _watch(watch: Watch, poll_seconds: float, over: threading.Event) -> None:
    client, host = distributed.global_state.client, socket.gethostname()
    while not over.is_set():
        said = {"host": host, "count": _moves.count, "signs": _moves.signs, "place": _moves.place}
        try:
            client.key_value_set(f"{_FOLDER}/{jax.process_index()}", json.dumps(said), allow_overwrite=True)
            entries = client.key_value_dir_get(_FOLDER)
        except jax.errors.JaxRuntimeError as error:
            if not over.is_set():
                # JAX is about to end this process, and would call the other one "the leader".
                say_as_process(f"process 0 does not answer: {' '.join(str(error).split())}")
            return
        found = {int(key.rpartition("/")[2]): json.loads(value) for key, value in entries}
        if lines := watch.verdict(found):
            say_as_process(*lines, "ending; the same command goes on from the last checkpoint")
            if jax.process_index() == 0:
                # The store is here: the others have to see the same first.
                time.sleep(3 * poll_seconds)
            os._exit(Interrupted.exit_code)
        over.wait(poll_seconds)
