"""Twenty minutes of mixed requests at 80 % of capacity: nothing may grow.

An open loop sends a fixed mixture: scores as JSON, raw bytes, PNG and by the Open Inference
Protocol, reconstructions, samples, and invalid requests. Meanwhile, some clients disconnect
halfway, and some set a timeout that is too short.
"""

from __future__ import annotations

import gc
import json
import socket
import statistics
import sys
import threading
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from typing import Any, Final

import numpy as np

from benchmarks.load import raw_http
from benchmarks.open_loop import Generator, percentile, times
from benchmarks.peers.common import HOST, PIXELS
from benchmarks.peers.sample import png
from benchmarks.peers.table import Request
from benchmarks.reliability.crowd import capacity
from benchmarks.reliability.harness import (
    RAW,
    Figures,
    Service,
    at_most,
    equals,
    pixels,
    raw,
    run,
    service,
    tell,
    told,
    wait_for,
)

SHARE: Final = 0.8
"""Load as a fraction of capacity."""

CONNECTIONS: Final = 64

LEAVE_PAUSE_S: Final = 0.2
"""Pause between two clients that leave."""

GROWTH: Final = 5.0
"""Largest growth of memory, in percent."""

SLOWER: Final = 1.5
"""Largest ratio of the median latency of the last minutes to that of the first. It is this large
because other processes use the machine, too."""

Wanted = tuple[Request, str, str]
"""A request, its method, and the expected status."""


def mixture() -> list[Wanted]:
    """The requests, sent in turn."""
    image = np.frombuffer(pixels()[:PIXELS], np.uint8).reshape(28, 28)
    file = png(image)
    as_json = {"Content-Type": "application/json"}
    floats = json.dumps({"images": [(image / 255).round(4).tolist()]}).encode()
    base64 = json.dumps({"images": [b64encode(file).decode()] * 4}).encode()
    binary = pixels()[: 4 * PIXELS]
    tensor = {"name": "images", "datatype": "UINT8", "shape": [4, PIXELS]}
    sized = tensor | {"parameters": {"binary_data_size": len(binary)}}
    head = json.dumps({"inputs": [sized]}).encode()
    infer = RAW | {"Inference-Header-Content-Length": str(len(head))}
    one = ("/anomaly-score", as_json, floats)
    posts: list[tuple[Request, str]] = [
        (one, "200"),
        (raw(64), "200"),
        (one, "200"),
        (("/encode", {"Content-Type": "image/png"}, file), "200"),
        (one, "200"),
        (("/anomaly-score", as_json, base64), "200"),
        (one, "200"),
        (("/v2/models/anomaly-score/infer", infer, head + binary), "200"),
        (one, "200"),
        (("/reconstruct", {"Content-Type": "image/png"}, file), "200"),
        (raw(256, "/anomaly-score?score=mse"), "200"),
        (("/anomaly-score", as_json, b'{"images": [[1, 2'), "400"),
        (("/anomaly-score?alpha=2", as_json, floats), "422"),
        (("/encode", {"Content-Type": "image/png"}, file[:-40]), "400"),
        (("/nothing-here", as_json, floats), "404"),
    ]
    sample: Request = ("/sample?n=4&seed=7", {}, b"")
    return [*((request, "POST", status) for request, status in posts), (sample, "GET", "200")]


def over_the_wire(port: int, wanted: Wanted) -> bytes:
    request, method, _ = wanted
    return raw_http(port, request).replace(b"POST", method.encode(), 1)


class Leavers:
    """Clients that send half a request, a whole one, or a large one with too short a timeout, and
    disconnect without waiting for the answer."""

    def __init__(self, port: int) -> None:
        whole = raw_http(port, raw(64))
        late = raw_http(port, raw(1024, **{"X-Request-Timeout": "0.001"}))
        self._requests = (whole[: PIXELS * 3], whole, late)
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._leave)
        self.left = 0

    def __enter__(self) -> Leavers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _leave(self) -> None:
        while not self._over.wait(LEAVE_PAUSE_S):
            connection = socket.create_connection((HOST, self._port), 10)
            with connection, suppress(OSError):  # the service may close it before all is sent
                connection.sendall(self._requests[self.left % len(self._requests)])
            self.left += 1


def minute(
    live: Service, generator: Generator, rate: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Run one minute. Returns its latencies, and the state of the service at the end."""
    generator.latencies.clear()
    generator.lateness.clear()
    generator.run(times("poisson", rate, seconds, seed))
    figures = {
        "p50_ms": round(percentile(generator.latencies, 0.5) * 1e3, 3),
        "p99_ms": round(percentile(generator.latencies, 0.99) * 1e3, 3),
        "late_p99_ms": round(percentile(generator.lateness, 0.99) * 1e3, 3),
        "resident_mib": round(live.resident_mib(), 2),
        "open_files": live.open_files(),
    }
    tell(str(figures))
    return figures


def measure(*, short: bool) -> Figures:
    minutes, seconds, capacity_s = (10, 0.3, 0.3) if short else (20, 60.0, 5.0)
    wanted = mixture()
    with service(apart=True, quiet=True) as live:
        requests = [over_the_wire(live.port, item) for item in wanted]
        able = capacity(live.port, *requests, seconds=capacity_s)
        files = live.open_files()
        rate = SHARE * able
        generator = Generator(live.port, *requests, connections=CONNECTIONS)
        gc.disable()  # nothing here has cycles, and a collection would add latency
        with Leavers(live.port) as leavers:
            by_minute = [minute(live, generator, rate, seconds, seed) for seed in range(minutes)]
        gc.enable()
        generator.close()
        wait_for(lambda: live.open_files() <= files, 5.0)
        left_over = live.open_files() - files
    sent = sum(generator.statuses.values())
    expected = Counter(wanted[i % len(wanted)][2] for i in range(sent))
    unexpected = sum(((generator.statuses - expected) + (expected - generator.statuses)).values())
    early, late = by_minute[1:5], by_minute[-5:]
    growth = {
        key: statistics.median(m[key] for m in late) / statistics.median(m[key] for m in early)
        for key in ("resident_mib", "p50_ms", "p99_ms")
    }
    took = f"{minutes} minutes" if not short else f"{minutes * seconds:.0f} s"
    what = f"{took} of mixed requests at {100 * SHARE:.0f} % load"
    memory, latency = 100 * (growth["resident_mib"] - 1), growth["p50_ms"]
    return told(
        [
            at_most(f"{what}: memory growth", memory, GROWTH, " %", 2),
            at_most(
                f"{what}: p50, last 5 minutes relative to minutes 2 to 5", latency, SLOWER, " ×", 2
            ),
            at_most(
                f"{what}: p99, last 5 minutes relative to minutes 2 to 5",
                growth["p99_ms"],
                2,
                " ×",
                2,
            ),
            at_most(f"{what}: open descriptors left over", left_over, 0, "", 0),
            equals(f"{what}: unexpected answers among {sent:,}", unexpected, 0),
        ],
        capacity_per_s=round(able),
        rate_per_s=round(rate),
        requests=sent,
        statuses=dict(sorted(generator.statuses.items())),
        left=leavers.left,
        minutes=by_minute,
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
