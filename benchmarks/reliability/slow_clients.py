"""Many connections that send a head or a body byte by byte, and more idle ones than are allowed.

The latency of other clients is measured alternately without and with the slow connections, which
come from a low-priority process.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

from benchmarks.load import raw_http
from benchmarks.open_loop import percentile
from benchmarks.peers.common import HOST
from benchmarks.reliability.crowd import NICE, SPAWN, Crowd
from benchmarks.reliability.harness import (
    Figures,
    Promise,
    Service,
    at_most,
    equals,
    raw,
    run,
    service,
    told,
    wait_for,
)
from benchmarks.reliability.slow import SlowClients

PAUSE_S: Final = 0.002

GOAL: Final = 1.2

SLACK_S: Final = 2.0
"""Longest time from a slow client's timeout to the end of its connection."""


def _dawdle(port: int, count: int, seconds: float, news: Connection) -> None:
    os.nice(NICE)
    slow = SlowClients(port, count)
    news.send(None)
    slow.dawdle(seconds)
    outcome = {
        kind: (slow.statuses(kind), *(slow.closed_s(kind, share) for share in (0.0, 1.0)))
        for kind in ("head", "body")
    }
    slow.close()
    news.send(outcome)


@contextmanager
def dawdlers(port: int, count: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Run slow clients until all are closed. Yields a dictionary that is filled at the end.

    By kind, it has the statuses, and the least and the most seconds until the close.
    """
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_dawdle, args=(port, count, seconds, theirs), daemon=True)
    process.start()
    theirs.close()
    outcome: dict[str, Any] = {}
    try:
        ours.recv()
        yield outcome
        outcome.update(ours.recv())
    finally:
        process.kill()
        process.join()
        ours.close()


def p99_ms(live: Service, seconds: float) -> float:
    """The p99 of one-image requests sent one by one. Raises `RuntimeError` if one fails."""
    with Crowd(live.port, raw(1), pause_s=PAUSE_S) as crowd:
        time.sleep(seconds)
    if crowd.failures:
        raise RuntimeError(f"a request that was not slow failed: {crowd.failures[0].what}")
    return percentile(crowd.seconds(), 0.99) * 1e3


def slow_promises(*, short: bool) -> tuple[list[Promise], Figures]:
    count, rounds, seconds = (100, 1, 0.5) if short else (1000, 5, 8.0)
    limits = {"head": 1.5, "body": 2.5} if short else {"head": 10.0, "body": 12.0}
    flags = ("--header-timeout-s", f"{limits['head']:g}", "--request-timeout-s")
    with service(*flags, f"{limits['body']:g}", apart=True, quiet=True) as live:
        p99_ms(live, seconds)  # warm-up
        without, beside = [], []
        statuses: dict[str, Counter[str]] = {kind: Counter() for kind in limits}
        ends: dict[str, list[float]] = {kind: [] for kind in limits}
        for _ in range(rounds):
            without.append(p99_ms(live, seconds))
            with dawdlers(live.port, count, max(limits.values()) + 2 * SLACK_S) as outcome:
                beside.append(p99_ms(live, seconds))
            for kind, (of_kind, least, most) in outcome.items():
                statuses[kind] += of_kind
                ends[kind] += [least, most]
    ratios = [b / a for a, b in zip(without, beside, strict=True)]
    each = rounds * count // 2
    promises = [
        at_most(
            f"p99 of others beside {count:,} slow connections, relative to none",
            statistics.median(ratios),
            GOAL,
            " ×",
            2,
        )
    ]
    for kind, limit_s in limits.items():
        promises += [
            equals(
                f"{each:,} connections that send a {kind} byte by byte: ended with 408",
                statuses[kind]["408"],
                each,
            ),
            at_most(
                f"slow {kind}, {limit_s:g} s allowed: the last one is closed after",
                max(ends[kind]),
                limit_s + SLACK_S,
                " s",
                2,
            ),
            Promise(
                what=f"slow {kind}, {limit_s:g} s allowed: the first one is closed after",
                goal=f"≥ {limit_s - 0.1:g} s",
                measured=f"{min(ends[kind]):.2f} s",
                reached=min(ends[kind]) >= limit_s - 0.1,
            ),
        ]
    return promises, {
        "without_p99_ms": [round(value, 2) for value in without],
        "beside_p99_ms": [round(value, 2) for value in beside],
        "statuses": {kind: dict(counts) for kind, counts in statuses.items()},
    }


def idle_promises(*, short: bool) -> list[Promise]:
    """Connections that are idle after one answered request."""
    most, keep_s = (40, 1) if short else (1000, 10)
    flags = ("--max-connections", str(most), "--keep-alive-s", str(keep_s))
    with service(*flags, quiet=True) as live:
        request = raw_http(live.port, raw(1))
        idle = []
        for _ in range(most + most // 2):
            idle.append(socket.create_connection((HOST, live.port), 10))
            idle[-1].sendall(request)
            idle[-1].recv(65_536)
            idle[-1].setblocking(False)
        wait_for(lambda: sum(map(_is_open, idle)) <= most, 0.5)
        kept = sum(map(_is_open, idle))
        answer = live.get("/livez").status
        gone_s = wait_for(lambda: not any(map(_is_open, idle)), keep_s + SLACK_S + 1)
        for one in idle:
            one.close()
    return [
        Promise(
            what=f"of {len(idle):,} idle connections, kept of {most:,} allowed",
            goal=f"{most - 1:,} or {most:,}",
            measured=f"{kept:,}",
            reached=most - 1 <= kept <= most,
        ),
        equals("status on a new connection beside them", answer, 200),
        at_most(
            f"idle connections are closed after {keep_s} s, the last one after",
            float("inf") if gone_s is None else gone_s,
            keep_s + SLACK_S,
            " s",
        ),
    ]


def _is_open(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(65_536))
    except BlockingIOError:
        return True
    except OSError:
        return False


def measure(*, short: bool) -> Figures:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited by child processes
    promises, figures = slow_promises(short=short)
    return told([*promises, *idle_promises(short=short)], **figures)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
