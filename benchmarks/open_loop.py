"""An open loop: requests are sent at times that were fixed before, however the server does.

::

    python -m benchmarks.open_loop --port 8000 --rate 2000 --seconds 2 <request.http

Latency counts from the time a request was meant to be sent. So one that had to wait for a free
connection, or for this generator, has waited; a stall of the server counts against all who should
have been served in it, not only against who was (Tene, "How NOT to measure latency").

Plain sockets and epoll: asyncio's timers, and uvloop's, come in whole milliseconds, in which a
server answers ten requests.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import random
import re
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Final

HOST: Final = "127.0.0.1"

CONNECTIONS: Final = 128
"""Most requests under way at once. Others wait, and their time counts."""

NEVER: Final = "none"
"""Instead of the status of an answer that did not come."""

DRAIN_S: Final = 5.0
"""For answers that are missing when the last request was sent."""

CONNECT_S: Final = 10.0
"""For a connection to be made."""

LEAD_S: Final = 0.05
"""Before the first request, so that it is not late because of the start."""

LATE_MS: Final = 1.0
"""A generator that sends one request of a hundred later than this has not kept up."""

BUSY: Final = 0.95
"""Nor has one that took more than this of a core."""

SCHEDULES: Final = ("poisson", "even")

CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

PR_SET_TIMERSLACK: Final = 29
"""From Linux's <sys/prctl.h>: how much later than asked for a sleep may end, by default 50 µs."""

