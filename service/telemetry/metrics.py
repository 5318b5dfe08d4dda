"""Prometheus metrics. Each app has its own registry, so that one process can hold several apps.

With several workers, each counts in files that all of them share, and any worker can answer with
the totals; see `service.telemetry.metrics_files`.
"""

from __future__ import annotations

import asyncio
import math
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import time
from typing import Final, NamedTuple

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
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from service.telemetry.infer_statistics import InferStatistics
from service.telemetry.metrics_files import DIRECTORY_VARIABLE
from service.telemetry.p_values import PValues
from service.telemetry.trace_context import Trace

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From one image on an idle service to the default request timeout."""

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
"""Reasons. All series exist from the start, as the rate of a missing series cannot be queried."""

NO_ROUTE: Final = "none"
"""Label of requests that match no route."""

STATM: Final = Path("/proc/self/statm")

MODEL_INFO: Final = "vae_model_info"

LATENCY: Final = "vae_request_duration_seconds"

TEXT: Final = "text/plain"

OPENMETRICS: Final = "application/openmetrics-text"

CONTENT_TYPES: Final = {
    TEXT: "text/plain; version=0.0.4; charset=utf-8",
    OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
"""The Content-Type of each format."""


class BucketKey(NamedTuple):
    """A bucket of `LATENCY`."""

    route: str
    upper_bound_s: float


class Metrics:
    """The metrics of one app. Label values are templates and numbers, which bounds the series."""

    def __init__(self, *, bundle: str, version: str) -> None:
        # Shared files do not store when a series was created.
        disable_created_metrics()  # type: ignore[no-untyped-call] # has no types
        self._registry = registry = CollectorRegistry()
        self._read_queued_images: Callable[[], int] = lambda: 0
        self._read_queued_bytes: Callable[[], int] = lambda: 0
        self._read_connections: Callable[[], int] = lambda: 0
        self._by_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._durations: dict[tuple[str, str, int], list[float]] = {}
        self._queue_waits: list[float] = []
        self._exemplars: dict[BucketKey, Exemplar] = {}
        """Of each bucket, the last traced request. Not in the shared files, which have no place for
        it: each worker shows its own."""
        self._requests = Counter(
            "vae_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=registry,
        )
        self._latency = Histogram(
            LATENCY,
            "Time from the end of a request's head to the end of its response",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "vae_queue_wait_seconds",
            "Time that a request's images waited for a forward pass",
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
            "vae_queue_images", "Images waiting for a forward pass", registry
        )
        self._queue_bytes = _live_sum(
            "vae_queue_bytes",
            "Bytes of request bodies, waiting images, and unsent results and responses",
            registry,
        )
        refusals = Counter(
            "vae_refusals", "Requests and connections refused", ["reason"], registry=registry
        )
        self._refusals = {reason: refusals.labels(reason) for reason in REFUSALS}
        self._disconnects = Counter(
            "vae_disconnects",
            "Requests whose client disconnected before the response",
            registry=registry,
        )
        self._deadline_misses = Counter(
            "vae_deadline_misses",
            "Requests that timed out before the response was ready",
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
            "vae_scored_images", "Scored images with a p-value", registry=registry
        )
        self._anomalies = Counter(
            "vae_anomalies",
            "Scored images with p ≤ alpha; on clean images, at most a fraction alpha of them",
            registry=registry,
        )
        self.p_values = PValues(registry)
        self._memory = _live_sum(
            "vae_memory_bytes",
            "Resident memory; memory that workers share is counted for each of them",
            registry,
        )
        self._connections = _live_sum("vae_connections", "Open connections", registry)
        self.infer = InferStatistics(registry, _soon)

    def watch_queue(
        self, images: Callable[[], int], bytes_: Callable[[], int] | None = None
    ) -> None:
        """Read the depth of the queue with these functions.

        Other workers see the values of this one as of its last `sample_process` or batch.
        """
        self._read_queued_images = images
        if bytes_ is not None:
            self._read_queued_bytes = bytes_

    def watch_connections(self, connections: Callable[[], int]) -> None:
        """Read the number of open connections with this function."""
        self._read_connections = connections

    def set_model(self, bundle: str, version: str) -> None:
        """Set the bundle that is in memory, in place of the previous one."""
        if self._model is not None:
            self._model.set(0)  # a series in a file cannot be removed; `_WithoutOldModels` hides it
        self._model = self._model_info.labels(bundle, version)
        self._model.set(1)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. It shows after this turn of the event loop."""
        durations = self._durations.get((method, route, status))
        if durations is not None:
            durations.append(seconds)
            return
        is_first = not self._durations
        self._durations[method, route, status] = [seconds]
        if is_first:
            _soon(self._count_requests)

    def _count_requests(self) -> None:
        """Count the requests of a turn together, which takes a fifth of the time."""
        turn, self._durations = self._durations, {}
        for key, durations in turn.items():
            series = self._by_route.get(key)
            if series is None:  # cached, as a look-up of labels takes as long as counting
                method, route, status = key
                series = (
                    self._requests.labels(method, route, str(status)),
                    self._latency.labels(route),
                )
                self._by_route[key] = series
            requests, latency = series
            requests.inc(len(durations))
            _observe_all(latency, durations)
        waits, self._queue_waits = self._queue_waits, []
        _observe_all(self._queue_wait, waits)

    def note_trace(self, route: str, seconds: float, trace: Trace) -> None:
        """Keep the trace of a request that is counted, if its caller records it, as an exemplar."""
        if trace.is_sampled:
            bounds = (*LATENCY_BUCKETS_S, math.inf)
            key = BucketKey(route, bounds[bisect_left(bounds, seconds)])
            labels = {"trace_id": trace.trace_id, "span_id": trace.span_id}
            self._exemplars[key] = Exemplar(labels, seconds, time())

    def count_invalid_request(self, status: int) -> None:
        """Count an answer to what is not a complete request: it has no method or route."""
        self._requests.labels("other", NO_ROUTE, str(status)).inc()

    def observe_queue_wait(self, seconds: float) -> None:
        """Count one request's time in the queue, when the request is counted."""
        self._queue_waits.append(seconds)

    def observe_batch(self, images: int, seconds: float) -> None:
        """Count one forward pass."""
        self._queue_images.set(self._read_queued_images())
        self._batch_images.observe(images)
        self._batch_seconds.observe(seconds)

    def count_refusal(self, reason: str) -> None:
        """Count a refused request or connection. `reason` is one of `REFUSALS`."""
        self._refusals[reason].inc()

    def count_disconnect(self) -> None:
        """Count a client that disconnected before its answer."""
        self._disconnects.inc()

    def count_deadline_miss(self) -> None:
        """Count a request that timed out."""
        self._deadline_misses.inc()

    def count_scored(self, images: int, anomalies: int) -> None:
        """Count images that have p-values, and those with p ≤ alpha."""
        self._scored.inc(images)
        if anomalies:
            self._anomalies.inc(anomalies)

    def sample_process(self) -> None:
        """Update this process's gauges, and count the p-values since the last time. Other workers
        show what they were then."""
        self.p_values.count()
        self._queue_images.set(self._read_queued_images())
        self._queue_bytes.set(self._read_queued_bytes())
        self._connections.set(self._read_connections())
        self._memory.set(_resident_bytes())

    def render(self, media_type: str = TEXT) -> bytes:
        """The totals of all workers, in Prometheus's text format or as `OPENMETRICS`, which also
        shows exemplars."""
        registry = CollectorRegistry()
        registry.register(_Shown(self._collector(), self._exemplars))
        if media_type == OPENMETRICS:
            return openmetrics.generate_latest(registry)  # type: ignore[no-any-return, no-untyped-call] # has no types
        return generate_latest(registry)

    def collect(self) -> list[Metric]:
        """The totals of all workers."""
        return list(self._collector().collect())

    def _collector(self) -> Collector:
        """What collects the metrics of all workers, as they are now."""
        self.sample_process()
        self._count_requests()
        self.infer.flush()
        shared = os.environ.get(DIRECTORY_VARIABLE)
        if shared and any(Path(shared).glob("*.db")):  # False if someone has deleted them
            return MultiProcessCollector(None, shared)  # type: ignore[no-untyped-call] # has no types
        return self._registry


