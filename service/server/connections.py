"""The open connections of a process: their number, their timeouts, and how they are closed."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Final, Protocol

from service.limits.byte_budget import ByteBudget
from service.limits.deadlines import Deadlines
from service.settings import Settings
from service.telemetry.metrics import Metrics

TIMEOUT_GRAIN_S: Final = 0.25
"""Deadlines are rounded up to a multiple of this, so that one timer can end many connections."""


COLLECT_S: Final = 0.25
"""How long the rest of a body may take to arrive before the parser is given what there is."""


class Connection(Protocol):
    """What `Connections` needs of a connection."""

    def on_timeout(self) -> None:
        """Its deadline has passed."""

    def close(self) -> None:
        """Close now, to make room for another connection."""

    def close_after_answer(self) -> None:
        """Close after the current answer, or the next one."""


class Connections:
    """All connections, their deadlines, and which of them are idle.

    Idle connections are waiting for a request. They are kept in order, the longest idle one first.
    """

    def __init__(self, settings: Settings, metrics: Metrics, budget: ByteBudget) -> None:
        """`budget` also counts the parts of answers that clients have not read."""
        self.budget = budget
        self.header_timeout_s = settings.header_timeout_s
        self.keep_alive_s = settings.keep_alive_s
        self._max = settings.max_connections
        self._metrics = metrics
        self._deadlines = Deadlines[Connection](lambda connection: connection.on_timeout())
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self.closing = False
        """Whether each connection closes after its next answer."""
        metrics.watch_connections(lambda: len(self._all))

    def add(self, connection: Connection) -> bool:
        """Add a connection that is waiting for its first request.

        At the limit, the longest idle one is closed to make room. False if none is idle.
        """
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
        """Count an answer to something that is not a request."""
        self._metrics.count_invalid_request(status)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._all.discard(connection)
        self.mark_busy(connection)

    def mark_idle(self, connection: Connection, timeout_s: float) -> None:
        """The connection is waiting for a request, for at most `timeout_s`."""
        self._idle[connection] = None
        self._set_timeout(connection, timeout_s)

    def mark_reading(self, connection: Connection) -> None:
        """The connection is waiting for its client, for at most `header_timeout_s`.

        That is for the rest of a head, for the rest of a body whose request is already answered, or
        for the client to read more of an answer.
        """
        self._set_timeout(connection, self.header_timeout_s)

    def mark_collecting(self, connection: Connection) -> None:
        """The rest of a small body should arrive at once."""
        self._idle.pop(connection, None)
        self._set_timeout(connection, COLLECT_S)

    def mark_busy(self, connection: Connection) -> None:
        """The connection has a request, and no deadline of its own."""
        self._idle.pop(connection, None)
        self._deadlines.discard(connection)

    def close_after_answers(self) -> None:
        """Close each connection after its current or next answer."""
        self.closing = True
        for connection in self._all:
            connection.close_after_answer()

    @property
    def has_idle(self) -> bool:
        """Whether any connection is waiting for a request."""
        return bool(self._idle)

    def _set_timeout(self, connection: Connection, timeout_s: float) -> None:
        when = math.ceil((perf_counter() + timeout_s) / TIMEOUT_GRAIN_S) * TIMEOUT_GRAIN_S
        self._deadlines.add(connection, when)
