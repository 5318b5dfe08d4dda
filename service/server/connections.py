"""The connections of a process: how many, how long they may take, and how they end."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Final, Protocol

from service.limits.byte_budget import ByteBudget
from service.limits.deadlines import Deadlines
from service.settings import Settings
from service.telemetry.metrics import Metrics

GRAIN_S: Final = 0.25
"""Times of connections are rounded up to this, so that thousands of them share a timer's firing."""


class Connection(Protocol):
    """What is asked of a connection here."""

    def on_timeout(self) -> None:
        """Its time is over."""

    def close(self) -> None:
        """It is to make room for another."""

    def close_after_answer(self) -> None:
        """The answer under way, or the next one, is its last."""


class Connections:
    """Those that wait for a request are `idle`: the first is the one that has waited longest."""

    def __init__(self, settings: Settings, metrics: Metrics, budget: ByteBudget) -> None:
        """`budget` also holds the parts of answers that clients have not read."""
        self.budget = budget
        self.header_timeout_s = settings.header_timeout_s
        self.keep_alive_s = settings.keep_alive_s
        self._max = settings.max_connections
        self._metrics = metrics
        self._deadlines = Deadlines()
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self.closing = False
        """Whether each answer is its connection's last."""
        metrics.watch_connections(lambda: len(self._all))

    def add(self, connection: Connection) -> bool:
        """A new one, which waits for its first request. False if there is no room for it."""
        if len(self._all) >= self._max:
            if not self._idle:
                self._metrics.count_refusal("connections")
                return False
            longest = next(iter(self._idle))
            self.remove(longest)
            longest.close()
        self._all.add(connection)
        self.mark_idle(connection, self.header_timeout_s)
        return True

    def note_refusal(self, status: int) -> None:
        """What came was no request, and was answered with this status."""
        self._metrics.count_invalid_request(status)

    def remove(self, connection: Connection) -> None:
        """It is closed."""
        self._all.discard(connection)
        self.mark_busy(connection)

    def mark_idle(self, connection: Connection, timeout_s: float) -> None:
        """It is idle, or a head is on its way, for `timeout_s` at most."""
        self._idle[connection] = None
        self._limit(connection, timeout_s)

    def mark_reading(self, connection: Connection) -> None:
        """The first byte of a head is here; or its request is answered, and the rest of the body
        is still on its way; or its client does not take the answer."""
        self._limit(connection, self.header_timeout_s)

    def mark_busy(self, connection: Connection) -> None:
        """It waits no longer for a request."""
        self._idle.pop(connection, None)
        self._deadlines.discard(connection)

    def close_after_answers(self) -> None:
        """Let each connection have one answer more."""
        self.closing = True
        for connection in self._all:
            connection.close_after_answer()

    @property
    def has_idle(self) -> bool:
        """Whether any waits for a request."""
        return bool(self._idle)

    def _limit(self, connection: Connection, timeout_s: float) -> None:
        when = math.ceil((perf_counter() + timeout_s) / GRAIN_S) * GRAIN_S
        self._deadlines.add(connection, when, connection.on_timeout)
