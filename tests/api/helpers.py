"""Bodies to send, answers to take apart, and an engine that waits for the test."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from httpx import ASGITransport, AsyncClient, Response
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from model.engine.engine import Engine
from service.api.state import Service
from service.app import App
from service.settings import Settings

HANG_S = 20
"""Past this a test hangs. No test waits for it."""

SMALL = Settings(
    threads=1,
    max_batch_images=4,
    max_queue_images=8,
    max_images_per_request=8,
    max_body_bytes=60_000,
    max_image_pixels=100_000,
)
"""Limits that a test can reach."""

LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "BMP": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}
"""File formats that keep each pixel, and how to write them so."""

IMAGE_ROUTES = ("/encode", "/reconstruct", "/anomaly-score")
WORK_ROUTES = (*IMAGE_ROUTES, "/decode")


def image_file(pixels: NDArray[np.uint8], file_format: str = "PNG", **options: Any) -> bytes:
    """One image, (1, H, W) or (H, W), as a file."""
    file = BytesIO()
    image = Image.fromarray(pixels.reshape(pixels.shape[-2:]))
    image.save(file, file_format, **(LOSSLESS.get(file_format, {}) | options))
    return file.getvalue()


def base64_file(pixels: NDArray[np.uint8], file_format: str = "PNG") -> str:
    return b64encode(image_file(pixels, file_format)).decode()


def uint8_body(images: NDArray[np.uint8]) -> dict[str, Any]:
    """Images, (N, 1, H, W), as JSON."""
    return {"images": images[:, 0].tolist(), "dtype": "uint8"}


def png_pixels(answer: Response) -> NDArray[np.uint8]:
    """A PNG answer's pixels."""
    assert answer.headers["content-type"] == "image/png"
    with Image.open(BytesIO(answer.content), formats=["PNG"]) as image:
        return np.asarray(image)


def problem(answer: Response, status: int, *mentioned: str) -> dict[str, Any]:
    """The problem in an answer: `status`, of the one shape, with `mentioned` in its detail."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    required = {"type", "title", "status", "detail", "request_id"}
    assert required <= set(found) <= required | {"errors"}
    assert found["status"] == status
    assert found["request_id"] == answer.headers["x-request-id"]
    assert {type(found[key]) for key in ("type", "title", "detail")} == {str}
    assert found["detail"]
    for word in ("Traceback", "/service/", "site-packages"):
        assert word not in answer.text
    for item in found.get("errors", []):
        assert set(item) == {"loc", "msg"}
        assert all(isinstance(part, str | int) for part in item["loc"])
        assert isinstance(item["msg"], str)
    if status == 422:
        assert found["errors"]
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    for word in mentioned:
        assert word in found["detail"], found["detail"]
    return found


def client_of(app: App) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://test", timeout=HANG_S)


def engine_of(app: App) -> Engine:
    service: Service = app.state.service
    return service.inference.engine


async def metric(client: AsyncClient, name: str, **labels: str) -> float:
    """Sum of a metric's samples with these labels."""
    text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def queue_holds(client: AsyncClient, images: int) -> None:
    """Return when the queue's depth is `images`."""
    async with asyncio.timeout(HANG_S):
        while await metric(client, "vae_queue_images") != images:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.001)


class HeldPass:
    """A kind of forward pass that waits until the test lets it go, and keeps the record."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.batches: list[int] = []
        self._run = run
        self._begun = threading.Event()
        self._gate = threading.Semaphore(0)

    def __call__(self, parts: Sequence[NDArray[Any]], **options: Any) -> Any:
        self.batches.append(sum(map(len, parts)))
        self._begun.set()
        assert self._gate.acquire(timeout=HANG_S)
        return self._run(parts, **options)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, HANG_S)

    def let_go(self, batches: int = 1_000) -> None:
        self._gate.release(batches)


def hold(monkeypatch: pytest.MonkeyPatch, app: App, name: str) -> HeldPass:
    """Make the engine's method `name` wait, in the inference thread however small its batch is."""
    engine = engine_of(app)
    monkeypatch.setattr(app.state.service.inference, "inline_images", 0)
    held = HeldPass(getattr(engine, name))
    monkeypatch.setattr(engine, name, held)
    return held
