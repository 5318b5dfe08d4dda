"""Prometheus names. One registry for an app, so that several can live in one process.

Where there are several workers, prometheus_client counts in files that they share, and each adds
all of them up when it is asked: `service.workers` sets the environment that says where.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From one image on an idle service to the default time limit."""

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What is counted. Label values are route templates and numbers: bounded, whatever is asked."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, *, bundle: str, version: str) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vae_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._queued: Callable[[], int] = lambda: 0
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._latency = Histogram(
            "vae_request_duration_seconds",
            "Time from a request's first byte to its answer's last",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._batch_images = Histogram(
            "vae_batch_images",
            "Images (or latents) in one forward pass",
            buckets=BATCH_BUCKETS,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "vae_batch_duration_seconds",
            "Time of one forward pass",
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._queue_images = Gauge(
            "vae_queue_images",
            "Images that wait for a forward pass",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        Gauge(
            "vae_model_info",
            "The bundle in memory",
            ["bundle", "version"],
            multiprocess_mode="livemax",
            registry=self._registry,
        ).labels(bundle, version).set(1)

    def watch_queue(self, images: Callable[[], int]) -> None:
        """Read the queue's depth with `images`; of other workers, it is that after a batch."""
        self._queued = images

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        found = self._of_route.get((method, route, status))
        if found is None:  # looking labels up takes as long as counting does
            found = self._requests.labels(method, route, str(status)), self._latency.labels(route)
            self._of_route[method, route, status] = found
        requests, latency = found
        requests.inc()
        latency.observe(seconds)

    def observe_batch(self, images: int, seconds: float) -> None:
        """Count one forward pass."""
        self._queue_images.set(self._queued())
        self._batch_images.observe(images)
        self._batch_seconds.observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads, of all workers."""
        self._queue_images.set(self._queued())
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
