"""Requests that expire while long batches run: they get 504 on time and are never computed.

A batch of half a second begins, followed by requests with a timeout of a twentieth of a second. All
of them expire before the next batch is assembled, so none of their images may be computed.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from http.client import HTTPException
from typing import Final

from benchmarks.open_loop import percentile
from benchmarks.peers.common import PIXELS
from benchmarks.peers.table import Request
from benchmarks.reliability.harness import (
    Figures,
    Service,
    at_most,
    equals,
    pixels,
    raw,
    run,
    service,
    told,
)
from benchmarks.reliability.long_work import IMAGES, LIMITS, long_work

TIMEOUT_S: Final = 0.05

WAITING: Final = 8
"""Concurrent requests that expire: half by the header, half by the parameter."""

SMALL: Final = 64
"""Images per request."""

LONG: Final = 2
"""Requests that keep the network busy, one batch each."""

START_S: Final = 0.03
"""Time for the first batch to start."""

LATE_MS: Final = 50.0
"""Longest acceptable delay of an answer past its deadline, as p99."""


def by_header() -> Request:
    return raw(SMALL, **{"X-Request-Timeout": str(TIMEOUT_S)})


def by_parameter() -> Request:
    """A request of the Open Inference Protocol, with a binary tensor and a timeout parameter."""
    body = pixels()[: SMALL * PIXELS]
    tensor = {"name": "images", "datatype": "UINT8", "shape": [SMALL, PIXELS]}
    head = json.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": len(body)}}],
            "parameters": {"timeout": round(TIMEOUT_S * 1e6)},
        }
    ).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return "/v2/models/anomaly-score/infer", headers, head + body


class Round:
    """One running batch, and requests that expire meanwhile."""

    def __init__(self, live: Service) -> None:
        self._live = live
        self.statuses: list[str] = []
        self.late_ms: list[float] = []
        self.long: list[int] = []

    def run(self) -> None:
        long = [threading.Thread(target=self._ask_long) for _ in range(LONG)]
        short = [
            threading.Thread(target=self._ask, args=(request,))
            for request in (by_header(), by_parameter()) * (WAITING // 2)
        ]
        for thread in long:
            thread.start()
        time.sleep(START_S)
        for thread in short:
            thread.start()
        for thread in (*short, *long):
            thread.join()

    def _ask_long(self) -> None:
        with self._live.caller() as caller:
            self.long.append(caller.ask(long_work()).status)

    def _ask(self, request: Request) -> None:
        try:
            with self._live.caller() as caller:
                answer = caller.ask(request)
        except (OSError, HTTPException) as error:
            self.statuses.append(type(error).__name__)
        else:
            self.statuses.append(str(answer.status))
            self.late_ms.append((answer.seconds - TIMEOUT_S) * 1e3)


def measure(*, short: bool) -> Figures:
    rounds = 3 if short else 60
    with service(*LIMITS, apart=True, quiet=True) as live:
        Round(live).run()  # warm-up
        counted = live.metric("vae_batch_images_sum")
        missed = live.metric("vae_deadline_misses_total")
        statuses: Counter[str] = Counter()
        late_ms: list[float] = []
        answered = 0
        for _ in range(rounds):
            this = Round(live)
            this.run()
            statuses.update(this.statuses)
            late_ms += this.late_ms
            answered += this.long.count(200)
        computed = live.metric("vae_batch_images_sum") - counted
        missed = live.metric("vae_deadline_misses_total") - missed
    late = percentile(late_ms, 0.99)
    sent = rounds * WAITING
    return told(
        [
            equals(
                f"{sent:,} requests with {TIMEOUT_S:g} s while batches of half a second run: "
                "answered with 504",
                statuses["504"],
                sent,
            ),
            at_most("delay of those answers past the deadline, p99", late, LATE_MS, " ms"),
            equals(
                f"of their {sent * SMALL:,} images, computed",
                round(computed - answered * IMAGES),
                0,
            ),
            equals("requests counted as deadline misses", round(missed), sent),
        ],
        statuses=dict(statuses),
        late_p50_ms=round(percentile(late_ms, 0.5), 2),
        late_max_ms=round(max(late_ms, default=0), 2),
        least_ms=round(min(late_ms, default=0), 2),
        long_requests_answered=answered,
        images_computed=computed,
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
