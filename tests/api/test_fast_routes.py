"""Fast routes answer as FastAPI would."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from fastapi import APIRouter
from httpx import ASGITransport, AsyncClient, Response
from numpy.typing import NDArray
from starlette.responses import Response as StarletteResponse

from service.api.open_inference import models as open_inference
from service.app import App
from service.http.fast_routes import fast, fast_routes
from tests.api.helpers import problem, uint8_body

pytestmark = pytest.mark.anyio

CHANGING = re.compile(rb'"request_id":"[^"]*"')
OWN = {"x-request-id", "server-timing"}

QUERIES = [
    "",
    "score=mse&alpha=0.05",
    "alpha=2",
    "alpha=x&samples=0",
    "sc%6Fre=%6Dse",
    "map=true&scale=2",
    "map=maybe",
    "fdr=bh",
    "seed=-1",
    "score=",
]


def comparable(answer: Response) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name not in OWN}
    return answer.status_code, headers, CHANGING.sub(b"", answer.content)


async def both(app: App, method: str, path: str, **options: Any) -> list[Response]:
    """The answer, and the one that FastAPI's own routing gives."""
    found = []
    for asgi in (app, app._fastapi):
        transport = ASGITransport(app=asgi, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            found.append(await client.request(method, path, **options))
    return found


@pytest.mark.parametrize("query", QUERIES)
async def test_queries_are_read_the_same_way(
    app: App, digits: NDArray[np.uint8], query: str
) -> None:
    fast_, plain = await both(app, "POST", f"/anomaly-score?{query}", json=uint8_body(digits[:2]))
    assert comparable(fast_) == comparable(plain)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("score=mse&score=kl", "the parameter 'score' is there twice"),
        ("alpha=0.1&sc%6Fre=mse&alpha=0.1", "the parameter 'alpha' is there twice"),
        ("&".join(["score=mse"] * 100), "'score' is there twice"),
        ("x" * 1_000 + "=1", "is not a known parameter here, expected resize, invert"),
        ("_=1", "'_' is not a known parameter here, expected resize, invert"),
        ("=&&", "is not a known parameter here, expected resize, invert"),
        ("Alpha=0.1", "'Alpha' is not a known parameter here; did you mean alpha?"),
        ("treshold=1&ALPHA=1", "did you mean alpha?"),
    ],
)
async def test_what_is_wrong_with_a_parameter_is_said_better(
    app: App, digits: NDArray[np.uint8], query: str, words: str
) -> None:
    """FastAPI takes the last value of several, and does not say which parameters there are."""
    fast_, _ = await both(app, "POST", f"/anomaly-score?{query}", json=uint8_body(digits[:2]))
    found = problem(fast_, 422, words)
    assert len(found["detail"]) < 400
    assert {item["loc"][0] for item in found["errors"]} == {"query"}


@pytest.mark.parametrize("path", ["/encode", "/decode", "/reconstruct", "/anomaly-score"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"images": []}', b'{"n": 3, "seed": 1}', b"\x89PNG", b"[1]"]
)
@pytest.mark.parametrize("accept", ["application/json", "application/x-npy", "text/html"])
async def test_bodies_and_types_are_too(app: App, path: str, body: bytes, accept: str) -> None:
    fast_, plain = await both(app, "POST", path, content=body, headers={"Accept": accept})
    assert comparable(fast_) == comparable(plain)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
async def test_large_answers_are_compressed_and_small_ones_are_not(app: App, encoding: str) -> None:
    for n in (1, 3):
        answers = await both(
            app, "POST", "/decode", json={"n": n, "seed": 1}, headers={"Accept-Encoding": encoding}
        )
        assert comparable(answers[0]) == comparable(answers[1])
    assert answers[0].headers.get("content-encoding", "identity") == encoding


@pytest.mark.parametrize("accept", ["application/json", "application/x-npy"])
async def test_chunked_answers_tell_caches_the_same(app: App, accept: str) -> None:
    """Only JSON depends on what the caller accepts as encoding."""
    headers = {"Accept": accept, "Accept-Encoding": "identity"}
    fast_, plain = await both(app, "GET", "/sample?n=400&seed=1", headers=headers)
    assert comparable(fast_) == comparable(plain)
    assert ("accept-encoding" in fast_.headers["vary"].lower()) == (accept == "application/json")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_another_method_is_the_framework_s_business(app: App, method: str) -> None:
    fast_, plain = await both(app, method, "/encode")
    assert fast_.status_code == (204 if method == "OPTIONS" else 405)
    assert comparable(fast_) == comparable(plain)


async def test_which_routes_are_fast(app: App) -> None:
    """Those that run the network."""
    assert set(app._fast) == {
        *(("POST", f"/{name}") for name in ("encode", "decode", "reconstruct", "anomaly-score")),
        *(("POST", f"/v2/models/{name}/infer") for name in open_inference.MODELS),
        *((method, "/sample") for method in ("GET", "HEAD")),
    }
    z = {"name": "z", "datatype": "FP32", "shape": [1, 10], "data": [0.5] * 10}
    fast_, plain = await both(app, "POST", "/v2/models/decode/infer", json={"inputs": [z]})
    assert fast_.status_code == 200
    assert comparable(fast_) == comparable(plain)


def test_a_route_is_fast_only_where_it_says_so() -> None:
    router = APIRouter()

    @router.post("/slow")
    async def slow() -> StarletteResponse:
        raise AssertionError

    @router.post("/{name}/run")
    @fast(name=("a", "b"))
    async def run(name: str) -> StarletteResponse:
        raise AssertionError(name)

    assert set(fast_routes(router)) == {("POST", "/a/run"), ("POST", "/b/run")}
