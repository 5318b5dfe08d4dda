"""Counts of infer requests of the Open Inference Protocol, by model.

They are Prometheus metrics, and what Triton's clients read as statistics. With several workers they
are totals, as all metrics are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import time
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric

STAGES: Final = ("compute_input", "queue", "compute_infer", "compute_output")
"""Of a request that succeeds: its tensors are read, it waits, the network runs, and the answer is
written."""

SUCCESS, FAIL = "success", "fail"


class InferTimes(NamedTuple):
    """Seconds that a successful request took, in all and for each of `STAGES`."""

    total: float
    compute_input: float
    queue: float
    compute_infer: float
    compute_output: float


@dataclass
class Passes:
    """Forward passes with the same batch size."""

    count: int = 0
    seconds: float = 0.0


@dataclass
class Totals:
    """What is known of one model since the service started."""

    images: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    """By outcome: `SUCCESS` or `FAIL`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By outcome, and by stage of the requests that succeeded."""
    passes: dict[int, Passes] = field(default_factory=dict)
    """By batch size, rounded up to a power of two."""
    last_request: float = 0.0
    """When the last request ended, in seconds since 1970; 0 if there was none."""


class _Series(NamedTuple):
    """What counts a model's requests that succeed."""

    requests: Counter
    images: Counter
    seconds: list[Counter]
    """In the order of `InferTimes`."""
    last_request: Gauge


class _Failures(NamedTuple):
    """What counts a model's requests that are refused or fail."""

    requests: Counter
    seconds: Counter
    last_request: Gauge


class InferStatistics:
    """Counts infer requests and their forward passes. `soon` calls a function after this turn of
    the event loop."""

    def __init__(
        self, registry: CollectorRegistry, soon: Callable[[Callable[[], None]], None]
    ) -> None:
        self._soon = soon
        self._turn: list[tuple[str, int, InferTimes]] = []
        self._failed: dict[str, tuple[int, float]] = {}
        self._last_pass: dict[str, float] = {}
        self._series: dict[str, _Series] = {}
        self._failures: dict[str, _Failures] = {}
        self._pass_series: dict[tuple[str, int], tuple[Counter, Counter]] = {}
        self._requests = Counter(
            "vae_infer_requests",
            "Infer requests of the Open Inference Protocol",
            ["model", "outcome"],
            registry=registry,
        )
        self._images = Counter(
            "vae_infer_images",
            "Images (or latents) of infer requests that succeeded",
            ["model"],
            registry=registry,
        )
        self._seconds = Counter(
            "vae_infer_seconds",
            "Time of infer requests: of all that succeeded or failed, and of each stage of the "
            "former",
            ["model", "stage"],
            registry=registry,
        )
        self._passes = Counter(
            "vae_infer_passes",
            "Forward passes for infer requests, by size of the batch, rounded up to a power of two",
            ["model", "batch_size"],
            registry=registry,
        )
        self._pass_seconds = Counter(
            "vae_infer_pass_seconds", "Time of these passes", ["model", "batch_size"],
            registry=registry,
        )  # fmt: skip
        self._last_request = Gauge(
            "vae_infer_last_request_timestamp_seconds",
            "When the last infer request ended, in seconds since 1970",
            ["model"],
            multiprocess_mode="max",
            registry=registry,
        )

    def count_success(self, model: str, images: int, times: InferTimes) -> None:
        """Count a request that is answered. It shows after this turn of the event loop."""
        is_first = not self._turn and not self._failed
        self._turn.append((model, images, times))
        if is_first:
            self._soon(self.flush)

    def count_failure(self, model: str, seconds: float) -> None:
        """Count a request that is refused or fails. It shows after this turn of the event loop.

        Refusals have to be cheap: most of them come when there is too much to do.
        """
        is_first = not self._turn and not self._failed
        count, total = self._failed.get(model, (0, 0.0))
        self._failed[model] = count + 1, total + seconds
        if is_first:
            self._soon(self.flush)

    def count_pass(self, model: str, ended: float, rows: int, seconds: float) -> None:
        """Count a forward pass for a request. Requests that share one call this one after another,
        with the same `ended`."""
        if self._last_pass.get(model) == ended:
            return
        self._last_pass[model] = ended
        size = 1 << (rows - 1).bit_length()
        series = self._pass_series.get((model, size))
        if series is None:
            labels = model, str(size)
            series = self._passes.labels(*labels), self._pass_seconds.labels(*labels)
            self._pass_series[model, size] = series
        passes, pass_seconds = series
        passes.inc()
        pass_seconds.inc(seconds)

    def flush(self) -> None:
        """Count the requests of a turn together, which is faster than one by one."""
        turn, self._turn = self._turn, []
        failed, self._failed = self._failed, {}
        for model, (count, seconds) in failed.items():
            failures = self._failures.get(model)
            if failures is None:
                failures = self._failures[model] = _Failures(
                    self._requests.labels(model, FAIL),
                    self._seconds.labels(model, FAIL),
                    self._last_request.labels(model),
                )
            failures.requests.inc(count)
            failures.seconds.inc(seconds)
            failures.last_request.set(time())
        by_model: dict[str, list[tuple[int, InferTimes]]] = {}
        for model, images, times in turn:
            by_model.setdefault(model, []).append((images, times))
        for model, requests in by_model.items():
            series = self._series.get(model)
            if series is None:  # cached, as looking up labels takes longer than counting
                series = self._series[model] = _Series(
                    self._requests.labels(model, SUCCESS),
                    self._images.labels(model),
                    [self._seconds.labels(model, name) for name in (SUCCESS, *STAGES)],
                    self._last_request.labels(model),
                )
            series.requests.inc(len(requests))
            series.images.inc(sum(images for images, _ in requests))
            columns = zip(*(times for _, times in requests), strict=True)
            for counter, column in zip(series.seconds, columns, strict=True):
                counter.inc(sum(column))
            series.last_request.set(time())


def totals_of(model: str, metrics: Iterable[Metric]) -> Totals:
    """The counts of a model, among the metrics of all workers."""
    totals = Totals()
    for metric in metrics:
        for sample in metric.samples:
            if sample.labels.get("model") != model:
                continue
            if sample.name == "vae_infer_images_total":
                totals.images = round(sample.value)
            elif sample.name == "vae_infer_requests_total":
                totals.requests[sample.labels["outcome"]] = round(sample.value)
            elif sample.name == "vae_infer_seconds_total":
                totals.seconds[sample.labels["stage"]] = sample.value
            elif sample.name == "vae_infer_last_request_timestamp_seconds":
                totals.last_request = sample.value
            elif sample.name in ("vae_infer_passes_total", "vae_infer_pass_seconds_total"):
                passes = totals.passes.setdefault(int(sample.labels["batch_size"]), Passes())
                if sample.name == "vae_infer_passes_total":
                    passes.count = round(sample.value)
                else:
                    passes.seconds = sample.value
    return totals
