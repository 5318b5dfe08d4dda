"""Ten times as many requests as it can serve, whether it is ready or not.

The network is made the bottleneck: each request draws 2,048 times for each of two images, some
13 ms of forward passes for 1.5 kB of body. So ten times the capacity is what a generator beside it
can really send; that it kept up is among the figures. Refusing takes time, too, so that for work
of `w` a request and `r` a refusal, both on one core, the goodput is at most 1 − 9 r / w.
"""

from __future__ import annotations

import math
import statistics
import sys
import threading
import time
from typing import Any, Final

from benchmarks import load
from benchmarks.open_loop import percentile
from tests.load.caller import Answer
from tests.load.crowd import Crowd, capacity
from tests.load.harness import Figures, at_least, at_most, equals, raw, run, service, tell, told

TIMES: Final = 10
"""Of the capacity, that are sent."""

IMAGES: Final = 2
DRAWS: Final = 2048
ROWS: Final = IMAGES * DRAWS // 32
"""Places in the queue that a request takes."""

QUEUE: Final = 4096
"""Half a second of work: back to normal within 1 s after is more than the queue's length."""

CONNECTIONS: Final = 512
"""Several times what fits into the queue: of requests that are refused, hardly any is under way."""

PROBES: Final = 4
PROBE_PAUSE_S: Final = 0.08

MARGIN_S: Final = 0.1
"""On top of the queue's length: the batch that runs, and the answer's way."""


class Refusals:
    """What a few callers saw who do not send more than a trickle."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self.retry_after_s: set[str] = set()
        self.last = 0.0

    def note(self, answer: Answer) -> str | None:
        if answer.status == 503:
            self.ms.append(answer.seconds * 1e3)
            self.retry_after_s.add(answer.headers.get("retry-after", "none"))
            self.last = time.monotonic()
        return None if answer.status in (200, 503) else f"{answer.status} {answer.body[:200]!r}"


def measure(*, short: bool) -> Figures:
    heavy = raw(IMAGES, f"/anomaly-score?score=iwae&samples={DRAWS}")
    seconds, calm_s = (2.0, 0.5) if short else (60.0, 3.0)
    limits = ("--max-queue-images", str(QUEUE), "--max-images-per-request", str(QUEUE))
    with service(*limits, quiet=True) as live:
        first = capacity(live.port, load.raw_http(live.port, heavy), seconds=2 * calm_s)
        tell(f"capacity {first:.0f} requests/s; for {seconds:.0f} s there will be {TIMES} times it")
        refusals = Refusals()
        small = Crowd(live.port, raw(1), pause_s=0.01, check=refusals.note)
        probes = Crowd(live.port, heavy, clients=PROBES, pause_s=PROBE_PAUSE_S, check=refusals.note)
        with small:
            began = time.monotonic()
            time.sleep(calm_s)
            before_ms = statistics.median(small.seconds(began)) * 1e3
            resident_mib = live.resident_mib()
            found: dict[str, Any] = {}
            sender = threading.Thread(
                target=lambda: found.update(
                    load.open_loop(
                        live.port,
                        heavy,
                        rate=TIMES * first,
                        seconds=seconds,
                        schedule="poisson",
                        connections=CONNECTIONS,
                    )
                )
            )
            sender.start()
            with probes:
                sender.join()
            over = refusals.last or time.monotonic()
            time.sleep(max(0.0, over + 2.0 - time.monotonic()))
            after = small.seconds(over + 1.0, over + 2.0)
            growth = live.resident_mib() / resident_mib - 1
        # Others use the machine, too: it may have become slower or faster meanwhile.
        again = capacity(live.port, load.raw_http(live.port, heavy), seconds=2 * calm_s)
        able = (first + again) / 2
    drain_s, real_s = (QUEUE / (rate * ROWS) for rate in (able, found["answered_per_s"]))
    p50_ms, p99_ms = (percentile(refusals.ms, share) for share in (0.5, 0.99))
    after_ms = statistics.median(after) * 1e3 if after else math.nan
    kinds = set(found["statuses"]) | {str(s) for s in (small.statuses + probes.statuses)}
    kinds |= {failure.what for failure in (*small.failures, *probes.failures)}
    hints = sorted(refusals.retry_after_s)
    plausible = bool(hints) and all(
        hint.isdigit() and real_s / 2 <= int(hint) <= 2 * real_s + 1 for hint in hints
    )
    return told(
        [
            at_least(
                f"{TIMES} × capacity, open loop: goodput against capacity",
                found["answered_per_s"] / able,
                0.9,
                " ×",
            ),
            at_most(
                f"{TIMES} × capacity: p99 of accepted requests, with 100 ms on top of queue limit "
                "over drain rate",
                found["p99_ms"],
                round((drain_s + MARGIN_S) * 1e3),
                " ms",
            ),
            at_most(f"{TIMES} × capacity: time to refusal, p99", p99_ms, 5, " ms", 2),
            equals(f"{TIMES} × capacity: statuses", ", ".join(sorted(kinds)), "200, 503"),
            equals(
                f"{TIMES} × capacity: Retry-After fits the time in which the queue drains",
                plausible,
                True,
            ),
            at_most(f"{TIMES} × capacity: growth of memory", 100 * growth, 10, " %"),
            at_most(
                "median of one image 1 s after the overload, against before",
                after_ms / before_ms,
                1.5,
                " ×",
                2,
            ),
        ],
        work=f"{IMAGES} images, {DRAWS} draws of each",
        capacity_per_s=[round(first, 1), round(again, 1)],
        sent_per_s=round(found["rate"], 1),
        generator_kept_up=found["kept_up"],
        generator_cpu=round(found["generator_cpu"], 2),
        requests=found["requests"],
        statuses=found["statuses"],
        p50_ms=round(found["p50_ms"], 1),
        drain_s=round(drain_s, 2),
        drain_under_overload_s=round(real_s, 2),
        retry_after_s=hints,
        refusals=len(refusals.ms),
        refusal_p50_ms=round(p50_ms, 2),
        before_ms=round(before_ms, 2),
        after_ms=round(after_ms, 2),
        resident_mib=round(resident_mib, 1),
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
