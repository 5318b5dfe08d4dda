"""Latency of one-image requests beside streams of 4,096-image requests that saturate the service.

There are four streams: scores of raw bytes, which are forward passes; reconstructions as JSON
numbers, 30 MB of text each; infer requests of the Open Inference Protocol, 10 MB of numbers each;
and forms of PNG files. Latency is measured on one-image requests sent one after the other; beside
forms, these are forms, too. The streams come from a low-priority process, so that they do not slow
down the measuring process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import orjson
from PIL import Image

from benchmarks.open_loop import percentile
from benchmarks.peers.common import PIXELS
from benchmarks.peers.table import Request
from benchmarks.reliability.crowd import Crowd, stream
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
)
from benchmarks.reliability.mutation import file_of, form_of

FORM: Final = "multipart/form-data; boundary=xyz"

LARGE: Final = 4096
"""Images per request of the stream."""

GOAL: Final = 10.0

PAUSE_S: Final = 0.002
"""Pause between one-image requests: a few hundred per second are sent."""


class Stream(NamedTuple):
    """A stream of large requests, and the one-image requests measured beside it."""

    request: Callable[[int], Request]
    """Called with the number of images."""
    clients: int
    """Number of concurrent clients."""
    one: Callable[[int], Request] = raw
    """Makes the one-image request."""


def infer(images: int) -> Request:
    """An infer request, as JSON."""
    numbers = np.frombuffer(raw(images)[2], np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [images, PIXELS], "data": numbers}
    body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return "/v2/models/anomaly-score/infer", {"Content-Type": "application/json"}, body


def form(images: int) -> Request:
    """A form of PNG files."""
    pixels = np.frombuffer(raw(images)[2], np.uint8).reshape(images, 28, 28)
    files = (file_of(Image.fromarray(image), "PNG") for image in pixels)
    return "/anomaly-score", {"Content-Type": FORM}, form_of(*files)


STREAMS: Final = {
    "raw scores": Stream(raw, 4),
    "JSON of reconstructions": Stream(lambda images: raw(images, "/reconstruct"), 2),
    "infer requests": Stream(infer, 2),
    "forms": Stream(form, 2, one=form),
}


def unloaded(live: Service, seconds: float, one: Request) -> list[float]:
    """Latencies of one-image requests without other load."""
    with Crowd(live.port, one, pause_s=PAUSE_S) as crowd:
        time.sleep(seconds)
    return crowd.seconds()


def measure(*, short: bool) -> Figures:
    seconds, rounds = (1.0, 1) if short else (10.0, 3)
    promises: list[Promise] = []
    figures: Figures = {}
    with service(apart=True, quiet=True) as live:
        for name, (request, clients, single) in STREAMS.items():
            one, large = single(1), request(LARGE)
            unloaded(live, 0.5, one)  # warm-up
            alone: list[float] = []
            beside: list[float] = []
            answered, others = 0, 0
            for _ in range(rounds):
                alone += unloaded(live, seconds, one)
                crowd = Crowd(live.port, one, pause_s=PAUSE_S)
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
                at_most(f"{what}, relative to unloaded", ratio, GOAL, " ×"),
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
