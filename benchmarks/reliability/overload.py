"""Ten times the capacity, in an open loop.

The network is made the bottleneck: each request takes 2,048 draws for each of two images, some
13 ms of forward passes for 1.5 kB of body. So a generator on the same machine can really send ten
times the capacity, and the figures say whether it kept up. Refusing takes time, too: if a request
takes the work `w` and a refusal `r`, both on one core, the goodput is at most 1 − 9 r / w.

Other processes use the machine, too, and its speed changes by half within seconds. So figures that
are compared with the capacity are measured alternately with it. All others come from one long
overload.
"""

from __future__ import annotations

import math
import statistics
import sys
import threading
import time
from typing import Any, Final, NamedTuple

from benchmarks import load
from benchmarks.open_loop import percentile
from benchmarks.peers.table import Request
from benchmarks.reliability.caller import Answer
from benchmarks.reliability.crowd import Crowd, capacity
from benchmarks.reliability.harness import (
    Figures,
    at_least,
    at_most,
    equals,
    raw,
    run,
    service,
    tell,
    told,
)

TIMES: Final = 10
"""Load as a multiple of capacity."""

IMAGES: Final = 2
DRAWS: Final = 2048
ROWS: Final = IMAGES * DRAWS // 32
"""Queue slots that each request takes."""

QUEUE: Final = 4096
"""Half a second of work, so the queue drains well within the 1 s allowed for recovery."""

CONNECTIONS: Final = 512
"""Several times as many as fit into the queue. Hardly any of them waits for a refusal."""

PROBES: Final = 4
PROBE_PAUSE_S: Final = 0.08


class Refusals:
    """Refusals, as seen by a few clients with a low rate."""

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


class Turn(NamedTuple):
    """Some seconds at capacity, immediately followed by overload."""

    able: float
    """Requests per second in a closed loop."""
    answered: float
    """Requests per second answered with 2xx under overload."""
    p99_ms: float

    @property
    def beyond_drain_ms(self) -> float:
        """How far the p99 of accepted requests exceeds the time to drain a full queue."""
        return self.p99_ms - 1e3 * drain_s(self.answered)


def drain_s(rate: float) -> float:
    """Seconds to drain a full queue at this many requests per second."""
    return QUEUE / (rate * ROWS)


def overload(port: int, heavy: Request, able: float, seconds: float) -> dict[str, Any]:
    """Run the overload and return its figures."""
    return load.open_loop(
        port,
        heavy,
        rate=TIMES * able,
        seconds=seconds,
        schedule="poisson",
        connections=CONNECTIONS,
    )


def turn(port: int, heavy: Request, able_s: float, seconds: float) -> Turn:
    able = capacity(port, load.raw_http(port, heavy), seconds=able_s)
    outcome = overload(port, heavy, able, seconds)
    tell(f"capacity {able:.1f}/s; at {TIMES} times that, {outcome['answered_per_s']:.1f}/s served")
    return Turn(able, outcome["answered_per_s"], outcome["p99_ms"])


def measure(*, short: bool) -> Figures:
    heavy = raw(IMAGES, f"/anomaly-score?score=iwae&samples={DRAWS}")
    seconds, calm_s = (2.0, 0.5) if short else (60.0, 3.0)
    turns, able_s, turn_s = (1, 0.5, 1.0) if short else (15, 4.0, 6.0)
    limits = ("--max-queue-images", str(QUEUE), "--max-images-per-request", str(QUEUE))
    with service(*limits, quiet=True) as live:
        with live.caller() as caller:
            first = caller.ask(heavy)
        if first.status != 200:
            raise RuntimeError(f"even a single request fails: {first.status}, {first.body!r}")
        able = capacity(live.port, load.raw_http(live.port, heavy), seconds=2 * calm_s)
        tell(f"capacity {able:.0f} requests/s; sending {TIMES} times that for {seconds:.0f} s")
        refusals = Refusals()
        small = Crowd(live.port, raw(1), pause_s=0.01, check=refusals.note)
        probes = Crowd(live.port, heavy, clients=PROBES, pause_s=PROBE_PAUSE_S, check=refusals.note)
        with small:
            began = time.monotonic()
            time.sleep(calm_s)
            before_ms = statistics.median(small.seconds(began)) * 1e3
            resident_mib = live.resident_mib()
            outcome: dict[str, Any] = {}
            sender = threading.Thread(
                target=lambda: outcome.update(overload(live.port, heavy, able, seconds))
            )
            sender.start()
            with probes:
                sender.join()
            over = refusals.last or time.monotonic()
            time.sleep(max(0.0, over + 2.0 - time.monotonic()))
            after = small.seconds(over + 1.0, over + 2.0)
            growth = live.resident_mib() / resident_mib - 1
        by_turns = [turn(live.port, heavy, able_s, turn_s) for _ in range(turns)]
    goodput = sum(one.answered for one in by_turns) / sum(one.able for one in by_turns)
    real_s = drain_s(outcome["answered_per_s"])
    p50_ms, p99_ms = (percentile(refusals.ms, share) for share in (0.5, 0.99))
    after_ms = statistics.median(after) * 1e3 if after else math.nan
    kinds = set(outcome["statuses"]) | {str(s) for s in (small.statuses + probes.statuses)}
    kinds |= {failure.what for failure in (*small.failures, *probes.failures)}
    hints = sorted(refusals.retry_after_s)
    plausible = bool(hints) and all(
        hint.isdigit() and real_s / 2 <= int(hint) <= 2 * real_s + 1 for hint in hints
    )
    what = f"{TIMES} × capacity, open loop, for {seconds:.0f} s"
    return told(
        [
            at_least(
                f"{TIMES} × capacity, open loop, {turns} times {turn_s:.0f} s alternating with "
                "capacity: goodput",
                goodput,
                0.9,
                " ×",
                2,
            ),
            at_most(
                "the same: p99 of accepted requests, minus the time to drain a full queue, median",
                statistics.median(one.beyond_drain_ms for one in by_turns),
                100,
                " ms",
            ),
            at_most(f"{what}: time to refusal, p99", p99_ms, 5, " ms", 2),
            equals(f"{what}: statuses", ", ".join(sorted(kinds)), "200, 503"),
            equals(f"{what}: Retry-After matches the time to drain the queue", plausible, True),
            at_most(f"{what}: memory growth", 100 * growth, 10, " %"),
            at_most(
                "median latency of one image 1 s after the overload, relative to before",
                after_ms / before_ms,
                1.5,
                " ×",
                2,
            ),
        ],
        work=f"{IMAGES} images, {DRAWS} draws of each",
        turns=[[round(number, 1) for number in one] for one in by_turns],
        capacity_per_s=round(able, 1),
        answered_per_s=round(outcome["answered_per_s"], 1),
        sent_per_s=round(outcome["rate"], 1),
        generator_kept_up=outcome["kept_up"],
        generator_cpu=round(outcome["generator_cpu"], 2),
        requests=outcome["requests"],
        statuses=outcome["statuses"],
        p50_ms=round(outcome["p50_ms"], 1),
        p99_ms=round(outcome["p99_ms"], 1),
        drain_s=round(real_s, 2),
        retry_after_s=hints,
        refusals=len(refusals.ms),
        refusal_p50_ms=round(p50_ms, 2),
        before_ms=round(before_ms, 2),
        after_ms=round(after_ms, 2),
        resident_mib=round(resident_mib, 1),
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
