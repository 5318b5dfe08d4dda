"""Answers that a test chooses, in place of the service's own."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, Route
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.telemetry.metrics import TEXT
from tests.browser.conftest import Watched
from tests.browser.opening import new_page

BUNDLE = Path(__file__).parents[2] / "model" / "pretrained" / "mnist"

P_BUCKETS = (0.001, 0.005, 0.01, 0.05, *(tenths / 10 for tenths in range(1, 11)))
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = tuple(2**power for power in range(11))

ROUTE = "/anomaly-score"


def metrics(
    *,
    statuses: Mapping[str, int] | None = None,
    durations: Iterable[float] = (),
    batches: Iterable[int] = (),
    scored: int = 0,
    anomalies: int = 0,
    p_values: Iterable[float] | None = None,
    refusals: Mapping[str, int] | None = None,
    queue_images: int = 0,
) -> str:
    """What /metrics says of these, all of them since the service started."""
    registry = CollectorRegistry()

    def histogram(name: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
        return Histogram(name, name, labels, buckets=tuple(buckets), registry=registry)

    def counter(name: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, name, labels, registry=registry)

    requests = counter("vae_requests", ("method", "route", "status"))
    for status, count in (statuses or {}).items():
        requests.labels("POST", ROUTE, status).inc(count)
    duration = histogram("vae_request_duration_seconds", SECONDS, ["route"]).labels(ROUTE)
    for seconds in durations:
        duration.observe(seconds)
    size = histogram("vae_batch_images", SIZES)
    took = histogram("vae_batch_duration_seconds", SECONDS)
    for images in batches:
        size.observe(images)
        took.observe(0.002)
    histogram("vae_queue_wait_seconds", SECONDS)
    Gauge("vae_queue_images", "", registry=registry).set(queue_images)
    Gauge("vae_queue_bytes", "", registry=registry)
    Gauge("vae_memory_bytes", "", registry=registry).set(300 << 20)
    Gauge("vae_connections", "", registry=registry).set(1)
    refused = counter("vae_refusals", ["reason"])
    for reason, count in (refusals or {}).items():
        refused.labels(reason).inc(count)
    counter("vae_disconnects")
    counter("vae_deadline_misses")
    counter("vae_scored_images").inc(scored)
    counter("vae_anomalies").inc(anomalies)
    if p_values is not None:
        p_value = histogram("vae_p_value", P_BUCKETS)
        for p in p_values:
            p_value.observe(p)
    return generate_latest(registry).decode()


def setting(name: str, value: Any, default: Any) -> dict[str, Any]:
    variable = f"VAE_{name.upper()}"
    return {
        "name": name,
        "variable": variable,
        "value": value,
        "default": default,
        "description": f"what {name} does",
    }


def settings(*, recent_images: int = 0, workers: int = 1) -> list[dict[str, Any]]:
    """Some of the settings, as /settings answers them."""
    return [
        setting("port", 8123, 8000),
        setting("alpha", 0.01, 0.01),
        setting("workers", workers, 1),
        setting("api_keys_file", None, None),
        setting("max_queue_images", 16_384, 16_384),
        setting("max_queue_bytes", 1 << 28, 1 << 28),
        setting("recent_images", recent_images, 0),
    ]


def recent(id_: int, p: float, level: int = 128) -> dict[str, Any]:
    """One image of /recent, all of it at one grey level."""
    file = BytesIO()
    Image.fromarray(np.full((28, 28), level, np.uint8)).save(file, "PNG")
    return {
        "id": id_,
        "time": 1_800_000_000 + id_,
        "score_type": "fused",
        "score": 1 / p,
        "p_value": p,
        "thumbnail": b64encode(file.getvalue()).decode(),
    }


class Fakes:
    """The routes of one page that are faked. Attributes may be changed while it is open."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.metrics: str | None = None
        """The text of /metrics; None asks the service."""
        self.settings = settings()
        self.card = (BUNDLE / "README.md").read_text(encoding="utf-8")
        self.recent: list[dict[str, Any]] = []
        self.process = "first"
        self.asked: list[str] = []
        """Path and query of each request that was made, faked or not."""
        page.on("request", lambda request: self.asked.append(_path(request.url)))
        self.answer("/metrics", self._metrics)
        self.answer("/settings", lambda route: route.fulfill(json={"settings": self.settings}))
        self.answer("/recent", self.recent_images)
        self.answer("/model/card", self._card)
        self.answer("/model/plots/*", self._plot)

    def answer(self, path: str, handler: Any) -> None:
        """Have a function answer requests of the page for a path."""
        beginning = path.removesuffix("*")

        def matches(url: str) -> bool:
            asked = urlsplit(url).path
            return asked.startswith(beginning) if path.endswith("*") else asked == path

        self.page.route(matches, handler)

    def refuse(self, path: str, status: int, detail: str) -> None:
        """Have requests for a path answered by an error, from now on."""
        problem = {"title": "Not so.", "status": status, "detail": detail}
        self.answer(path, lambda route: route.fulfill(status=status, body=json.dumps(problem)))

    def count(self, path: str) -> int:
        """How many requests for a path there were."""
        return sum(urlsplit(asked).path == path for asked in self.asked)

    def _metrics(self, route: Route) -> None:
        if self.metrics is None:
            route.continue_()
        else:
            route.fulfill(body=self.metrics, content_type=TEXT)

    def recent_images(self, route: Route) -> None:
        """Answer /recent with what is new."""
        query = parse_qs(urlsplit(route.request.url).query)
        after = int(query.get("after", ["0"])[0])
        images = [image for image in self.recent if image["id"] > after]
        route.fulfill(json={"capacity": 100, "process": self.process, "images": images})

    def _card(self, route: Route) -> None:
        route.fulfill(body=self.card, content_type="text/markdown; charset=utf-8")

    def _plot(self, route: Route) -> None:
        route.fulfill(path=BUNDLE / "plots" / urlsplit(route.request.url).path.split("/")[-1])


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def page_with_fakes(browser: Browser, watched: Watched, **options: Any) -> tuple[Page, Fakes]:
    """An empty page that is watched, and the answers that it gets. `options` are `new_page`'s."""
    page = new_page(browser, **options)
    watched.watch(page)
    return page, Fakes(page)
