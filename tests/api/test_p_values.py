"""The histogram of p-values: each image that got one, on whichever way, and no probe."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from httpx import AsyncClient

from service.app import App
from service.inference import health
from tests.api.bodies import Images
from tests.api.helpers import HANG_S, hold, metric, problem, uint8_body
from tests.processes import Server
from tests.processes import metric as process_metric


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def test_images_count_whichever_way_they_are_scored(http: httpx.Client, four: Images) -> None:
    def counted() -> tuple[float, float, float]:
        low = process_metric(http, "vae_p_value_bucket", le="0.01")
        names = ("vae_p_value_count", "vae_p_value_sum")
        count, total = (process_metric(http, name) for name in names)
        return count, total, low

    black = np.full((2, 1, 28, 28), 255, np.uint8)  # an anomaly
    body = uint8_body(np.concatenate([four, black]))
    infer: dict[str, Any] = {
        "inputs": [
            {"name": "images", "datatype": "UINT8", "shape": [6, 28, 28], "data": body["images"]}
        ]
    }
    before = counted()
    expected: list[float] = []
    content, headers = orjson.dumps(body), {"Content-Type": "application/json"}
    for query in (
        *("", "", ""),  # of which all but the first are answered directly
        *("?score=mse", "?fdr=bh", "?map=true", "?score=iwae&seed=1"),
    ):
        answer = http.post(f"/anomaly-score{query}", content=content, headers=headers)
        expected += answer.json()["p_value"]
    outputs = http.post("/v2/models/anomaly-score/infer", json=infer).json()["outputs"]
    expected += next(item["data"] for item in outputs if item["name"] == "p_value")
    for query in ("?score=iwae&samples=2", "?alpha=2"):  # no p-values, no scores
        http.post(f"/anomaly-score{query}", content=content, headers=headers)
    http.post("/encode", content=content, headers=headers)
    assert len(expected) == 8 * 6
    count, total, low = np.subtract(counted(), before)
    assert count == len(expected)
    assert total == pytest.approx(sum(expected), rel=1e-5)
    assert low == np.count_nonzero(np.array(expected) <= 0.01) >= 8 * 2


@pytest.mark.anyio
async def test_images_of_a_request_that_fails_afterwards_count(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient, four: Images
) -> None:
    held = hold(monkeypatch, small_app, "score")
    late = {"X-Request-Timeout": "0.05"}
    answer = await small_client.post("/anomaly-score", json=uint8_body(four), headers=late)
    problem(answer, 504)
    assert held.batches == [4]
    held.let_go()
    async with asyncio.timeout(HANG_S):
        while await metric(small_client, "vae_p_value_count") != 4:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.001)
    assert await metric(small_client, "vae_scored_images_total") == 0


@pytest.mark.anyio
async def test_probes_do_not_count(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    passes = await metric(small_client, "vae_batch_images_count")
    assert (await small_client.get("/readyz")).status_code == 200
    assert await metric(small_client, "vae_batch_images_count") > passes
    assert await metric(small_client, "vae_p_value_count") == 0
