"""What holds for every request, whichever entry it takes into the lifecycle."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any

import numpy as np
import pytest
from fastapi import APIRouter
from httpx import ASGITransport, AsyncClient
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response as StarletteResponse
from starlette.types import Message

from service.app import App
from service.http.compression import SLICE_BYTES
from service.http.fast_routes import fast, fast_routes
from tests.api.helpers import HANG_S, WORK_ROUTES, client_of, engine_of, metric, problem

pytestmark = pytest.mark.anyio

RAW = {"Content-Type": "application/octet-stream"}
VERSIONED = "/v2/models/encode/versions/{version}/infer"


async def whole(
    client: AsyncClient, method: str, path: str, status: int = 200, **options: Any
) -> tuple[bytes, bool]:
    """An answer's JSON, and whether it travelled compressed. It is decompressed here, so that a
    body that is not what its header says is seen."""
    async with client.stream(method, path, **options) as answer:
        assert answer.status_code == status
        sent = b"".join([part async for part in answer.aiter_raw()])
        if answer.headers.get("content-encoding") != "gzip":
            assert len(sent) == int(answer.headers["content-length"])
            return sent, False
        assert "accept-encoding" in answer.headers["vary"].lower()
        return zlib.decompress(sent, 16 + zlib.MAX_WBITS), True


@pytest.mark.parametrize(
    ("method", "path", "n"),
    [
        ("POST", "/reconstruct", 20),  # 16,000 numbers: in one piece
        ("POST", "/reconstruct", 80),  # 63,000 numbers, over a megabyte: in one piece
        ("POST", "/reconstruct", 300),  # chunked
        ("POST", "/anomaly-score?map=true", 300),
        ("POST", VERSIONED, 8000),
        ("GET", "/sample?n=300&seed=1", 300),
    ],
)
async def test_json_is_compressed_by_one_rule(app: App, method: str, path: str, n: int) -> None:
    """Small or large, in one piece or in many, by a fast route or FastAPI's."""
    options: dict[str, Any] = {"headers": RAW} if method == "POST" else {"headers": {}}
    if method == "POST":
        options["content"] = np.zeros((n, 784), dtype=np.uint8).tobytes()
    if path == VERSIONED:
        path = path.format(version=engine_of(app).bundle.version)
        tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [n, 784]}
        tensor["parameters"] = {"binary_data_size": n * 784}
        head = json.dumps({"inputs": [tensor]}).encode()
        options["content"] = head + options["content"]
        options["headers"] = {"Inference-Header-Content-Length": str(len(head))}
    options["headers"] = options["headers"] | {"Accept": "application/json"}
    async with client_of(app) as client:
        plain, is_compressed = await whole(client, method, path, **_accepting(options, "identity"))
        assert not is_compressed
        packed, is_compressed = await whole(client, method, path, **_accepting(options, "gzip"))
    assert is_compressed
    assert json.loads(packed) == json.loads(plain)


def _accepting(options: dict[str, Any], encoding: str) -> dict[str, Any]:
    return options | {"headers": options["headers"] | {"Accept-Encoding": encoding}}