class _Shown(Collector):
    """The metrics of another collector, with exemplars, and without the bundles that are no longer
    in memory."""

    def __init__(self, collector: Collector, exemplars: Mapping[BucketKey, Exemplar]) -> None:
        self._collector = collector
        self._exemplars = exemplars

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        for metric in self._collector.collect():
            if metric.name == MODEL_INFO:
                metric.samples = [sample for sample in metric.samples if sample.value]
            elif metric.name == LATENCY and self._exemplars:
                metric.samples = [self._with_exemplar(sample) for sample in metric.samples]
            yield metric

    def _with_exemplar(self, sample: Sample) -> Sample:
        if "le" not in sample.labels:
            return sample
        key = BucketKey(sample.labels["route"], float(sample.labels["le"]))
        return sample._replace(exemplar=self._exemplars.get(key))


def _soon(work: Callable[[], None]) -> None:
    """Call `work` after this turn of the event loop, or at once where there is none."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work()
    else:
        loop.call_soon(work)


def _observe_all(histogram: Histogram, values: list[float]) -> None:
    """As `histogram.observe` for each value. The library has no call for several."""
    if len(values) == 1:
        histogram.observe(values[0])
    elif values:
        histogram._sum.inc(sum(values))
        bounds = histogram._upper_bounds
        for bucket, count in Tally(bisect_left(bounds, value) for value in values).items():
            histogram._buckets[bucket].inc(count)


def _live_sum(name: str, description: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, description, multiprocess_mode="livesum", registry=registry)


def _resident_bytes() -> int:
    """Resident memory of this process; without /proc, its maximum so far."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
