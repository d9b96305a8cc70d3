"""Where the time goes: seconds spent in some functions while others call them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any


class Shares:
    """Seconds spent in some functions, each without what it spends in the others."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted under this name."""

        def call(*arguments: Any, **options: Any) -> Any:
            start = self._clock()
            self._inner.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                spent, inner = self._clock() - start, self._inner.pop()
                self._inner[-1] += spent
                self.seconds[name] = self.seconds.get(name, 0.0) + spent - inner

        return call

    @contextlib.contextmanager
    def watching(self, *watched: tuple[str, Any, str]) -> Iterator[None]:
        """Counts functions by (name, where it is, its attribute there) until it is left."""
        with contextlib.ExitStack() as stack:
            for name, holder, attribute in watched:
                plain = getattr(holder, attribute)
                setattr(holder, attribute, self.timed(name, plain))
                stack.callback(setattr, holder, attribute, plain)
            yield

    def describe(self, whole: float) -> str:
        """Each one's share of the whole, and the rest's."""
        parts = [*self.seconds.items(), ("the rest", whole - sum(self.seconds.values()))]
        return ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in parts)
