"""Limits and failures: an app with small limits, and an engine that a test may break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient, Response

from service.app import App
from service.inference import health
from tests.api.helpers import HANG_S, SMALL, engine_of, hold, queue_holds
from tests.api.open_inference.helpers import MODELS, document, error

Infer = Callable[..., Any]


@pytest.fixture
def infer(small_client: AsyncClient) -> Infer:
    async def post(n: int = 1, model: str = "decode") -> Response:
        size = 10 if model == "decode" else 784
        content = document(MODELS[model][0], np.zeros((n, size), np.float32))
        return await small_client.post(f"/v2/models/{model}/infer", json=content)

    return post


@pytest.mark.anyio
async def test_too_many_images_or_bytes(infer: Infer) -> None:
    error(await infer(SMALL.max_images_per_request + 1), 400, "9", "8")
    error(await infer(50, "encode"), 400, "60,000")


@pytest.mark.anyio
async def test_a_full_queue(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient, infer: Infer
) -> None:
    held = hold(monkeypatch, small_app, "decode")
    tasks = [asyncio.create_task(infer(8))]
    await held.begun()
    tasks.append(asyncio.create_task(infer(4)))
    await queue_holds(small_client, 8)
    answer = await infer(2)
    error(answer, 503, "not fit", "8")
    assert int(answer.headers["retry-after"]) >= 1
    held.let_go()
    assert [(await task).status_code for task in tasks] == [200, 200]


@pytest.mark.anyio
async def test_a_body_that_does_not_arrive(small_client: AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(HANG_S)

    headers = {"X-Request-Timeout": "0.05"}
    url = "/v2/models/decode/infer"
    error(await small_client.post(url, content=body(), headers=headers), 408, "0.05")


@pytest.mark.anyio
async def test_not_ready(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient, infer: Infer
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    for name in ("score", "decode"):
        monkeypatch.setattr(engine_of(small_app), name, broken)
    version = small_app.state.service.version
    for path, expected in {
        "health/ready": {"ready": False},
        "models/encode/ready": {"name": "encode", "ready": False},
        f"models/encode/versions/{version}/ready": {"name": "encode", "ready": False},
    }.items():
        answer = await small_client.get(f"/v2/{path}")
        assert (answer.status_code, answer.json()) == (503, expected)
    assert (await small_client.get("/v2/health/live")).json() == {"live": True}
    error(await infer(), 500, "log")
