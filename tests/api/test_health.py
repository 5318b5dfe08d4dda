"""Liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient, Response
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from service.app import App
from service.inference import health
from service.inference.health import Health
from tests.api.helpers import (
    HANG_S,
    HeldPass,
    engine_of,
    hold,
    metric,
    problem,
    queue_holds,
    uint8_body,
)

pytestmark = pytest.mark.anyio


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("the device is gone")


async def test_alive_and_ready(client: AsyncClient) -> None:
    for path in ("/livez", "/readyz"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok"}


def health_of(app: App) -> Health:
    found: Health = app.state.service.health
    return found


async def test_a_broken_engine_is_not_ready_and_the_process_lives(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(engine_of(small_app), "score", broken)
        for _ in range(2):
            problem(await small_client.get("/readyz"), 503, "a forward pass failed: RuntimeError")
        assert (await small_client.get("/v2/health/ready")).json() == {"ready": False}
        assert (await small_client.get("/livez")).status_code == 200
        assert (await small_client.get("/metrics")).status_code == 200
    assert (await small_client.get("/readyz")).status_code == 200, "once it works again"


async def test_a_hung_engine_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.05)
    held = hold(monkeypatch, small_app, "score")
    problem(await small_client.get("/readyz"), 503, "0.05")
    assert await metric(small_client, "vae_queue_images") == 0, "the probe does not stay behind"
    held.let_go()


async def test_wrong_numbers_are_not_ready(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    real = engine_of(small_app).score
    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(
            engine_of(small_app),
            "score",
            lambda *given, **named: real(*given, **named)._replace(
                mse=real(*given, **named).mse * 1.01
            ),
        )
        problem(await small_client.get("/readyz"), 503, "wrong numbers")
    assert (await small_client.get("/readyz")).status_code == 200


async def test_a_probe_that_went_well_lately_is_proof_enough(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    assert (await small_client.get("/readyz")).status_code == 200
    now = monotonic()
    monkeypatch.setattr(health, "monotonic", lambda: now)
    monkeypatch.setattr(engine_of(small_app), "score", broken)
    assert (await small_client.get("/readyz")).status_code == 200
    now += health.READY_FOR_S + 1
    problem(await small_client.get("/readyz"), 503)


Busy = Callable[[float], Awaitable[tuple[HeldPass, asyncio.Task[Response]]]]


@pytest.fixture
def busy(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> Busy:
    """`busy(seconds)`: two batches of which the first runs until it is let go, while a probe has so
    many seconds, and is sent each time."""

    async def start(probe_s: float) -> tuple[HeldPass, asyncio.Task[Response]]:
        monkeypatch.setattr(health, "READY_FOR_S", 0.0)
        monkeypatch.setattr(health, "PROBE_TIMEOUT_S", probe_s)
        held = hold(monkeypatch, small_app, "encode")
        work = asyncio.create_task(small_client.post("/encode", json=uint8_body(digits[:8])))
        await held.begun()
        return held, work

    return start


async def test_busy_is_ready(busy: Busy, small_client: AsyncClient) -> None:
    """The probe does not have its turn in time, but batches end."""
    held, work = await busy(0.2)
    asked = asyncio.create_task(small_client.get("/readyz"))
    await asyncio.sleep(0.05)
    held.let_go(1)
    assert (await asked).status_code == 200
    held.let_go()
    await work


async def test_a_full_queue_is_ready(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> None:
    """Neither of its limits is for the probe."""
    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", HANG_S)
    held = hold(monkeypatch, small_app, "encode")

    def ask(n: int) -> asyncio.Task[Response]:
        return asyncio.create_task(small_client.post("/encode", json=uint8_body(digits[:n])))

    work = [ask(4)]
    await held.begun()
    work.append(ask(8))
    await queue_holds(small_client, 8)
    problem(await ask(1), 503, "8 wait already")
    budget = small_app.state.budget
    others = budget.max_bytes - budget.reserved
    assert budget.try_reserve(others)
    asked = asyncio.create_task(small_client.get("/readyz"))
    for _ in range(3):
        held.let_go(1)
        assert (await small_client.get("/livez")).status_code == 200
    assert (await asked).status_code == 200
    assert {answer.status_code for answer in await asyncio.gather(*work)} == {200}
    assert (await small_client.get("/readyz")).status_code == 200
    assert budget.reserved == others


async def test_batches_that_take_longer_than_a_probe_are_work(
    busy: Busy, small_client: AsyncClient
) -> None:
    """One that ends between two probes, too."""
    held, work = await busy(0.05)
    problem(await small_client.get("/readyz"), 503, "0.05")
    held.let_go(1)
    async with asyncio.timeout(HANG_S):
        while len(held.batches) < 2:  # noqa: ASYNC110 - of the inference thread
            await asyncio.sleep(0.001)
    assert (await small_client.get("/readyz")).status_code == 200
    problem(await small_client.get("/readyz"), 503, "0.05")
    held.let_go()
    assert (await work).status_code == 200


async def test_not_alive_after_the_stall_timeout(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    now = monotonic()
    monkeypatch.setattr(health, "monotonic", lambda: now)
    with monkeypatch.context() as patch:
        patch.setattr(engine_of(small_app), "score", broken)
        now += health.READY_FOR_S + 1
        problem(await small_client.get("/readyz"), 503)
        assert (await small_client.get("/livez")).status_code == 200
        now += small_app.state.service.settings.stall_timeout_s
        problem(await small_client.get("/livez"), 503, "for 30 s")
        assert (await small_client.get("/v2/health/live")).json() == {"live": False}
    assert (await small_client.get("/readyz")).status_code == 200
    assert (await small_client.get("/livez")).status_code == 200


async def test_a_service_that_stops_is_not_ready(small_app: App, small_client: AsyncClient) -> None:
    health_of(small_app).stopping = True
    problem(await small_client.get("/readyz"), 503, "stopping")
    assert (await small_client.get("/livez")).status_code == 200
    assert (await small_client.get("/sample")).status_code == 200


async def test_a_failed_request_is_no_proof(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    four: NDArray[np.uint8],
) -> None:
    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    monkeypatch.setattr(engine_of(small_app), "score", broken)
    problem(await small_client.post("/anomaly-score", json=uint8_body(four)), 500)
    problem(await small_client.get("/readyz"), 503)


async def test_metrics_parse_and_grow(small_client: AsyncClient, digits: NDArray[np.uint8]) -> None:
    async def count(**labels: str) -> float:
        return await metric(small_client, "vae_requests_total", **labels)

    assert await count(route="/encode") == 0
    batches = await metric(small_client, "vae_batch_images_count")
    images = await metric(small_client, "vae_batch_images_sum")

    await small_client.post("/encode", json=uint8_body(digits[:6]))
    await small_client.post("/encode", json=uint8_body(digits[:1]))
    await small_client.post("/encode", json={})
    await small_client.get("/encode")

    assert await count(method="POST", route="/encode", status="200") == 2
    assert await count(method="POST", route="/encode", status="422") == 1
    assert await count(method="GET", status="405") == 1
    assert await metric(small_client, "vae_batch_images_count") == batches + 3, "of 4, 2 and 1"
    assert await metric(small_client, "vae_batch_images_sum") == images + 7
    assert await metric(small_client, "vae_batch_duration_seconds_sum") > 0
    assert await metric(small_client, "vae_queue_images") == 0
    assert await metric(small_client, "vae_model_info", bundle="mnist") == 1
    latencies = await metric(small_client, "vae_request_duration_seconds_count", route="/encode")
    assert latencies == 4


async def test_metrics_are_prometheus_text(client: AsyncClient) -> None:
    await client.get("/sample")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for name, kind in {
        "vae_requests": "counter",
        "vae_request_duration_seconds": "histogram",
        "vae_batch_images": "histogram",
        "vae_batch_duration_seconds": "histogram",
        "vae_queue_images": "gauge",
    }.items():
        assert families[name].type == kind
        assert families[name].documentation


async def test_the_queue_s_depth_is_seen_while_it_waits(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> None:
    held = hold(monkeypatch, small_app, "score")
    tasks = [asyncio.create_task(small_client.post("/anomaly-score", json=uint8_body(digits[:1])))]
    await held.begun()
    tasks.append(
        asyncio.create_task(small_client.post("/anomaly-score", json=uint8_body(digits[:5])))
    )
    await queue_holds(small_client, 5)
    held.let_go()
    await asyncio.gather(*tasks)
    assert await metric(small_client, "vae_queue_images") == 0


async def test_requests_cannot_grow_the_metrics(small_client: AsyncClient) -> None:
    async def series() -> int:
        text = (await small_client.get("/metrics")).text
        return sum(len(family.samples) for family in text_string_to_metric_families(text))

    for i in range(3):
        await small_client.request(f"BREW{i}", f"/nope{i}")
    await series()
    before = await series()
    for i in range(3, 30):
        await small_client.request(f"BREW{i}", f"/nope{i}?a={i}", headers={"X-Request-ID": f"{i}"})
    assert await series() == before
