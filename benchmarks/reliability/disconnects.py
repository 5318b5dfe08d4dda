"""Clients queue images and disconnect while a long batch runs: the images are never computed."""

from __future__ import annotations

import socket
import sys
import threading
import time
from typing import Final

from benchmarks.load import raw_http
from benchmarks.peers.common import HOST
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
from benchmarks.reliability.long_work import IMAGES, LIMITS, long_work

LEAVERS: Final = 32
"""Concurrent clients that do not wait for their answer."""

SMALL: Final = 64
"""Images per request."""

SEEN_S: Final = 5.0
"""Longest wait for the queue to reach the expected length."""

EMPTY_MS: Final = 100.0
"""Longest time from the last disconnect to an empty queue, according to /metrics."""


def leave(live: Service) -> tuple[bool, float | None, bool]:
    """Run one batch while other clients queue images and disconnect.

    Returns whether all images were queued before, the seconds until the queue was empty, and
    whether the batch's own request was answered.
    """
    good: list[bool] = []

    def ask() -> None:
        with live.caller() as caller:
            good.append(caller.ask(long_work()).status == 200)

    keep_busy = threading.Thread(target=ask)
    keep_busy.start()
    time.sleep(0.03)  # time for the batch to begin
    sockets = [socket.create_connection((HOST, live.port), SEEN_S) for _ in range(LEAVERS)]
    for one in sockets:
        one.sendall(raw_http(live.port, raw(SMALL)))
    queued = wait_for(lambda: live.metric("vae_queue_images") == LEAVERS * SMALL, SEEN_S)
    for one in sockets:
        one.close()
    gone_s = wait_for(lambda: live.metric("vae_queue_images") == 0, SEEN_S)
    keep_busy.join()
    return queued is not None and queued < SEEN_S, gone_s, good == [True]


def measure(*, short: bool) -> Figures:
    rounds = 2 if short else 30
    with service(*LIMITS, apart=True, quiet=True) as live:
        with live.caller() as caller:
            caller.ask(long_work())  # warm-up
        counted = live.metric("vae_batch_images_sum")
        left = live.metric("vae_disconnects_total")
        outcomes = [leave(live) for _ in range(rounds)]
        wait_for(lambda: live.metric("vae_disconnects_total") - left == rounds * LEAVERS, SEEN_S)
        computed = live.metric("vae_batch_images_sum") - counted
        left = live.metric("vae_disconnects_total") - left
    times = [seconds for _, seconds, _ in outcomes if seconds is not None]
    worst_ms = max(times, default=float("inf")) * 1e3
    return told(
        [
            equals(
                f"of {rounds * LEAVERS * SMALL:,} images whose client disconnected while a batch "
                "ran, computed",
                round(computed) - sum(answered for *_, answered in outcomes) * IMAGES,
                0,
            ),
            at_most(
                "time from the last disconnect to an empty queue, maximum",
                worst_ms,
                EMPTY_MS,
                " ms",
            ),
            equals("requests counted as disconnects", round(left), rounds * LEAVERS),
            equals(
                "rounds in which all images were queued before the disconnect",
                sum(q for q, *_ in outcomes),
                rounds,
            ),
        ],
        empty_ms=[round(seconds * 1e3, 1) for seconds in times],
        others_answered=sum(answered for *_, answered in outcomes),
        images_computed=computed,
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
