"""Full queues, deadlines, disconnects and internal errors: no other request suffers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from service.app import App, create_app
from service.inference.batching import MicroBatcher
from tests.api.helpers import (
    HANG_S,
    IMAGE_ROUTES,
    SMALL,
    WORK_ROUTES,
    client_of,
    engine_of,
    hold,
    metric,
    problem,
    queue_holds,
    uint8_body,
)

pytestmark = pytest.mark.anyio

QUEUE = SMALL.max_queue_images
BATCH = SMALL.max_batch_images or 0


async def test_a_full_queue_refuses_at_once_and_affects_no_other_request(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> None:
    expected = [
        (await small_client.post("/encode", json=uint8_body(digits[i : i + 1]))).json()
        for i in range(10)
    ]
    held = hold(monkeypatch, small_app, "encode")

    def ask(first: int, n: int) -> asyncio.Task[Any]:
        body = uint8_body(digits[first : first + n])
        return asyncio.create_task(small_client.post("/encode", json=body))

    running = ask(0, 1)
    await held.begun()
    waiting = [ask(1, 5), ask(6, 2)]
    await queue_holds(small_client, 7)

    refused = await ask(0, 2)  # while the others still wait
    problem(refused, 503, "2", "7", str(QUEUE))
    assert refused.headers["retry-after"].isdecimal()
    await queue_holds(small_client, 7)  # nothing of it was queued
    waiting.append(ask(8, 1))
    await queue_holds(small_client, QUEUE)
    for route in ("/decode", "/sample"):
        answer = (
            await small_client.post(route, json={"n": 1})
            if route == "/decode"
            else await small_client.get(route)
        )
        problem(answer, 503)

    held.let_go()
    rows = []
    for answer in await asyncio.gather(running, *waiting):
        assert answer.status_code == 200
        rows += answer.json()["mu"]
    for row, alone in zip(rows, expected, strict=False):
        assert np.array(row) == pytest.approx(np.array(alone["mu"][0]), abs=1e-5)
    assert len(rows) == 9
    assert max(held.batches) <= BATCH
    assert sum(held.batches) == 9, "the refused images were not computed"
    assert (await ask(0, 2)).status_code == 200, "and now there is room"


async def refused(client: AsyncClient) -> float:
    """Requests that found no room for their bytes."""
    return await metric(client, "vae_refusals_total", reason="queue_bytes")


async def test_a_body_that_does_not_fit_is_counted_and_gets_retry_after(
    monkeypatch: pytest.MonkeyPatch, digits: NDArray[np.uint8]
) -> None:
    """As one whose images find no room is: once, with the time that the queue takes."""
    app = create_app(SMALL.model_copy(update={"max_queue_bytes": 10_000, "max_body_bytes": 10_000}))
    monkeypatch.setattr(MicroBatcher, "retry_after_s", 7)
    raw = {"Content-Type": "application/octet-stream"}
    async with client_of(app) as client:
        one = digits[0].tobytes()
        assert (await client.post("/encode", content=one, headers=raw)).status_code == 200
        assert await refused(client) == 0
        app.state.budget.try_reserve(9_500)
        body_too_large = await client.post("/encode", content=one, headers=raw)
        assert await refused(client) == 1
        app.state.budget.release(500)  # so that it fits, and its image beside it does not
        image_too_large = await client.post("/encode", content=one, headers=raw)
        assert await refused(client) == 2
        app.state.budget.release(9_000)
        assert (await client.post("/encode", content=one, headers=raw)).status_code == 200
    for answer in (body_too_large, image_too_large):
        problem(answer, 503, "784 bytes", "10,000")
        assert answer.headers["retry-after"] == "7"


async def test_a_draw_is_admitted_once(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> None:
    """A draw is one pass through the queue: a request that was let in is not refused later."""
    held = hold(monkeypatch, small_app, "reconstruct_drawn")
    drawn = asyncio.create_task(
        small_client.post("/reconstruct?sample=true&seed=7", json=uint8_body(digits[:QUEUE]))
    )
    await held.begun()
    await queue_holds(small_client, QUEUE - BATCH)
    body = uint8_body(digits[:BATCH])
    beside = asyncio.create_task(small_client.post("/anomaly-score", json=body))
    await queue_holds(small_client, QUEUE)
    refused = await small_client.post("/anomaly-score", json=body)
    held.let_go()
    answers = await asyncio.gather(drawn, beside)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert refused.status_code == 503


@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_a_passed_deadline_drops_what_waits(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
    route: str,
) -> None:
    held = hold(monkeypatch, small_app, "score")
    others = {
        name: hold(monkeypatch, small_app, name) for name in ("encode", "decode", "reconstruct")
    }
    running = asyncio.create_task(small_client.post("/anomaly-score", json=uint8_body(digits[:1])))
    await held.begun()
    body = {"n": 5} if route == "/decode" else uint8_body(digits[:5])
    answer = await small_client.post(route, json=body, headers={"X-Request-Timeout": "0.05"})
    problem(answer, 504, "0.05")
    assert await metric(small_client, "vae_queue_images") == 0
    held.let_go()
    assert (await running).status_code == 200
    assert held.batches == [1]
    assert [other.batches for other in others.values()] == [[], [], []]


async def test_a_sample_has_a_deadline_too(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    held = hold(monkeypatch, small_app, "decode")
    asked = asyncio.create_task(small_client.get("/sample", headers={"X-Request-Timeout": "0.05"}))
    done, _ = await asyncio.wait([asked], timeout=2)
    held.let_go()
    assert done, "X-Request-Timeout was not heeded"
    problem(await asked, 504, "0.05")


async def test_a_deadline_holds_for_what_already_runs(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> None:
    held = hold(monkeypatch, small_app, "score")
    body = uint8_body(digits[:1])
    short, long = [
        asyncio.create_task(
            small_client.post("/anomaly-score", json=body, headers={"X-Request-Timeout": seconds})
        )
        for seconds in ("0.05", "15")
    ]
    problem(await short, 504, "0.05")
    held.let_go()
    assert (await long).status_code == 200, "it shared the batch"


@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_nothing_is_computed_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
    route: str,
) -> None:
    held = [
        hold(monkeypatch, small_app, name) for name in ("encode", "decode", "reconstruct", "score")
    ]
    for one in held:
        one.let_go()
    body = {"n": 5} if route == "/decode" else uint8_body(digits[:5])
    answer = await small_client.post(route, json=body, headers={"X-Request-Timeout": "1e-9"})
    problem(answer, 504 if answer.status_code == 504 else 408, "1e-09")
    assert [one.batches for one in held] == [[]] * 4, "computed though its deadline had passed"


async def test_the_server_s_limit_holds_where_the_caller_s_is_longer(
    monkeypatch: pytest.MonkeyPatch, digits: NDArray[np.uint8]
) -> None:
    app = create_app(SMALL.model_copy(update={"request_timeout_s": 0.05}))
    held = hold(monkeypatch, app, "score")
    async with client_of(app) as client:
        for headers in ({}, {"X-Request-Timeout": "100"}):
            answer = await client.post(
                "/anomaly-score", json=uint8_body(digits[:1]), headers=headers
            )
            problem(answer, 504, "0.05")
    held.let_go()


@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_a_body_that_does_not_arrive(small_client: AsyncClient, route: str) -> None:
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"images": '
        await never.wait()

    headers = {"X-Request-Timeout": "0.05"}
    async with asyncio.timeout(HANG_S):
        answer = await small_client.post(route, content=body(), headers=headers)
    problem(answer, 408, "0.05")


async def test_a_cancelled_request_is_not_computed(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> None:
    held = hold(monkeypatch, small_app, "encode")
    running, leaving, staying = [
        asyncio.create_task(small_client.post("/encode", json=uint8_body(digits[:n])))
        for n in (1, 5, 2)
    ]
    await held.begun()
    await queue_holds(small_client, sum((1, 5, 2)) - held.batches[0])
    leaving.cancel()
    await asyncio.wait([leaving])
    held.let_go()
    for n, task in ((1, running), (2, staying)):
        assert len((await task).json()["mu"]) == n
    assert await metric(small_client, "vae_queue_images") == 0


@pytest.mark.parametrize("route", [*WORK_ROUTES, "/sample"])
async def test_an_internal_error_reveals_no_details(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
    route: str,
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a secret of the network")

    for name in ("encode", "decode", "reconstruct", "score"):
        monkeypatch.setattr(engine_of(small_app), name, broken)
    headers = {"X-Request-ID": "find-me-in-the-log"}
    with caplog.at_level(logging.ERROR, logger="service"):
        if route == "/sample":
            answer = await small_client.get(route, headers=headers)
        else:
            body = {"n": 1} if route == "/decode" else uint8_body(digits[:1])
            answer = await small_client.post(route, json=body, headers=headers)
    assert problem(answer, 500)["request_id"] == "find-me-in-the-log"
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text
    assert "find-me-in-the-log" in caplog.text
    assert "a secret of the network" in caplog.text


async def test_a_request_that_breaks_its_batch_breaks_only_itself(
    monkeypatch: pytest.MonkeyPatch,
    small_app: App,
    small_client: AsyncClient,
    digits: NDArray[np.uint8],
) -> None:
    real = engine_of(small_app).score
    poison = np.full(784, 255, dtype=np.uint8)

    def fragile(parts: Sequence[NDArray[np.uint8]], **options: Any) -> Any:
        if any((part.reshape(len(part), -1) == poison).all(axis=1).any() for part in parts):
            raise ValueError("poison")
        return real(parts, **options)

    monkeypatch.setattr(engine_of(small_app), "score", fragile)
    bodies = [uint8_body(digits[i : i + 1]) for i in range(3)]
    bodies.insert(1, {"images": [poison.tolist()], "dtype": "uint8"})
    answers = await asyncio.gather(
        *(small_client.post("/anomaly-score", json=body) for body in bodies)
    )
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
    for answer, i in ((answers[0], 0), (answers[2], 1), (answers[3], 2)):
        expected = real(digits[i : i + 1]).score
        assert answer.json()["score"] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("route", IMAGE_ROUTES)
async def test_more_images_than_a_batch_come_back_in_order(
    small_client: AsyncClient, digits: NDArray[np.uint8], route: str
) -> None:
    whole = (await small_client.post(route, json=uint8_body(digits[:QUEUE]))).json()
    for i in range(QUEUE):
        alone = (await small_client.post(route, json=uint8_body(digits[i : i + 1]))).json()
        for key, value in alone.items():
            if isinstance(value, list):
                found = np.array(whole[key][i])
                assert found == pytest.approx(np.array(value[0]), rel=1e-5, abs=1e-5)
