"""Repeated `kill -9` of one of two workers under load, then a stop of the whole service."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.reliability.crowd import Crowd
from benchmarks.reliability.harness import (
    Figures,
    Service,
    at_most,
    equals,
    raw,
    run,
    service,
    told,
    wait_for,
)
from benchmarks.reliability.sockets import peers_of, zombies
from benchmarks.servers import is_free

CLIENTS: Final = 8

PAUSE_S: Final = 0.004
"""Pause of each client between two requests. Without it, the clients would use a whole core and the
remaining worker the other one, so none would be left for the worker that starts."""

LOAD_S: Final = 0.5
"""Seconds under load before a worker is killed, and after it has been replaced."""

READY_S: Final = 1.0

WAIT_S: Final = 20.0
"""Longest wait for a new worker."""


class Killed(NamedTuple):
    """The outcome of one `kill -9`."""

    lost: int
    connected: int
    """Clients that were connected to the worker: each had at most one request in flight."""
    ready_s: float
    reaped: bool


def kill_one(live: Service, crowd: Crowd) -> Killed:
    """Kill the worker with the most connections."""
    time.sleep(LOAD_S)
    before = live.workers()
    victim = max(before, key=lambda pid: len(peers_of(pid, live.port)))
    failed = len(crowd.failures)
    connected = len(peers_of(victim, live.port))
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    ready_s = float("inf")
    while time.monotonic() - killed < WAIT_S:
        if (new := live.workers() - before) and _answers(live, new):
            ready_s = time.monotonic() - killed
            break
    time.sleep(LOAD_S)
    reaped = wait_for(lambda: not Path(f"/proc/{victim}").exists(), 1.0) is not None
    return Killed(len(crowd.failures) - failed, connected, ready_s, reaped)


def _answers(live: Service, pids: set[int]) -> bool:
    """Whether a request reaches one of these processes and is answered with 200."""
    with suppress(OSError, HTTPException), live.caller(0.2) as caller:
        good = caller.get("/readyz").status == 200
        return good and any(caller.own_port in peers_of(pid, live.port) for pid in pids)
    return False


def measure(*, short: bool) -> Figures:
    kills = 1 if short else 10
    with service("--workers", "2") as live:
        with Crowd(live.port, raw(1), clients=CLIENTS, pause_s=PAUSE_S) as crowd:
            outcomes = [kill_one(live, crowd) for _ in range(kills)]
        per_client = [sum(f.client == i for f in crowd.failures) for i in range(CLIENTS)]
        pids = live.workers()
        unreaped = zombies(live.pid)
        with Crowd(live.port, raw(1), clients=CLIENTS):
            time.sleep(LOAD_S)
            status, stop_s = live.stop()
            alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        free = is_free(live.port)
    wrong = {f.what for f in crowd.failures if f.what[0].isdigit()}
    return told(
        [
            equals(
                f"kill -9 of a worker under load, {kills} times: requests lost that it had not in "
                "flight",
                sum(max(0, one.lost - one.connected) for one in outcomes),
                0,
            ),
            at_most(
                "time until another worker answers, maximum",
                max(one.ready_s for one in outcomes),
                READY_S,
                " s",
                2,
            ),
            equals("wrong answers meanwhile", len(wrong), 0),
            equals(
                "dead workers that were not reaped",
                sum(not one.reaped for one in outcomes) + len(unreaped),
                0,
            ),
            equals("workers still alive after the parent has stopped", len(alive), 0),
            equals("the port is free after the stop", free, True),
            equals("exit status of the stopped service", status, 0),
        ],
        kills=[one._asdict() for one in outcomes],
        lost_per_client=per_client,
        answered=len(crowd.answers),
        stop_s=round(stop_s, 2),
        wrong=sorted(wrong),
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
