"""Clients in a closed loop, on threads of this process or in a process with a low priority."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

from benchmarks.open_loop import Generator
from benchmarks.peers.table import Request
from benchmarks.reliability.caller import Answer, Caller

SPAWN: Final = get_context("spawn")

RETRY_S: Final = 0.01
"""Pause after a failed connection attempt."""

PASS_S: Final = 2.0
"""Length of a pass of a closed loop. All its requests are due at once, and `benchmarks.open_loop`
waits only 5 s for the last answers."""

NICE: Final = 19
"""The load generator must not delay the process that measures."""


class Failure(NamedTuple):
    """A request that was sent, and got a wrong answer or none."""

    at: float
    """Time by `time.monotonic`."""
    client: int
    what: str


class Crowd:
    """Clients that obey `Connection: close`, each with its own thread and connection.

    A failed connection attempt is not a failed request. A request on an established connection that
    gets no complete answer is one. `check` returns what is wrong with an answer; by default, every
    status but 2xx is wrong.
    """

    def __init__(
        self,
        port: int,
        *requests: Request,
        clients: int = 1,
        pause_s: float = 0.0,
        check: Callable[[Answer], str | None] | None = None,
    ) -> None:
        self._port = port
        self._requests = requests
        self._pause_s = pause_s
        self._check = check or _not_good
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]
        self.answers: list[tuple[float, int, float]] = []
        """For each answer: time of arrival, status, latency in seconds."""
        self.failures: list[Failure] = []
        self.refused = 0
        """Failed connection attempts."""

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the requests in flight finish, then stop."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for _, status, _ in self.answers)

    def seconds(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Latencies of the requests that were answered with 2xx in this period."""
        return [
            took for at, status, took in self.answers if since <= at <= until and status // 100 == 2
        ]

    def _ask(self, number: int) -> None:
        requests = islice(cycle(self._requests), number, None)
        with Caller(self._port) as caller:
            while not self._over.is_set():
                try:
                    caller.connect()
                except OSError:
                    self.refused += 1
                    self._over.wait(RETRY_S)
                    continue
                try:
                    answer = caller.ask(next(requests))
                except (OSError, HTTPException) as error:
                    what: str | None = f"{type(error).__name__}: {error}"
                else:
                    self.answers.append((time.monotonic(), answer.status, answer.seconds))
                    what = self._check(answer)
                if what:
                    self.failures.append(Failure(time.monotonic(), number, what))
                if self._pause_s:
                    self._over.wait(self._pause_s)


def _not_good(answer: Answer) -> str | None:
    return None if answer.status // 100 == 2 else f"{answer.status} {answer.body[:200]!r}"


def capacity(port: int, *requests: bytes, seconds: float, connections: int = 16) -> float:
    """Answers per second in a closed loop over `connections`."""
    generator = Generator(port, *requests, connections=connections)
    try:
        count = 2 * connections
        rate = count / generator.run([0.0] * count)
        answered, took_s, until = 0, 0.0, time.monotonic() + seconds
        while time.monotonic() < until:
            count = max(connections, round(rate * min(seconds, PASS_S)))
            took_s += generator.run([0.0] * count)
            answered += count
    finally:
        generator.close()
    return answered / took_s


@contextmanager
def stream(port: int, requests: Sequence[Request], clients: int) -> Iterator[Counter[int]]:
    """Run a crowd in a separate low-priority process. Yields its statuses, complete at the end.

    A request without an answer counts as status 0. The block begins once the crowd has had as many
    answers and failures as it has clients.
    """
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_stream, args=(port, requests, clients, theirs), daemon=True)
    process.start()
    theirs.close()
    statuses: Counter[int] = Counter()
    try:
        ours.recv()
        yield statuses
        ours.send(None)
        statuses.update(ours.recv())
        process.join()
    finally:
        process.kill()
        process.join()
        ours.close()


def _stream(port: int, requests: Sequence[Request], clients: int, news: Connection) -> None:
    os.nice(NICE)
    with Crowd(port, *requests, clients=clients) as crowd:
        while len(crowd.answers) + len(crowd.failures) < clients:
            time.sleep(RETRY_S)
        news.send(None)
        with suppress(EOFError):
            news.recv()
    broken_off = sum(not failure.what[0].isdigit() for failure in crowd.failures)
    news.send(crowd.statuses + Counter({0: broken_off}))
