"""Headers of every answer, errors included."""

from __future__ import annotations

import re

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from model.engine.engine import Engine
from tests.api.helpers import image_file

pytestmark = pytest.mark.anyio

TIMING = re.compile(r"queue;dur=(\d+\.?\d*), infer;dur=(\d+\.?\d*)")

CALLS = [
    ("GET", "/livez", 200),
    ("GET", "/readyz", 200),
    ("GET", "/model", 200),
    ("GET", "/metrics", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/sample", 200),
    ("GET", "/sample?n=0", 422),
    ("POST", "/encode", 400),
    ("GET", "/encode", 405),
    ("GET", "/nope", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), CALLS)
async def test_every_answer_is_marked(
    client: AsyncClient, engine: Engine, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path, headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-model-version"] == engine.bundle.version
    assert TIMING.fullmatch(answer.headers["server-timing"])
    for name in ("x-request-id", "x-model-version", "server-timing", "content-type"):
        assert len(answer.headers.get_list(name)) == 1


async def test_timings_are_those_of_the_work(client: AsyncClient, four: NDArray[np.uint8]) -> None:
    idle = TIMING.fullmatch((await client.get("/livez")).headers["server-timing"])
    answer = await client.post("/encode", content=image_file(four[0]))
    busy = TIMING.fullmatch(answer.headers["server-timing"])
    assert idle
    assert busy
    assert float(idle[2]) == 0 < float(busy[2])


@pytest.mark.parametrize("request_id", ["a", "x" * 128, "8f14e45f-ceea-467d", "!~{}'\"<>"])
async def test_the_caller_s_id_is_kept(client: AsyncClient, request_id: str) -> None:
    answer = await client.get("/nope", headers={"X-Request-ID": request_id})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == request_id


@pytest.mark.parametrize(
    "request_id", [b"", b" ", b"x" * 129, b"two words", b"tab\there", b"\xff\xfe", b"bell\x07"]
)
async def test_an_id_that_is_garbage_is_replaced(client: AsyncClient, request_id: bytes) -> None:
    answer = await client.get("/nope", headers=[(b"X-Request-ID", request_id)])
    found = answer.headers["x-request-id"]
    assert re.fullmatch(r"[\x21-\x7e]{8,128}", found)
    assert found == answer.json()["request_id"]


async def test_ids_are_new_for_each_request(client: AsyncClient) -> None:
    ids = {(await client.get("/livez")).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20
