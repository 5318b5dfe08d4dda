"""An open loop: requests are sent at times fixed in advance, however the server answers.

::

    python -m benchmarks.open_loop --port 8000 --rate 2000 --seconds 2 <request.http

Latency counts from the time at which a request was due, so it includes the wait for a free
connection or for this generator. A stall of the server thus counts against every request that was
due while it lasted, not only against the one in progress (Tene, "How NOT to measure latency").

It uses plain sockets and epoll: timers of asyncio and uvloop have a resolution of a millisecond, in
which a server answers ten requests.
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
"""Max requests in progress at once. Others wait, and their wait counts."""

NEVER: Final = "none"
"""Counted instead of a status for a request that got no answer."""

DRAIN_S: Final = 5.0
"""For answers still missing when the last request has been sent."""

CONNECT_S: Final = 10.0
"""To open a connection."""

LEAD_S: Final = 0.05
"""Before the first request, so that the start does not make it late."""

LATE_MS: Final = 1.0
"""A generator that sends more than one request in a hundred later than this has not kept up."""

BUSY: Final = 0.95
"""Nor has one that used more than this share of a core."""

SCHEDULES: Final = ("poisson", "even")

CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

PR_SET_TIMERSLACK: Final = 29
"""From Linux's <sys/prctl.h>: how late a sleep may end; 50 µs by default."""

clock = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one run.

    Latencies are of requests answered with 2xx and of those never answered, which count with the
    time they were waited for. Requests without a 2xx answer are `errors`.
    """

    schedule: str
    rate: float
    """Requests per second that were due."""
    requests: int
    answered_per_s: float
    """Answers of 2xx, over the time from the first request to the last answer."""
    errors: int
    statuses: Mapping[str, int]
    """The number of each; `NEVER` if the connection was closed or the answer not there in time."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_p99_ms: float
    """How late the generator itself took requests up."""
    late_max_ms: float
    generator_cpu: float
    """In cores."""
    kept_up: bool
    """Whether the figures are the server's alone; otherwise the generator's delays are in them."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that a `share` of the values do not exceed; NaN if there are none.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([4, 1, 3, 2], 0.99)
    (2, 4)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def times(schedule: str, rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When requests are due, in seconds from the start.

    `poisson` is how many independent clients send: at random, so that several requests may come
    at once. `even` has gaps of equal length.
    """
    count = max(1, round(rate * seconds))
    if schedule == "even":
        return [number / rate for number in range(count)]
    draws = random.Random(seed)  # noqa: S311 - reproducible
    at, due = 0.0, []
    for _ in range(count):
        at += draws.expovariate(rate)
        due.append(at)
    return due


@dataclass(eq=False)
class Connection:
    """A connection that is kept open; `due` is when the request on it was due."""

    port: int
    socket: socket.socket = field(init=False)
    due: float = 0.0
    busy: bool = False
    received: bytes = b""

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Connect, for the first time or again."""
        self.socket = socket.create_connection((HOST, self.port), timeout=CONNECT_S)
        self.socket.settimeout(None)  # with a timeout, each call polls first
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def receive(self) -> bytes | None:
        """The status if the answer is complete, empty if it never will be, None while it may."""
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
            raise SystemExit("an answer has no Content-Length, and others are not supported")
        if len(self.received) < head + 4 + int(length[1]):
            return None
        status, self.received = self.received[9:12], b""
        return status


class Generator:
    """Sends a request at each of the times `due`, in seconds from now, and waits for the answers.

    Several requests are sent in turn.
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
        """Send all requests. Returns the seconds until the last answer, or until giving up."""
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
            # select() sleeps for microseconds; the resolution of epoll is a millisecond.
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
        """Close all connections."""
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
        with suppress(OSError):  # it was closed, which the next read notices
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
    """Send for `seconds`, and return the figures."""
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
    """Send the HTTP request that is read from standard input; print a report as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.open_loop", description=main.__doc__
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--schedule", choices=SCHEDULES, default="poisson")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    given = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)  # nanoseconds
    gc.disable()  # nothing here has cycles, and a collection would make requests late
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
