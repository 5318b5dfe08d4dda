"""Headers for browsers: security headers of our pages, and CORS."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256

import httpx
import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from service.app import create_app
from service.settings import Settings
from tests.api.helpers import client_of, uint8_body
from tests.processes import Server

PAGES = ["/docs", "/docs/oauth2-redirect"]
OURS, THEIRS = "https://example.org", "https://example.com"


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def directives(answer: httpx.Response) -> dict[str, list[str]]:
    policy = answer.headers["content-security-policy"]
    return {name: values for name, *values in map(str.split, policy.split(";"))}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_do_what_it_does_and_no_more(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    allowed = directives(answer)
    assert allowed["default-src"] == allowed["base-uri"] == ["'none'"]
    assert allowed["frame-ancestors"] == ["'none'"]
    scripts = re.findall(r"<script(.*?)>(.*?)</script>", answer.text, re.DOTALL)
    hashes = [
        f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
        for attributes, text in scripts
        if "src=" not in attributes
    ]
    assert len(hashes) == 1
    assert allowed["script-src"] == ["'self'", *hashes]
    for attributes, _ in scripts:
        if attributes:
            assert re.fullmatch(r' src="[\w-]+/[\w.-]+"', attributes), "from this service"
    assert not re.search(r"\son[a-z]+=", answer.text), "no handlers in attributes, which it forbids"
    for link in re.findall(r'href="([^"]*)"', answer.text):
        assert re.fullmatch(r"[\w-]+/[\w.-]+", link)
    assert {"'self'"} <= set(allowed["style-src"]) & set(allowed["img-src"])
    assert allowed["connect-src"] == ["'self'"], "it fetches /openapi.json, and tries routes"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_the_other_headers_too(http: httpx.Client, path: str) -> None:
    headers = http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", ["swagger-ui.css", "swagger-ui-bundle.js"])
def test_scripts_and_styles_are_taken_for_nothing_else(http: httpx.Client, name: str) -> None:
    answer = http.get(f"/static-offline-docs/{name}")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "eval(" not in answer.text, "the policy forbids it"
    made = set(re.findall(r'\bFunction\("(.*?)"', answer.text))
    assert made <= {"return this", "binder"}, "where old browsers have no globalThis and no bind"


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
def test_compression_changes_no_policy(http: httpx.Client, encoding: str) -> None:
    answers = [
        http.get(path, headers={"Accept-Encoding": encoding}) for path in PAGES for _ in range(2)
    ]
    assert answers[0].headers["content-security-policy"] == directives_of_plain(http)


def directives_of_plain(http: httpx.Client) -> str:
    headers = {"Accept-Encoding": "identity"}
    return str(http.get("/docs", headers=headers).headers["content-security-policy"])


def cors(origins: str | None) -> AsyncClient:
    return client_of(create_app(Settings(threads=1, cors_origins=origins)))


@pytest.mark.anyio
async def test_no_cors_headers_unless_origins_are_set(client: AsyncClient) -> None:
    for path in ("/encode", "/model"):
        answer = await client.request("GET", path, headers={"Origin": OURS})
        assert not any(name.startswith("access-control") for name in answer.headers)
        preflight = {"Origin": OURS, "Access-Control-Request-Method": "POST"}
        refused = await client.options(path, headers=preflight)
        assert not any(name.startswith("access-control") for name in refused.headers)


@pytest.mark.anyio
async def test_an_origin_that_is_set_may_ask(four: NDArray[np.uint8]) -> None:
    async with cors(f"{OURS}, http://localhost:3000") as client:
        preflight = {
            "Origin": OURS,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-request-timeout",
        }
        plain = await client.options("/encode", headers={"Origin": OURS})
        assert (plain.status_code, plain.headers["allow"]) == (204, "POST, OPTIONS")
        for path in ("/encode", "/v2/models/encode/versions/1/infer"):
            answer = await client.options(path, headers=preflight)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == OURS
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert "authorization" in answer.headers["access-control-allow-headers"]
            answer = await client.options(path, headers=preflight | {"Origin": THEIRS})
            assert "access-control-allow-origin" not in answer.headers
        hot = await client.post("/encode", json=uint8_body(four), headers={"Origin": OURS})
        wrong = await client.post("/encode", content=b"{", headers={"Origin": OURS})
        assert (hot.status_code, wrong.status_code) == (200, 400)
        other = await client.get("/model", headers={"Origin": OURS})
        for answer in (hot, wrong, other):
            assert answer.headers["access-control-allow-origin"] == OURS
            exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
            for name in ("x-request-id", "x-model-version", "server-timing", "ratelimit"):
                assert name in exposed
            assert "access-control-allow-credentials" not in answer.headers
        answer = await client.post("/encode", json=uint8_body(four), headers={"Origin": THEIRS})
        assert "access-control-allow-origin" not in answer.headers
        answer = await client.post("/encode", json=uint8_body(four))
        assert answer.status_code == 200


@pytest.mark.anyio
async def test_a_star_is_any_origin_and_refusals_can_be_read() -> None:
    settings = Settings(threads=1, cors_origins="*", api_keys="a-key-of-enough-characters")
    async with client_of(create_app(settings)) as client:
        for path in ("/encode", "/v2/models/encode/infer", "/sample"):
            method = "GET" if path == "/sample" else "POST"
            answer = await client.request(method, path, headers={"Origin": THEIRS})
            assert answer.status_code == 401
            assert answer.headers["access-control-allow-origin"] == "*"
        preflight = {
            "Origin": THEIRS,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = await client.options("/encode", headers=preflight)
        assert answer.status_code == 200, "a browser sends no key with this"
