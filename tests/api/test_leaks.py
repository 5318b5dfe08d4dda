"""No answer reveals libraries, versions or paths."""

from __future__ import annotations

import json
import re
import socket
import sys
from importlib.metadata import distributions
from pathlib import Path

import httpx
import numpy as np
import pytest
from httpx import ASGITransport, AsyncClient

from service.api.open_inference import models as open_inference
from service.app import App
from tests.api.helpers import engine_of, uint8_body
from tests.processes import Server, address

LIBRARIES = re.compile(
    r"\b(python|uvicorn|uvloop|starlette|fastapi|httptools|pydantic|torch|numpy|pillow|PIL|orjson|"
    r"simdjson|zlib|pytorch)\b",
    re.IGNORECASE,
)

PATHS = re.compile(r"Traceback|site-packages|\.py\b|/home/|/root/|/usr/|/opt/|/tmp/|File \"")

VERSIONS = {
    distribution.version
    for distribution in distributions()
    if distribution.version.count(".") >= 2 and distribution.name.lower() != "vae-service"
} - {"0.1.0", "1.0.0", "2.0.0", "3.0.0", "3.1.0"}
"""Those that could be nothing else: the page's own and OpenAPI's are among what is left out."""

ALLOWED = {"pytorch"}
"""In `pytorch_vae`: the Open Inference Protocol wants a platform, by one of its names."""


def check(what: str, text: str, *, libraries: bool = True) -> None:
    assert not PATHS.search(text), f"{what}: {PATHS.search(text)}"
    words = re.findall(r"[\w.]+", text)
    assert not VERSIONS & set(words), f"{what}: {VERSIONS & set(words)}"
    assert sys.version.split()[0] not in text, what
    if libraries:
        found = {match[0].lower() for match in LIBRARIES.finditer(text)} - ALLOWED
        assert not found, f"{what}: {found}"


def shown(answer: httpx.Response) -> str:
    headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
    return f"{headers}\n\n{answer.text}"


BODIES: list[tuple[str, bytes]] = [
    ("application/json", b""),
    ("application/json", b"{"),
    ("application/json", b'{"images": [[[1e999]]]}'),
    ("application/json", b'{"images": ["!!!!"]}'),
    ("application/json", b'{"images": ["iVBORw0KGgo="]}'),
    ("application/json", b'{"images": {"a": NaN}, "dtype": 7}'),
    ("application/json", b"[" * 5000),
    ("application/json", b"\xff\xfe\x00"),
    ("application/json", b'{"z": [["\\ud800"]]}'),
    ("application/json", b'{"inputs": [{"name": 1}]}'),
    ("application/json", b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, -1]}]}'),
    ("application/x-npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}"),
    ("application/x-npy", b"\x93NUMPY\x09\x00"),
    ("image/png", b"\x89PNG\r\n\x1a\n" + bytes(20)),
    ("image/jpeg", b"\xff\xd8\xff" + bytes(20)),
    ("image/webp", b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(20)),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: nonsense\r\n\r\n"),
    ("multipart/form-data", b"--x"),
    ("application/octet-stream", b"\x00" * 13),
    ("text/plain; charset=none", b"x"),
]

POSTS = [
    *("/encode", "/decode", "/reconstruct", "/anomaly-score"),
    *(f"/v2/models/{name}/infer" for name in open_inference.MODELS),
    "/v2/models/nothing/infer",
    "/v2/models/encode/versions/0/infer",
]

GETS = [
    *("/", "/nothing", "/model", "/livez", "/readyz", "/metrics", "/sample?n=0", "/sample?n=x"),
    *("/sample?seed=99999999999999999999", "/anomaly-score", "/docs/..%2f..%2fetc/passwd"),
    *("/static-offline-docs/", "/static-offline-docs/..%2fcore", "/v2", "/v2/nothing"),
    *("/v2/health/live", "/v2/health/ready", "/v2/models/encode", "/v2/models/%00"),
    *("/v2/models/anomaly-score/ready", "/%ff%fe", "/sample?scale=9999", "/model?x=1"),
]


def test_no_answer_names_a_library_or_a_path(server: Server) -> None:
    with server.client() as client:
        answers = [client.get(path) for path in GETS]
        answers += [client.request(verb, "/encode") for verb in ("PUT", "TRACE", "BREW", "OPTIONS")]
        for path in POSTS:
            for kind, body in BODIES:
                answers.append(client.post(path, content=body, headers={"Content-Type": kind}))
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            answers.append(client.post(path, content=b"no gzip", headers=headers))
            answers.append(client.post(path, headers={"X-Request-Timeout": "soon"}))
            answers.append(client.post(path, content=b"{}", headers={"Accept": "text/html"}))
    assert {answer.status_code for answer in answers} >= {200, 400, 404, 405, 406, 415, 422}
    for answer in answers:
        assert answer.status_code < 500, answer.text
        what = f"{answer.request.method} {answer.request.url}"
        # Types of bodies are called what everybody calls them: application/x-npy.
        check(what, shown(answer))
        assert "server" not in answer.headers


def test_the_page_shows_no_versions_and_no_paths(server: Server) -> None:
    with server.client() as client:
        for path in ("/docs", "/openapi.json"):
            check(path, shown(client.get(path)))


def test_the_model_s_provenance_has_no_versions(server: Server) -> None:
    found = httpx.get(f"{server.url}/model").json()["provenance"]
    assert found["data_set"] == "mnist"
    assert "versions" not in found
    assert "torch" not in json.dumps(found)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # https, asked of http
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_what_is_not_http_is_answered_like_anything_wrong(server: Server, garbage: bytes) -> None:
    with socket.create_connection(address(server), timeout=20) as connection:
        connection.sendall(garbage)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert status == "http/1.1 400 bad request"
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    problem = json.loads(body)
    assert (problem["status"], problem["request_id"]) == (400, headers["x-request-id"])
    assert "server" not in headers
    check(repr(garbage), received.decode("ascii"))


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/encode", "/v2/models/encode/infer", "/sample"])
async def test_internal_errors_appear_in_the_log_only(
    small_app: App, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"secret in {Path(__file__)}")

    for name in ("encode", "decode"):
        monkeypatch.setattr(engine_of(small_app), name, fail)
    body = uint8_body(np.zeros((1, 1, 28, 28), np.uint8))
    pixels = {"name": "images", "datatype": "UINT8", "shape": [1, 784], "data": [0] * 784}
    transport = ASGITransport(app=small_app)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        if path == "/sample":
            answer = await client.get(path)
        else:
            answer = await client.post(
                path, json=body | {"inputs": [pixels]} if "v2" in path else body
            )
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text
    check(path, shown(answer))