clock = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of it. Latencies are of requests answered with 2xx, and of those never answered, as
    long as they were waited for; both kinds of failure are `errors`.
    """

    schedule: str
    rate: float
    """Requests a second that were meant to be sent."""
    requests: int
    answered_per_s: float
    """With 2xx, from the first request to the last answer."""
    errors: int
    statuses: Mapping[str, int]
    """How many of each; `NEVER` of those that were closed, or not answered in time."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_p99_ms: float
    """How late requests were taken up by the generator itself."""
    late_max_ms: float
    generator_cpu: float
    """Cores."""
    kept_up: bool
    """Whether the figures are the server's. If not, they are the generator's too."""


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that `share` of them do not exceed; NaN of none.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([4, 1, 3, 2], 0.99)
    (2, 4)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def times(schedule: str, rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When requests are due, in seconds from the start.

    `poisson` is as many callers that know nothing of each other send: at random, so that several
    come at once. `even` has gaps of the same length.
    """
    count = max(1, round(rate * seconds))
    if schedule == "even":
        return [number / rate for number in range(count)]
    draws = random.Random(seed)  # noqa: S311 - to be repeated
    due, found = 0.0, []
    for _ in range(count):
        due += draws.expovariate(rate)
        found.append(due)
    return found


@dataclass(eq=False)
class Connection:
    """One that is kept; `due` is when the request on it was meant to be sent."""

    port: int
    socket: socket.socket = field(init=False)
    due: float = 0.0
    busy: bool = False
    received: bytes = b""

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Connect, at first or again."""
        self.socket = socket.create_connection((HOST, self.port), timeout=CONNECT_S)
        self.socket.settimeout(None)  # with one, each call asks first whether it would block
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def receive(self) -> bytes | None:
        """The status if the answer has all come, empty if it will not; None if it may still."""
        try:
            data = self.socket.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if not data:
            return b""
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return None
        length = CONTENT_LENGTH.search(self.received, 0, head + 2)
        if not length:
            raise SystemExit("an answer has no Content-Length, which is all that is read here")
        if len(self.received) < head + 4 + int(length[1]):
            return None
        status, self.received = self.received[9:12], b""
        return status


class Generator:
    """Sends a request at each of the times `due`, in seconds from now, and waits for answers.

    Of several requests one comes after the other, again and again.
    """

    def __init__(self, port: int, *requests: bytes, connections: int = CONNECTIONS) -> None:
        self._requests = cycle(requests)
        self._poller = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.good, self.failed = 0, 0
        self.statuses: Counter[str] = Counter()
        for _ in range(connections):
            self._register(Connection(port))

    def run(self, due: Sequence[float]) -> float:
        """Seconds that it took, until the last answer or until no more are waited for."""
        start = clock() + LEAD_S
        waiting: deque[float] = deque()
        sent, total = 0, len(due)
        give_up = start + due[-1] + DRAIN_S
        answered_before = self.good + self.failed
        while self.good + self.failed - answered_before < total:
            now = clock()
            while sent < total and start + due[sent] <= now:
                self.lateness.append(now - start - due[sent])
                waiting.append(start + due[sent])
                sent += 1
            while waiting and self._idle:
                self._send(self._idle.pop(), waiting.popleft())
            now = clock()
            if now > give_up:
                break
            # select() sleeps for microseconds where epoll has whole milliseconds.
            until = start + due[sent] if sent < total else give_up
            if until > now:
                select.select([self._poller], [], [], until - now)
            for number, _ in self._poller.poll(0):
                self._receive(number)
        now = clock()
        busy = (connection.due for connection in self._connections.values() if connection.busy)
        never = [now - late for late in (*busy, *waiting)]
        self.latencies += never
        self.statuses += Counter({NEVER: len(never)})
        return now - start

    def close(self) -> None:
        """Leave all connections."""
        for connection in self._connections.values():
            connection.socket.close()
        self._poller.close()

    def _register(self, connection: Connection) -> None:
        number = connection.socket.fileno()
        self._connections[number] = connection
        self._poller.register(number, select.EPOLLIN)
        self._idle.append(connection)

    def _send(self, connection: Connection, due: float) -> None:
        connection.due, connection.busy = due, True
        with suppress(OSError):  # then it was closed, which is met when reading
            connection.socket.sendall(next(self._requests))

    def _receive(self, number: int) -> None:
        connection = self._connections[number]
        status = connection.receive()
        if status is None:
            return
        if connection.busy:
            connection.busy = False
            self.statuses[status.decode() or NEVER] += 1
            if status.startswith(b"2"):
                self.good += 1
                self.latencies.append(clock() - connection.due)
            else:
                self.failed += 1
        if status:
            self._idle.append(connection)
        else:
            self._open_again(number)

    def _open_again(self, number: int) -> None:
        connection = self._connections.pop(number)
        self._poller.unregister(number)
        connection.socket.close()
        if connection in self._idle:
            self._idle.remove(connection)
        connection.open()
        self._register(connection)


def measure(
    port: int,
    request: bytes,
    *,
    rate: float,
    seconds: float,
    schedule: str = "poisson",
    connections: int = CONNECTIONS,
) -> Report:
    """Send for so many seconds, and tell what came back."""
    due = times(schedule, rate, seconds)
    generator = Generator(port, request, connections=connections)
    before = time.process_time()
    took_s = generator.run(due)
    cpu = (time.process_time() - before) / (took_s + LEAD_S)
    generator.close()
    late_p99_ms = percentile(generator.lateness, 0.99) * 1e3
    p50_ms, p99_ms, p999_ms = (
        percentile(generator.latencies, share) * 1e3 for share in (0.5, 0.99, 0.999)
    )
    return Report(
        schedule=schedule,
        rate=rate,
        requests=len(due),
        answered_per_s=generator.good / took_s,
        errors=len(due) - generator.good,
        statuses=dict(sorted(generator.statuses.items())),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        p999_ms=p999_ms,
        late_p99_ms=late_p99_ms,
        late_max_ms=max(generator.lateness, default=math.nan) * 1e3,
        generator_cpu=cpu,
        kept_up=late_p99_ms <= LATE_MS and cpu <= BUSY,
    )


def main() -> None:
    """Send the HTTP request that stands at the standard input; print the report as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--schedule", choices=SCHEDULES, default="poisson")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    given = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)  # nanoseconds
    gc.disable()  # nothing here has cycles, and a collection would be lateness
    report = measure(
        given.port,
        sys.stdin.buffer.read(),
        rate=given.rate,
        seconds=given.seconds,
        schedule=given.schedule,
        connections=given.connections,
    )
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
