"""Authorization: scopes, API keys and rates."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from httpx import ASGITransport, AsyncClient, Response
from numpy.typing import NDArray

from service.access.policy import is_loopback
from service.app import App, create_app
from service.client import AsyncClient as ServiceAsyncClient
from service.client import Client, ProblemError
from service.client.__main__ import main as client_main
from service.settings import Settings
from tests.api.helpers import (
    HANG_S,
    SMALL,
    client_of,
    hold,
    metric,
    problem,
    queue_holds,
    uint8_body,
)
from tests.docs import ROOT, run_block, shell_block
from tests.processes import Server, address, running, start_and_fail, wait_until

KEYS = {
    "infer": "a-key-for-images-and-latents",
    "metrics": "a-key-for-prometheus-only",
    "admin": "a-key-for-administrators",
    "limited": "a-key-with-a-rate-of-ten",
}
OPTIONS = {"limited": "rate=10 scopes=infer,metrics"}

REREAD_S = 5.0
"""The service looks for a change of the file each second; a busy machine takes its time."""

OPEN = [
    *(("GET", path) for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")),
    *(("GET", path) for path in ("/", "/docs", "/docs/oauth2-redirect", "/openapi.json")),
    ("GET", "/static-offline-docs/swagger-ui.css"),
]
FOR_IMAGES = [
    *(("POST", f"/{name}") for name in ("encode", "decode", "reconstruct", "anomaly-score")),
    ("POST", "/preprocess"),
    *(("GET", path) for path in ("/sample", "/model", "/v2", "/v2/models/encode")),
    *(
        ("GET", f"/model/{path}")
        for path in ("calibration", "card", "latents", "plots/samples.png")
    ),
    *(("POST", f"/v2/models/{name}/infer") for name in ("encode", "nothing")),
    *(("GET", path) for path in ("/nothing", "/metrics/", "/livez/", "/docs/nothing")),
    ("DELETE", "/encode"),
    ("PATCH", "/static-offline-docs"),
]
FOR_OTHERS = [
    ("GET", "/metrics", "metrics"),
    ("GET", "/settings", "metrics"),
    ("GET", "/v2/models/stats", "metrics"),
    ("GET", "/v2/models/encode/stats", "metrics"),
    ("GET", "/v2/models/encode/versions/1/stats", "metrics"),
    ("POST", "/model/reload", "admin"),
    ("GET", "/recent", "admin"),
]
ALL = [
    *((method, path, None) for method, path in OPEN),
    *((method, path, "infer") for method, path in FOR_IMAGES),
    *FOR_OTHERS,
]


def line(name: str, key: str, options: str) -> str:
    return f"{name} {sha256(key.encode()).hexdigest()} {options}\n"


def write_keys(path: Path) -> Path:
    lines = [line(name, key, OPTIONS.get(name, f"scopes={name}")) for name, key in KEYS.items()]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "api-keys")


@pytest.fixture(scope="module")
def served_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `keyed_server`. A test that changes it puts back what was there."""
    return write_keys(tmp_path_factory.mktemp("keys") / "api-keys")


@pytest.fixture(scope="module")
def keyed_server(served_file: Path) -> Iterator[Server]:
    with running("--api-keys-file", str(served_file), "--log-level", "debug") as server:
        yield server


@pytest.fixture
def keyed_app(file: Path) -> App:
    return create_app(SMALL.model_copy(update={"api_keys_file": str(file)}))


@pytest.fixture
async def keyed(keyed_app: App) -> AsyncIterator[AsyncClient]:
    async with client_of(keyed_app) as client:
        yield client


def bearing(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def refused(answer: Response, path: str, status: int, *mentioned: str) -> None:
    """An error in the shape that goes with the path."""
    if path.startswith("/v2"):
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}
        assert all(word in answer.json()["error"] for word in mentioned)
    else:
        problem(answer, status, *mentioned)
    assert {"x-request-id", "x-model-version", "server-timing"} <= set(answer.headers)


@pytest.mark.anyio
@pytest.mark.parametrize(("method", "path", "scope"), ALL)
async def test_each_route_wants_its_scope(
    keyed: AsyncClient, method: str, path: str, scope: str | None
) -> None:
    answer = await keyed.request(method, path)
    if scope is None:
        assert answer.status_code == 200
        return
    refused(answer, path, 401, "Authorization: Bearer")
    assert answer.headers["www-authenticate"] == "Bearer"
    for wrong in ("Bearer wrong", f"Basic {KEYS[scope]}", f"Bearer {KEYS[scope]}x", ""):
        answer = await keyed.request(method, path, headers={"Authorization": wrong})
        refused(answer, path, 401)
    for name in {"infer", "metrics", "admin"} - {scope}:
        answer = await keyed.request(method, path, headers=bearing(name))
        refused(answer, path, 403, scope, name)
        assert "www-authenticate" not in answer.headers
    answer = await keyed.request(method, path, headers=bearing(scope))
    assert answer.status_code not in (401, 403)


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["", "wrong", KEYS["metrics"], KEYS["limited"]])
@pytest.mark.parametrize("path", ["/encode", "/v2/models/encode/infer"])
async def test_fastapi_and_the_hot_routes_refuse_alike(keyed_app: App, path: str, key: str) -> None:
    found = []
    for asgi in (keyed_app, keyed_app._fastapi):
        transport = ASGITransport(app=asgi)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "same"}
            answer = await client.post(path, content=b"{", headers=headers)
        changing = {"server-timing"}
        headers = {k: v for k, v in answer.headers.items() if k not in changing}
        found.append((answer.status_code, headers, answer.content))
    assert found[0] == found[1]


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/encode", "/v2/models/encode/versions/1/infer"])
async def test_no_body_is_read_without_authorization(keyed_app: App, path: str) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    await keyed_app(scope, receive, send)
    assert sent[0]["status"] == 401


