"""Errors of every route below /v2."""

from __future__ import annotations

import httpx
import pytest

from tests.api.open_inference.helpers import document, error, post


def paths_of(http: httpx.Client) -> dict[str, list[str]]:
    """Paths below /v2, and the methods of each."""
    paths = http.get("/openapi.json").json()["paths"]
    return {
        path: [method.upper() for method in methods]
        for path, methods in paths.items()
        if path.startswith("/v2")
    }


def test_every_route_with_every_other_method(http: httpx.Client, version: str) -> None:
    paths = paths_of(http)
    assert len(paths) == 13
    for path, offered in paths.items():
        url = path.format(name="encode", version=version)
        heads = ["HEAD"] * ("GET" in offered)
        allowed = ", ".join([*offered, *heads, "OPTIONS"])
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
            if method in offered:
                continue
            answer = http.request(method, url)
            error(answer, 405, *offered, method)
            assert answer.headers["allow"] == allowed
        options = http.options(url)
        assert (options.status_code, options.headers["allow"]) == (204, allowed)


def test_every_route_with_a_wrong_model_or_version(http: httpx.Client, version: str) -> None:
    for path, (method,) in paths_of(http).items():
        if "{name}" in path:
            url = path.format(name="no%20such", version=version)
            error(http.request(method, url), 404, "no such", "anomaly-score")
        if "{version}" in path:
            error(http.request(method, path.format(name="encode", version="0")), 404, "0", version)


@pytest.mark.parametrize(
    "path", ["/v2/nothing", "/v2/models", "/v2/models/encode/x", "/v2/health", "/v2/models//infer"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_such_route(http: httpx.Client, method: str, path: str) -> None:
    error(http.request(method, path), 404, "there is no")


def test_only_below_v2(http: httpx.Client) -> None:
    assert http.get("/v2x").headers["content-type"] == "application/problem+json"


def test_a_body_in_an_unknown_encoding(http: httpx.Client) -> None:
    answer = post(http, "decode", document(), headers={"Content-Encoding": "br"})
    error(answer, 400, "br", "gzip", "deflate")
    answer = post(http, "decode", document(), headers={"Content-Encoding": "gzip"})
    error(answer, 400, "gzip")


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
def test_a_wrong_timeout_header(http: httpx.Client, timeout: str) -> None:
    error(post(http, "decode", document(), headers={"X-Request-Timeout": timeout}), 400, timeout)
