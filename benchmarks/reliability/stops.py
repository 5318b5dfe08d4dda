"""Repeated SIGTERM under load: no request fails for clients that obey `Connection: close`.

A request has failed if it was sent on an established connection and got no complete 2xx answer. A
connection attempt that fails once the listener is closed does not count.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import cycle, islice
from typing import Final

from benchmarks.peers.common import HOST
from benchmarks.reliability.crowd import Crowd
from benchmarks.reliability.harness import (
    Figures,
    Service,
    at_most,
    equals,
    raw,
    run,
    service,
    tell,
    told,
)

CLIENTS: Final = 8

LOAD_S: Final = 0.4
"""Seconds under load before the signal."""

PAUSE_S: Final = 0.05
"""Pause of clients whose connections are mostly idle."""

DELAY_S: Final = 0.5

NOT_READY_S: Final = 0.1
"""Longest time to /readyz 503: at once, plus a new connection and its answer."""

NOW_S: Final = 0.5
"""Longest time from a second signal to the end."""

SHUTDOWN_S: Final = 5

PLANS: Final = ((DELAY_S, 1), (0.0, 1), (DELAY_S, 2), (DELAY_S, 1), (0.0, 2))
"""Seconds of delay and number of workers, in turn."""


@dataclass
class Stop:
    """The outcome of one stop."""

    delay_s: float
    workers: int
    failures: list[str] = field(default_factory=list)
    answered: int = 0
    answered_after: int = 0
    """Answered after the signal."""
    status: int | None = None
    exit_s: float = 0.0
    not_ready_s: float | None = None
    """Seconds from the signal to the first 503 of /readyz; None if there was none."""
    ready_after: int = 0
    """Answers of /readyz with 200 after the first with 503."""
    new_answered: int = 0
    """New connections during the delay whose request was answered with 2xx."""
    new_failed: list[str] = field(default_factory=list)


class Newcomers:
    """Opens new connections from the signal on, alternately for /readyz and for a score."""

    def __init__(self, live: Service, stop: Stop) -> None:
        self._live = live
        self._stop = stop
        self._thread = threading.Thread(target=self._ask)
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        self._thread.join()

    def _ask(self) -> None:
        while True:
            at = time.monotonic() - self._began
            with self._live.caller() as caller:
                try:
                    caller.connect()
                except OSError:
                    return
                try:
                    ready = caller.get("/readyz").status
                except (OSError, HTTPException) as error:
                    self._stop.new_failed.append(f"/readyz after {at:.3f} s: {error!r}")
                    continue
            if ready == 503 and self._stop.not_ready_s is None:
                self._stop.not_ready_s = time.monotonic() - self._began
            self._stop.ready_after += ready == 200 and self._stop.not_ready_s is not None
            with self._live.caller() as caller:
                try:
                    caller.connect()
                except OSError:
                    return
                try:
                    status = caller.ask(raw(1)).status
                except (OSError, HTTPException) as error:
                    self._stop.new_failed.append(f"after {at:.3f} s: {error!r}")
                    continue
            self._stop.new_answered += status == 200
            time.sleep(0.01)


def stop_under_load(delay_s: float, workers: int) -> Stop:
    stop = Stop(delay_s, workers)
    settings = {"VAE_SHUTDOWN_DELAY_S": str(delay_s)}
    with service("--workers", str(workers), environment=settings) as live:
        newcomers = Newcomers(live, stop)
        crowd = Crowd(live.port, raw(1), raw(256), raw(8, "/reconstruct"), clients=CLIENTS)
        # Clients that pause can be told to close only during a delay.
        leisurely = Crowd(live.port, raw(1), clients=CLIENTS if delay_s else 0, pause_s=PAUSE_S)
        with crowd, leisurely:
            time.sleep(LOAD_S)
            newcomers.begin()
            began = time.monotonic()
            stop.status, stop.exit_s = live.stop()
        newcomers.end()
        for clients in (crowd, leisurely):
            stop.failures += [f"{f.at - began:.3f} s: {f.what}" for f in clients.failures]
            stop.answered += len(clients.answers)
            stop.answered_after += len(clients.seconds(since=began))
    return stop


def second_signal(workers: int) -> float:
    """Seconds from the second signal to the end, while a request's body is incomplete."""
    flags = ("--workers", str(workers), "--shutdown-timeout-s", "30")
    with service(*flags) as live, socket.create_connection((HOST, live.port)) as stuck:
        stuck.sendall(b"POST /encode HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        time.sleep(0.2)
        live.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        if live.process.poll() is not None:
            raise RuntimeError("the first signal ended the service with a request in flight")
        began = time.monotonic()
        live.process.send_signal(signal.SIGTERM)
        with suppress(Exception):
            live.process.wait(10)
        return time.monotonic() - began


def measure(*, short: bool) -> Figures:
    plans = list(PLANS[:3]) if short else list(islice(cycle(PLANS), 20))
    stops = []
    for number, (delay_s, workers) in enumerate(plans):
        stops.append(stop_under_load(delay_s, workers))
        tell(f"stop {number + 1} of {len(plans)}: {stops[-1]}")
    now_s = {workers: second_signal(workers) for workers in ((1,) if short else (1, 2))}
    delayed = [stop for stop in stops if stop.delay_s]
    failures = [what for stop in stops for what in stop.failures]
    new_failed = [what for stop in stops for what in stop.new_failed]
    not_ready = [float("inf") if s.not_ready_s is None else s.not_ready_s for s in delayed]
    return told(
        [
            equals(f"{len(stops)} stops under load: failed requests", len(failures), 0),
            equals("failed requests on new connections", len(new_failed), 0),
            equals("exit statuses", sorted({str(stop.status) for stop in stops}), ["0"]),
            at_most(
                "time from SIGTERM to the exit, without the delay, maximum",
                max(stop.exit_s - stop.delay_s for stop in stops),
                SHUTDOWN_S,
                " s",
                2,
            ),
            at_most(
                "time from SIGTERM to /readyz 503, maximum", max(not_ready), NOT_READY_S, " s", 3
            ),
            equals(
                "answers 200 of /readyz after the first 503",
                sum(stop.ready_after for stop in delayed),
                0,
            ),
            equals(
                f"stops with a delay of {DELAY_S:g} s in which new connections were answered",
                sum(stop.new_answered > 1 for stop in delayed),
                len(delayed),
            ),
            at_most(
                "time from a second signal to the exit, maximum",
                max(now_s.values()),
                NOW_S,
                " s",
                2,
            ),
        ],
        answered=sum(stop.answered for stop in stops),
        answered_after_the_signal=sum(stop.answered_after for stop in stops),
        exit_s=[round(stop.exit_s, 2) for stop in stops],
        second_signal_s={str(workers): round(value, 2) for workers, value in now_s.items()},
        failures=failures[:20],
        new_failed=new_failed[:20],
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
