"""Many deadlines on one timer of the event loop."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

log = logging.getLogger("service")

K = TypeVar("K")


class Deadlines(Generic[K]):
    """Calls `expire` with each key that is still registered at its deadline.

    A timer per request would cost the loop more than the rest of the waiting, and hardly any of
    them ever fires. Here one timer waits for the earliest deadline, and finished requests are
    simply no longer registered. Times are on `time.perf_counter`'s clock.
    """

    def __init__(self, expire: Callable[[K], object]) -> None:
        self._expire = expire
        self._waiting: dict[K, float] = {}
        self._next = math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: K, when: float) -> None:
        """Expire `key` on the running loop at `when`, unless it is discarded before."""
        if when == math.inf:
            return
        self._waiting[key] = when
        loop = asyncio.get_running_loop()
        if when < self._next or loop is not self._loop:
            self._arm(loop, when)

    def discard(self, key: K) -> None:
        """Remove a key, if it is registered."""
        self._waiting.pop(key, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer and loop is self._loop:
            self._timer.cancel()
        self._next, self._loop = when, loop
        self._timer = loop.call_later(max(0.0, when - perf_counter()), self._fire)

    def _fire(self) -> None:
        now = perf_counter()
        # The loop's clock may be a little early. The deadline that it woke up for is due anyway.
        due = [key for key, when in self._waiting.items() if when <= max(now, self._next)]
        for key in due:
            del self._waiting[key]
        self._next, self._timer = math.inf, None
        if self._waiting:
            self._arm(asyncio.get_running_loop(), min(self._waiting.values()))
        for key in due:
            try:
                self._expire(key)
            except Exception:  # the others have a right to their time, too
                log.exception("a deadline was missed")