@pytest.mark.anyio
async def test_refusals_are_counted(keyed: AsyncClient) -> None:
    await keyed.get("/model")
    await keyed.post("/encode")
    await keyed.post("/encode", headers=bearing("admin"))
    await keyed.post("/decode", json={"n": 8, "seed": 1}, headers=bearing("limited"))
    await keyed.post("/decode", json={"n": 8, "seed": 1}, headers=bearing("limited"))
    keyed.headers["Authorization"] = f"Bearer {KEYS['metrics']}"
    for reason, count in (("unauthorized", 2), ("forbidden", 1), ("rate_limit", 1)):
        assert await metric(keyed, "vae_refusals_total", reason=reason) == count


# Rates


def left(answer: Response) -> int:
    assert answer.headers["ratelimit-policy"] == '"images";q=10;w=1;qu="images"'
    match = re.fullmatch(r'"images";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    assert match
    return int(match[1])


@pytest.mark.anyio
async def test_a_rate_is_in_images(
    keyed_app: App, keyed: AsyncClient, four: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(keyed_app._lifecycle._access.buckets, "_clock", lambda: now)
    keyed.headers.update(bearing("limited"))
    answer = await keyed.post("/encode", json=uint8_body(four))
    assert answer.status_code == 200
    assert left(answer) == 6
    answer = await keyed.post("/anomaly-score?score=iwae&samples=8", json=uint8_body(four[:1]))
    assert answer.status_code == 200
    assert left(answer) == 5, "all of an image's draws are one image"
    answer = await keyed.post("/preprocess", json=uint8_body(np.repeat(four, 2, axis=0)))
    problem(answer, 429, "8 images > 5 left")
    assert left(await keyed.post("/preprocess", json=uint8_body(four[:1]))) == 4
    assert left(await keyed.post("/preprocess", content=b"{")) == 4
    now += 0.1
    assert left(await keyed.get("/model")) == 5
    assert left(await keyed.get("/metrics")) == 5
    assert left(await keyed.post("/encode", content=b"{")) == 5, "no image was in there"
    answer = await keyed.get("/sample?n=6")
    problem(answer, 429, "6 images > 5 left", "10 per second")
    assert answer.headers["retry-after"] == "1"
    assert left(answer) == 5
    z = {"name": "z", "datatype": "FP32", "shape": [5, 10], "data": [0.5] * 50}
    answer = await keyed.post("/v2/models/decode/infer", json={"inputs": [z]})
    assert answer.status_code == 200
    assert left(answer) == 0
    answer = await keyed.post("/v2/models/decode/infer", json={"inputs": [z]})
    refused(answer, "/v2", 429, "1 images > 0 left")
    assert (await keyed.get("/model")).status_code == 200, "no image is in there"
    now += 0.2
    assert left(await keyed.post("/decode", json={"n": 2})) == 0
    assert "ratelimit" not in (await keyed.get("/model", headers=bearing("infer"))).headers


@pytest.mark.anyio
async def test_a_request_refused_by_a_full_queue_is_not_charged(
    keyed_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(monkeypatch, keyed_app, "decode")
    async with client_of(keyed_app) as client:
        client.headers.update(bearing("limited"))

        def fill(n: int) -> asyncio.Task[Response]:
            answer = client.post("/decode", json={"n": n}, headers=bearing("infer"))
            return asyncio.create_task(answer)

        first = fill(1)
        await held.begun()
        second = fill(8)
        await queue_holds(client, 8)
        answer = await client.post("/decode", json={"n": 8})
        problem(answer, 503)
        assert left(answer) == 10
        held.let_go()
        await asyncio.gather(first, second)


def test_workers_share_a_rate(start_server: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line("limited", KEYS["limited"], "rate=1"))
    server = start_server("--workers", "2", "--api-keys-file", str(file))

    def ask(n: int) -> int:
        # A connection each: the kernel spreads them over the workers.
        path = f"{server.url}/sample?n={n}"
        return httpx.get(path, headers=bearing("limited"), timeout=HANG_S).status_code

    assert ask(600) == 200, "which it pays off in ten minutes"
    assert [ask(1) for _ in range(20)] == [429] * 20


# Starting


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - it is refused
def test_a_public_address_needs_keys_or_allow_anonymous(host: str, flags: tuple[str, ...]) -> None:
    reason = start_and_fail("--host", host, *flags)
    for word in (host, "VAE_API_KEYS_FILE", "service.keys", "VAE_ALLOW_ANONYMOUS=true"):
        assert word in reason


def test_keys_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path) -> None:
    key = "too-short-a-key"
    assert key not in (reason := start_and_fail(VAE_API_KEYS=key))
    assert "15 characters < minimum 16" in reason
    file = tmp_path / "keys"
    file.write_text(f"alice {key}\n")
    for flags in ((), ("--workers", "2")):
        reason = start_and_fail("--api-keys-file", str(file), *flags)
        assert "line 1: the second word is not a SHA-256" in reason
        assert key not in reason


def test_anonymous_access_where_it_is_allowed(start_server: Callable[..., Server]) -> None:
    server = start_server("--host", "0.0.0.0", "--allow-anonymous", "true")  # noqa: S104 - a test
    url = server.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it listens there too
    with httpx.Client(base_url=url, timeout=HANG_S) as client:
        assert client.get("/sample").status_code == 200
        assert client.get("/metrics").status_code == 200
        problem(client.post("/model/reload"), 403, "admin", "none are set up")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - only read
        ("::", False),
        ("192.0.2.1", False),
        ("no.such.host.invalid", False),
    ],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_keys_of_the_environment_win_over_loopback() -> None:
    app = create_app(Settings(threads=1, api_keys=f"{KEYS['admin']},{KEYS['infer']}"))

    async def ask() -> list[int]:
        async with client_of(app) as client:
            answers = [await client.get("/metrics")]
            answers += [await client.get("/metrics", headers=bearing(k)) for k in KEYS]
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [401, 200, 401, 200, 401]


# A running service


def test_an_added_key_works_a_second_later_and_no_key_is_logged(
    keyed_server: Server, served_file: Path
) -> None:
    new = "a-key-that-comes-later"
    headers = {"Authorization": f"Bearer {new}"}
    file, log = served_file, keyed_server.log
    with keyed_server.client() as client:

        def status() -> int:
            return client.get("/model", headers=headers).status_code

        assert status() == 401
        lines = file.read_text()
        file.write_text(lines + line("new", new, ""))
        wait_until(lambda: status() == 200, REREAD_S)
        file.unlink()
        while "the keys read before stay" not in log.read_text():
            assert status() == 200
        assert status() == 200
        file.write_text(lines)
        wait_until(lambda: status() == 401, REREAD_S)
        assert client.get("/model", headers=bearing("infer")).status_code == 200
    text = log.read_text()
    assert text.count("the keys read before stay valid") == 1
    assert "has 5 keys now" in text
    for key in (*KEYS.values(), new):
        assert key not in text
        assert sha256(key.encode()).hexdigest() not in text


def test_an_unauthorized_body_is_not_asked_for(keyed_server: Server) -> None:
    with socket.create_connection(address(keyed_server), timeout=HANG_S) as connection:
        connection.sendall(
            b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_the_client_sends_a_key(
    keyed_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = keyed_server
    with Client(server.url, api_key=KEYS["infer"]) as client:
        assert client.model()["id"] == "mnist"
        digit = client.sample(1, seed=1)
    assert digit.shape == (1, 28, 28)
    with Client(server.url) as client, pytest.raises(ProblemError, match="API key"):
        client.model()

    async def ask() -> dict[str, Any]:
        async with ServiceAsyncClient(server.url, api_key=KEYS["infer"]) as client:
            return await client.model()

    assert asyncio.run(ask())["id"] == "mnist"
    png = tmp_path / "digit.png"
    png.write_bytes(httpx.get(f"{server.url}/sample", headers=bearing("infer")).content)
    command = ["score", str(png), "--url", server.url]
    assert client_main(command) == 1
    monkeypatch.setenv("VAE_API_KEY", KEYS["infer"])
    assert client_main(command) == 0
    assert str(png) in capsys.readouterr().out


def test_the_documented_key_commands_work(
    start_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, serve = shell_block("keys").splitlines()
    assert serve == "VAE_HOST=0.0.0.0 VAE_API_KEYS_FILE=api-keys make serve"
    done = subprocess.run(  # noqa: S603 - our own documents
        ["bash", "-c", make.replace(".venv/bin/python", sys.executable)],  # noqa: S607
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    monkeypatch.setenv("VAE_API_KEY", done.stderr.split()[-1])
    server = start_server("--api-keys-file", str(tmp_path / "api-keys"))
    run_block(shell_block("key:"), server, tmp_path)
    assert (tmp_path / "digit.png").read_bytes().startswith(b"\x89PNG")
