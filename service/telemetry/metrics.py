"""Prometheus names. One registry for an app, so that several can live in one process.

Where there are several workers, they count in files that they share, and each adds all of them up
when it is asked: see `service.telemetry.metrics_files`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.telemetry.metrics_files import DIRECTORY_VARIABLE

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From one image on an idle service to the default time limit."""

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

REFUSALS: Final = (
    "queue_images",
    "queue_bytes",
    "rate_limit",
    "not_ready",
    "connections",
    "unauthorized",
    "forbidden",
)
"""Reasons, each of which is there from the start: a rate of what has never been cannot be asked."""

NO_ROUTE: Final = "none"
"""Counted as the route where there is none."""

STATM: Final = Path("/proc/self/statm")

MODEL_INFO: Final = "vae_model_info"


class Metrics:
    """What is counted. Label values are route templates and numbers: bounded, whatever is asked."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, *, bundle: str, version: str) -> None:
        # When each series began is not told: shared files do not hold it.
        disable_created_metrics()  # type: ignore[no-untyped-call] # has no types
        self._registry = registry = CollectorRegistry()
        self._queued: Callable[[], int] = lambda: 0
        self._queued_bytes: Callable[[], int] = lambda: 0
        self._connected: Callable[[], int] = lambda: 0
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._requests = Counter(
            "vae_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=registry,
        )
        self._latency = Histogram(
            "vae_request_duration_seconds",
            "Time from a request's head to its answer's last part given away",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "vae_queue_wait_seconds",
            "Time that a request's images waited for their forward passes",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "vae_batch_duration_seconds",
            "Time of one forward pass",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._batch_images = Histogram(
            "vae_batch_images",
            "Images (or latents) in one forward pass",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._queue_images = _live_sum(
            "vae_queue_images", "Images that wait for a forward pass", registry
        )
        self._queue_bytes = _live_sum(
            "vae_queue_bytes",
            "Bytes of bodies on their way in, of images that wait, and of results and answers on "
            "their way out",
            registry,
        )
        refusals = Counter(
            "vae_refusals", "Requests and connections refused", ["reason"], registry=registry
        )
        self._refusals = {reason: refusals.labels(reason) for reason in REFUSALS}
        self._disconnects = Counter(
            "vae_disconnects", "Requests whose caller left before the answer", registry=registry
        )
        self._deadline_misses = Counter(
            "vae_deadline_misses",
            "Requests whose time was over before their answer was there",
            registry=registry,
        )
        self._model_info = Gauge(
            MODEL_INFO,
            "1 for the bundle in memory",
            ["bundle", "version"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._model: Gauge | None = None
        self.set_model(bundle, version)
        self._scored = Counter(
            "vae_scored_images", "Images scored that have a p-value", registry=registry
        )
        self._anomalies = Counter(
            "vae_anomalies",
            "Of them, those with p ≤ alpha: on clean images, that is a share of alpha at most",
            registry=registry,
        )
        self._memory = _live_sum(
            "vae_memory_bytes", "Resident memory; what workers share counts for each", registry
        )
        self._connections = _live_sum("vae_connections", "Connections open now", registry)

    def watch_queue(
        self, images: Callable[[], int], bytes_: Callable[[], int] | None = None
    ) -> None:
        """Read the queue's depth with these; of other workers, it is that after a batch."""
        self._queued = images
        if bytes_ is not None:
            self._queued_bytes = bytes_

    def watch_connections(self, connections: Callable[[], int]) -> None:
        """Read with this how many connections are open."""
        self._connected = connections

    def set_model(self, bundle: str, version: str) -> None:
        """Name the bundle that answers from now on, and no longer the one before."""
        if self._model is not None:
            self._model.set(0)  # files have no way to drop it: `_Shown` does
        self._model = self._model_info.labels(bundle, version)
        self._model.set(1)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        found = self._of_route.get((method, route, status))
        if found is None:  # looking labels up takes as long as counting does
            found = self._requests.labels(method, route, str(status)), self._latency.labels(route)
            self._of_route[method, route, status] = found
        requests, latency = found
        requests.inc()
        latency.observe(seconds)

    def count_no_request(self, status: int) -> None:
        """Count an answer to what is no request, or not yet: it has no method and no route."""
        self._requests.labels("other", NO_ROUTE, str(status)).inc()

    def observe_queue_wait(self, seconds: float) -> None:
        """Count one request's time in the queue."""
        self._queue_wait.observe(seconds)

    def observe_batch(self, images: int, seconds: float) -> None:
        """Count one forward pass."""
        self._queue_images.set(self._queued())
        self._batch_images.observe(images)
        self._batch_seconds.observe(seconds)

    def count_refusal(self, reason: str) -> None:
        """Count what was not taken: `reason` is one of `REFUSALS`."""
        self._refusals[reason].inc()

    def count_disconnect(self) -> None:
        """Count a caller who left before the answer."""
        self._disconnects.inc()

    def count_deadline_miss(self) -> None:
        """Count a request whose time was over first."""
        self._deadline_misses.inc()

    def count_scored(self, images: int, anomalies: int) -> None:
        """Count images that have p-values, and those with p ≤ alpha."""
        self._scored.inc(images)
        if anomalies:
            self._anomalies.inc(anomalies)

    def sample_process(self) -> None:
        """Take this process's gauges, which others show as they were when this was called last."""
        self._queue_images.set(self._queued())
        self._queue_bytes.set(self._queued_bytes())
        self._connections.set(self._connected())
        self._memory.set(_resident_bytes())

    def render(self) -> bytes:
        """The text that Prometheus reads, of all workers."""
        self.sample_process()
        shared = os.environ.get(DIRECTORY_VARIABLE)
        registry = CollectorRegistry()
        own: Collector = self._registry
        if shared and any(Path(shared).glob("*.db")):  # nobody has removed them
            own = MultiProcessCollector(None, shared)  # type: ignore[no-untyped-call] # has no types
        registry.register(_Shown(own))
        return generate_latest(registry)


class _Shown(Collector):
    """What a collector has, without the models that are no longer in memory."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        for metric in self._collector.collect():
            if metric.name == MODEL_INFO:
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


def _live_sum(name: str, what: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, what, multiprocess_mode="livesum", registry=registry)


def _resident_bytes() -> int:
    """Where there is no /proc, the most that it ever was."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
