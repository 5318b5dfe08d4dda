"""HEAD wherever GET, and OPTIONS with Allow."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from tests.api.connections import Connection, request
from tests.api.helpers import SMALL, client_of, hold, problem, queue_holds
from tests.processes import Server, address, metric

GET_PATHS = [
    *("/livez", "/readyz", "/model", "/metrics", "/docs", "/docs/oauth2-redirect"),
    *("/openapi.json", "/static-offline-docs/swagger-ui.css", "/model/latents"),
    *("/sample?n=2&seed=1", "/sample?n=400&seed=1", "/sample?n=0"),
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/encode", "/v2/models/no"),
    *("/v2/models/encode/ready", "/nothing", "/v2/nothing", "/static-offline-docs/nothing"),
]

OWN = {"x-request-id", "server-timing", "date", "transfer-encoding"}


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/x-npy"])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("path", GET_PATHS)
def test_head_is_get_without_the_body(
    http: httpx.Client, path: str, encoding: str, accept: str
) -> None:
    headers = {"Accept": accept, "Accept-Encoding": encoding}
    get, head = (http.request(method, path, headers=headers) for method in ("GET", "HEAD"))
    assert head.status_code == get.status_code
    assert head.content == b""
    assert get.content
    names = set(get.headers) - OWN
    if path == "/metrics" or path.endswith(("/nothing", "/no", "n=0")):
        names.discard("content-length")  # counts grow, and a request id is in the body
    for name in names:
        assert head.headers[name] == get.headers[name], name
    assert set(head.headers) | {"transfer-encoding"} == set(get.headers) | {"transfer-encoding"}


@pytest.mark.parametrize("path", ["/livez", "/sample", "/sample?n=400", "/docs", "/nothing"])
def test_a_connection_goes_on_after_head(server: Server, path: str) -> None:
    """A body's bytes would be taken for the next answer."""
    headers = ("Accept: application/json", "Accept-Encoding: gzip")
    with closing(Connection(*address(server))) as connection:
        for _ in range(2):
            connection.send(request(path, headers=headers).replace(b"GET", b"HEAD", 1))
            assert connection.read_until(b"\r\n\r\n")
            connection.send(request("/livez"))
            assert connection.answer()[0] == "HTTP/1.1 200 OK"


def test_head_is_counted_as_head_of_its_route(http: httpx.Client) -> None:
    for path, route in (
        ("/livez", "/livez"),
        ("/sample", "/sample"),
        ("/v2/models/encode", "/v2/models/{name}"),
    ):
        of = {"method": "HEAD", "route": route, "status": "200"}
        before = metric(http, "vae_requests_total", **of)
        http.head(path)
        assert metric(http, "vae_requests_total", **of) == before + 1


def test_wget_spider(server: Server) -> None:
    if shutil.which("wget") is None:
        pytest.skip("wget is not installed")
    for path, status in (("/livez", 0), ("/sample?n=2", 0), ("/docs", 0), ("/nothing", 8)):
        done = subprocess.run(  # noqa: S603 - our own service
            ["wget", "--spider", "--quiet", "--tries=1", f"{server.url}{path}"],  # noqa: S607
            timeout=30,
            check=False,
        )
        assert done.returncode == status, path


def test_head_takes_a_key_where_get_does(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    key = "a-key-of-enough-characters"
    server = start_server("--api-keys", key)
    with server.client() as client:
        for path in ("/sample", "/model", "/metrics", "/v2"):
            for method in ("HEAD", "OPTIONS"):
                assert client.request(method, path).status_code == 401, path
                headers = {"Authorization": f"Bearer {key}"}
                assert client.request(method, path, headers=headers).is_success, path
        assert client.head("/livez").status_code == 200
        assert client.options("/livez").status_code == 204


def test_options_of_the_whole_service(server: Server) -> None:
    """RFC 9110, section 9.3.7."""
    with closing(Connection(*address(server))) as connection:
        for _ in range(2):
            connection.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")
        connection.send(b"GET * HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.answer()[0] == "HTTP/1.1 404 Not Found"


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_full_queue_refuses_head_too(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    app = create_app(SMALL)
    held = hold(monkeypatch, app, "decode")
    async with client_of(app) as client:
        full = {"n": SMALL.max_queue_images}
        beside = [asyncio.create_task(client.post("/decode", json={"n": 1}))]
        await held.begun()
        beside.append(asyncio.create_task(client.post("/decode", json=full)))
        await queue_holds(client, SMALL.max_queue_images)
        scope = {
            "type": "http",
            "method": method,
            "path": "/sample",
            "query_string": b"",
            "headers": [],
        }
        refused = app.refuse(scope)
        assert refused is not None, "before there is a task for it"
        assert refused.status == 503
        assert (await client.request(method, "/sample")).status_code == 503
        held.let_go()
        await asyncio.gather(*beside)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/encode", "POST, OPTIONS"),
        ("/model/reload", "POST, OPTIONS"),
        ("/sample", "GET, HEAD, OPTIONS"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
        ("/static-offline-docs/swagger-ui.css", "GET, HEAD, OPTIONS"),
        ("/v2/models/encode/infer", "POST, OPTIONS"),
        ("/v2/models/encode", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_names_the_methods(http: httpx.Client, path: str, allowed: str) -> None:
    answer = http.options(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == allowed
    assert "content-length" not in answer.headers
    assert {"x-request-id", "x-model-version", "server-timing"} <= set(answer.headers)
    for method in ("PUT", "PATCH", "DELETE"):
        assert http.request(method, path).headers["allow"] == allowed, "as in the refusals"


def test_options_of_nothing(http: httpx.Client) -> None:
    problem(http.options("/nothing"), 404, "there is no /nothing here")
    assert set(http.options("/v2/nothing").json()) == {"error"}


def test_options_is_counted_under_its_route(http: httpx.Client) -> None:
    of = {"method": "OPTIONS", "route": "/encode", "status": "204"}
    before = metric(http, "vae_requests_total", **of)
    http.options("/encode")
    assert metric(http, "vae_requests_total", **of) == before + 1