async def test_others_have_their_turn_while_a_large_answer_is_compressed(app: App) -> None:
    """No body message that is given to the compressor at once is larger than a slice."""
    sizes: list[int] = []
    turns = 0

    async def send(message: Message) -> None:
        sizes.append(len(message.get("body", b"")))

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    body = json.dumps({"n": 80, "seed": 1}).encode()
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return sent.pop()

    headers = [(b"accept-encoding", b"gzip"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/decode", "query_string": b"",
        "headers": headers,
    }  # fmt: skip
    counting = asyncio.create_task(count_turns())
    await app(scope, receive, send)
    counting.cancel()
    compressed = sum(sizes)
    assert compressed > 2 * SLICE_BYTES
    assert max(sizes) < 2 * SLICE_BYTES
    assert turns > compressed / SLICE_BYTES


def _routes_with_a_body(app: App) -> list[str]:
    version = engine_of(app).bundle.version
    return [
        path.format(name="encode", version=version)
        for path, item in app.openapi()["paths"].items()
        if "requestBody" in item.get("post", {})
    ]


@pytest.mark.parametrize("full", ["images", "bytes"])
async def test_every_route_with_a_body_refuses_before_it_reads(
    small_app: App, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """Images and bytes are one question. FastAPI's routes ask it, too."""
    batcher = small_app.state.service.inference._batcher
    if full == "images":
        monkeypatch.setattr(batcher, "_queued_rows", 8)
    else:
        small_app.state.budget.reserve(small_app.state.budget.max_bytes)
    paths = _routes_with_a_body(small_app)
    assert {*WORK_ROUTES} < set(paths)

    async def body() -> Any:
        raise AssertionError("the body is read")
        yield b""

    for path in paths:
        for asgi in (small_app, small_app._fastapi):
            transport = ASGITransport(app=asgi)  # which raises what the body raises
            async with AsyncClient(transport=transport, base_url="http://test") as client:
                headers = {"Content-Length": "1000", **RAW}
                answer = await client.post(path, content=body(), headers=headers)
            assert answer.status_code == 503, path
            assert int(answer.headers["retry-after"]) >= 1
    if full == "bytes":
        small_app.state.budget.release(small_app.state.budget.max_bytes)
    async with client_of(small_app) as client:
        name = f"queue_{full}"
        assert await metric(client, "vae_refusals_total", reason=name) == 2 * len(paths)


async def test_a_body_that_would_not_fit_is_refused_by_its_length(small_app: App) -> None:
    """Before any of it is read, though there is still room for its image."""
    budget = small_app.state.budget
    budget.reserve(budget.max_bytes - 5_000)
    async with client_of(small_app) as client:
        answer = await client.post("/encode", content=bytes(7 * 784), headers=RAW)
        problem(answer, 503, "5,488 bytes", f"{budget.max_bytes:,}")
        assert (await client.post("/encode", content=bytes(784), headers=RAW)).status_code == 200
    assert budget.reserved == budget.max_bytes - 5_000


@pytest.mark.parametrize("path", ["/encode", "/sample", "/model", "/livez", "/v2", "/nowhere"])
async def test_a_timeout_that_is_wrong_is_refused_everywhere(
    client: AsyncClient, path: str
) -> None:
    method = "POST" if path == "/encode" else "GET"
    answer = await client.request(method, path, headers={"X-Request-Timeout": "soon"})
    assert answer.status_code == (400 if path == "/v2" else 422)
    assert "X-Request-Timeout is 'soon'" in answer.text


@pytest.mark.parametrize("fast", [True, False])
async def test_a_deadline_becomes_504_in_one_place_and_a_bug_does_not(
    small_app: App, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """A `TimeoutError` before the deadline is our own fault, whatever raised it."""
    version = engine_of(small_app).bundle.version
    path = "/encode" if fast else f"/v2/models/encode/versions/{version}/infer"
    asgi = small_app if fast else small_app._fastapi
    waits = 0.0

    async def fail(*_: object) -> Any:
        await asyncio.sleep(waits)
        raise TimeoutError("the stars were not right")

    monkeypatch.setattr(small_app.state.service.inference, "encode", fail)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 784], "data": [0] * 784}
    body: dict[str, Any] = (
        {"images": [[0] * 784], "dtype": "uint8"} if fast else {"inputs": [tensor]}
    )
    transport = ASGITransport(app=asgi, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test", timeout=HANG_S) as client:
        early = await client.post(path, json=body)
        waits = 0.2
        late = await client.post(path, json=body, headers={"X-Request-Timeout": "0.2"})
    assert early.status_code == 500
    assert "stars" not in early.text
    assert late.status_code == 504
    assert "the stars were not right within the request's 0.2 s" in late.text


async def test_both_entries_count_and_log_in_the_same_way(
    app: App, four: NDArray[np.uint8]
) -> None:
    """Each request once, under its route."""
    version = engine_of(app).bundle.version
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 784]}
    tensor["data"] = four[0].reshape(-1).tolist()
    async with client_of(app) as client:
        for prefix, route in [
            ("/v2/models/encode/infer", "/v2/models/{name}/infer"),
            (
                f"/v2/models/encode/versions/{version}/infer",
                "/v2/models/{name}/versions/{version}/infer",
            ),
        ]:
            labels = {"route": route, "status": "200"}
            before = await metric(client, "vae_requests_total", **labels)
            assert (await client.post(prefix, json={"inputs": [tensor]})).status_code == 200
            assert await metric(client, "vae_requests_total", **labels) == before + 1


