"""In any mix, order and with any cancellations, each request gets the numbers it gets alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from httpx import ASGITransport, AsyncClient, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.app import App, create_app
from service.settings import Settings

MAX_BATCH = 8
CALLS = (
    "/encode",
    "/encode?sample=true&seed=7",
    "/reconstruct",
    "/reconstruct?sample=true&seed=7",
    "/anomaly-score",
    "/decode",
)


@dataclass(frozen=True)
class Sent:
    """A request: `n` images from `first`, sent after `turns` turns of the loop."""

    call: str
    first: int
    n: int
    turns: int
    leaves_after: int | None
    """Turns after which the caller has gone."""


SENT = st.builds(
    Sent,
    call=st.sampled_from(CALLS),
    first=st.integers(0, 40),
    n=st.integers(1, 20),
    turns=st.integers(0, 12),
    leaves_after=st.none() | st.integers(0, 12),
)


def make_app() -> App:
    return create_app(Settings(threads=1, max_batch_images=MAX_BATCH))


def body_of(sent: Sent, digits: NDArray[np.uint8]) -> bytes:
    if sent.call == "/decode":
        z = np.random.default_rng(sent.first).standard_normal((sent.n, 10))
        return orjson.dumps({"z": z.tolist()})
    images = digits[sent.first : sent.first + sent.n, 0]
    return orjson.dumps({"images": images.tolist(), "dtype": "uint8"})


async def post(client: AsyncClient, sent: Sent, body: bytes) -> Response:
    for _ in range(sent.turns):
        await asyncio.sleep(0)
    return await client.post(sent.call, content=body)


async def leave(task: asyncio.Task[Response], turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


def check_same(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert set(found) == set(alone)
    for key, value in alone.items():
        if isinstance(value, list):
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5)
        else:
            assert found[key] == value


@given(mix=st.lists(SENT, min_size=2, max_size=10))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_request_gets_what_it_gets_alone(digits: NDArray[np.uint8], mix: list[Sent]) -> None:
    app = make_app()

    async def play() -> None:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            tasks = [asyncio.create_task(post(client, sent, body_of(sent, digits))) for sent in mix]
            leaving = [
                asyncio.create_task(leave(task, sent.leaves_after))
                for sent, task in zip(mix, tasks, strict=True)
                if sent.leaves_after is not None
            ]
            await asyncio.gather(*leaving)
            await asyncio.wait(tasks, timeout=30)
            for sent, task in zip(mix, tasks, strict=True):
                if task.cancelled():
                    assert sent.leaves_after is not None
                    continue
                answer = task.result()
                assert answer.status_code == 200, answer.text[:300]
                alone = await client.post(sent.call, content=body_of(sent, digits))
                check_same(answer.json(), alone.json())

    try:
        asyncio.run(play())
    finally:
        app.state.service.inference.close()
