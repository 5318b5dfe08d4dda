"""One image at a time, beside streams of 4,096-image requests that saturate the service.

Two streams are tried: scores of raw bytes, which are forward passes, and reconstructions as JSON
numbers, which are 30 MB of text each. Who waits are one-image requests, one after the other. The
streams come from a process that is nice to all others, so that it is the service that is measured.
"""

from __future__ import annotations

import sys
import time
from typing import Final

from benchmarks.open_loop import percentile
from benchmarks.peers.table import Request
from tests.load.crowd import Crowd, stream
from tests.load.harness import Figures, Promise, Service, at_most, equals, raw, run, service, told

LARGE: Final = 4096
"""Images of a request of the stream."""

GOAL: Final = 10.0

PAUSE_S: Final = 0.002
"""Between one-image requests, of which there are then some hundreds a second."""

STREAMS: Final = {
    "raw scores": ("/anomaly-score", 4),
    "JSON of reconstructions": ("/reconstruct", 2),
}
"""Path, and clients at once."""


def unloaded(live: Service, seconds: float) -> list[float]:
    """What one-image requests take."""
    with Crowd(live.port, raw(1), pause_s=PAUSE_S) as crowd:
        time.sleep(seconds)
    return crowd.seconds()


def measure(*, short: bool) -> Figures:
    seconds, rounds = (1.0, 1) if short else (10.0, 3)
    promises: list[Promise] = []
    figures: Figures = {}
    with service(apart=True, quiet=True) as live:
        unloaded(live, 0.5)  # the first are slow
        for name, (path, clients) in STREAMS.items():
            alone: list[float] = []
            beside: list[float] = []
            large: Request = raw(LARGE, path)
            answered, others = 0, 0
            for _ in range(rounds):
                alone += unloaded(live, seconds)
                crowd = Crowd(live.port, raw(1), pause_s=PAUSE_S)
                with stream(live.port, [large], clients) as statuses, crowd:
                    time.sleep(seconds)
                beside += crowd.seconds()
                answered += statuses[200]
                others += statuses.total() - statuses[200] + len(crowd.failures)
            p99_ms = {
                kind: percentile(took, 0.99) * 1e3
                for kind, took in (("unloaded", alone), ("beside", beside))
            }
            ratio = p99_ms["beside"] / p99_ms["unloaded"]
            what = f"p99 of one image beside {clients} × {LARGE:,} images ({name})"
            promises += [
                at_most(f"{what}, against unloaded", ratio, GOAL, " ×"),
                equals(f"{what}: requests failed", others, 0),
            ]
            figures[name] = {
                "unloaded_p50_ms": round(percentile(alone, 0.5) * 1e3, 2),
                "unloaded_p99_ms": round(p99_ms["unloaded"], 2),
                "beside_p50_ms": round(percentile(beside, 0.5) * 1e3, 2),
                "beside_p99_ms": round(p99_ms["beside"], 2),
                "beside_max_ms": round(max(beside, default=0) * 1e3, 2),
                "one_image_requests": len(beside),
                "large_requests": answered,
            }
    return told(promises, **figures)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