@pytest.mark.parametrize("fast_", [True, False])
async def test_a_fault_after_the_answer_began_is_passed_on(app: App, fast_: bool) -> None:
    """Only closing the connection tells the client that the rest is missing."""
    sent: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if message.get("body"):
            raise RuntimeError("the second message fails")

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": "GET", "path": "/sample", "query_string": b"n=100&seed=1",
        "headers": [(b"accept", b"application/json")],
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="second message"):
        await (app if fast_ else app._fastapi)(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body"]
    assert app.state.budget.reserved == 0


@pytest.mark.parametrize("fast_", [True, False])
async def test_a_client_that_leaves_gives_everything_back_and_counts_once(
    app: App, fast_: bool
) -> None:
    """While a chunked answer is sent, by both entries."""
    asked = asyncio.Event()

    async def send(message: Message) -> None:
        if message.get("body"):
            asked.set()
            await asyncio.sleep(HANG_S)  # nobody reads

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/sample", "query_string": b"n=300&seed=1",
        "headers": [(b"accept", b"application/json")],
    }  # fmt: skip
    labels = {"route": "/sample", "status": "200"}
    async with client_of(app) as client:
        before = await metric(client, "vae_requests_total", **labels)
        serving = asyncio.create_task((app if fast_ else app._fastapi)(scope, receive, send))
        await asyncio.wait_for(asked.wait(), HANG_S)
        assert app.state.budget.reserved > 300 * 784
        scope["state"]["context"].leave()
        await serving  # ends without an error
        assert app.state.budget.reserved == 0
        assert await metric(client, "vae_requests_total", **labels) == before + 1


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (413, {"content": bytes(60_001), "headers": RAW}),
        (422, {"content": bytes(783), "headers": RAW}),
        (400, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (406, {"content": bytes(784), "headers": RAW | {"Accept": "text/html"}}),
        (415, {"content": bytes(784), "headers": {"Content-Type": "text/css"}}),
        (504, {"content": bytes(784), "headers": RAW | {"X-Request-Timeout": "1e-9"}}),
    ],
)
@pytest.mark.parametrize("fast_", [True, False])
async def test_every_failure_has_the_common_headers_and_holds_nothing(
    small_app: App, status: int, request_: dict[str, Any], fast_: bool
) -> None:
    transport = ASGITransport(app=small_app if fast_ else small_app._fastapi)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/encode", **request_)
    assert answer.status_code == status
    assert {"x-request-id", "x-model-version", "server-timing"} <= set(answer.headers)
    assert small_app.state.budget.reserved == 0


async def test_a_long_problem_is_compressed_and_a_plain_answer_is_not_cut(app: App) -> None:
    """Problems are JSON, too. Who accepts no compression gets an answer in one piece."""
    queries = "&".join(f"unknown{number}=1" for number in range(300))
    async with client_of(app) as client:
        packed, is_compressed = await whole(
            client, "GET", f"/sample?{queries}", status=422, headers={"Accept-Encoding": "gzip"}
        )
        assert is_compressed
        assert json.loads(packed)["status"] == 422
    sizes: list[int] = []

    async def send(message: Message) -> None:
        sizes.append(len(message.get("body", b"")))

    async def receive() -> Message:
        body = json.dumps({"n": 80, "seed": 1}).encode()
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/decode",
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)
    assert len(sizes) == 2
    assert sizes[1] > 2 * SLICE_BYTES


def test_an_endpoint_that_needs_more_than_its_request_cannot_be_fast() -> None:
    router = APIRouter()

    @router.post("/depends")
    @fast()
    async def depends(request: Request, other: int = 1) -> StarletteResponse:
        raise AssertionError

    with pytest.raises(TypeError, match=r"depends is marked fast.*other"):
        fast_routes(router)
