"""Prometheus names. One registry for an app, so that several can live in one process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

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
            "vae_queue_images", "Images that wait for a forward pass", registry=self._registry
        )
        Info("vae_model", "The bundle in memory", registry=self._registry).info(
            {"bundle": bundle, "version": version}
        )

    def watch_queue(self, images: Callable[[], int]) -> None:
        """Read the queue's depth with `images` whenever the metrics are asked for."""
        self._queue_images.set_function(images)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def observe_batch(self, images: int, seconds: float) -> None:
        """Count one forward pass."""
        self._batch_images.observe(images)
        self._batch_seconds.observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
