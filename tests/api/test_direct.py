"""The hot routes answer as FastAPI would."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from httpx import ASGITransport, AsyncClient, Response
from numpy.typing import NDArray

from service.api import images as routes
from service.api.open_inference import routes as open_inference
from service.app import App
from tests.api.helpers import uint8_body

pytestmark = pytest.mark.anyio

CHANGING = re.compile(rb'"request_id":"[^"]*"')
OWN = {"x-request-id", "server-timing"}

QUERIES = [
    "",
    "score=mse&alpha=0.05",
    "score=mse&score=kl",  # the last one counts
    "alpha=2",
    "alpha=x&samples=0",
    "nope=1",
    "sc%6Fre=%6Dse",
    "map=true&scale=2",
    "map=maybe",
    "fdr=bh",
    "seed=-1",
    "score=",
    "=&&",
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
    direct, plain = await both(app, "POST", f"/anomaly-score?{query}", json=uint8_body(digits[:2]))
    assert comparable(direct) == comparable(plain)


@pytest.mark.parametrize("path", ["/encode", "/decode", "/reconstruct", "/anomaly-score"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"images": []}', b'{"n": 3, "seed": 1}', b"\x89PNG", b"[1]"]
)
@pytest.mark.parametrize("accept", ["application/json", "application/x-npy", "text/html"])
async def test_bodies_and_types_are_too(app: App, path: str, body: bytes, accept: str) -> None:
    direct, plain = await both(app, "POST", path, content=body, headers={"Accept": accept})
    assert comparable(direct) == comparable(plain)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
async def test_large_answers_are_compressed_and_small_ones_are_not(app: App, encoding: str) -> None:
    for n in (1, 3):
        answers = await both(
            app, "POST", "/decode", json={"n": n, "seed": 1}, headers={"Accept-Encoding": encoding}
        )
        assert comparable(answers[0]) == comparable(answers[1])
    assert answers[0].headers.get("content-encoding", "identity") == encoding


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_another_method_is_the_framework_s_business(app: App, method: str) -> None:
    direct, plain = await both(app, method, "/encode")
    assert direct.status_code == 405
    assert comparable(direct) == comparable(plain)


async def test_what_is_direct(app: App) -> None:
    """Every route that reads images, latents or tensors."""
    found = set(routes.direct() | open_inference.direct())
    assert found == {
        *(("POST", f"/{name}") for name in ("encode", "decode", "reconstruct", "anomaly-score")),
        *(("POST", f"/v2/models/{name}/infer") for name in open_inference.MODELS),
    }
    z = {"name": "z", "datatype": "FP32", "shape": [1, 10], "data": [0.5] * 10}
    direct, plain = await both(app, "POST", "/v2/models/decode/infer", json={"inputs": [z]})
    assert direct.status_code == 200
    assert comparable(direct) == comparable(plain)
