"""The OpenAPI page is true: routes, examples, answers, and each error it lists can be had."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient, Response

from model.bundle.bundle import find_bundle
from service.api import examples
from service.app import App, create_app
from service.inference import health
from tests.api.helpers import (
    HANG_S,
    IMAGE_ROUTES,
    SMALL,
    WORK_ROUTES,
    client_of,
    engine_of,
    hold,
    png_pixels,
    problem,
    queue_holds,
)

pytestmark = pytest.mark.anyio

OPEN_INFERENCE_ROUTES = {
    *(("get", f"/v2{path}") for path in ("", "/health/live", "/health/ready")),
    *(
        (method, f"/v2/models/{{name}}{version}{path}")
        for version in ("", "/versions/{version}")
        for method, path in (
            *(("get", path) for path in ("", "/ready", "/stats")),
            ("post", "/infer"),
        )
    ),
    ("get", "/v2/models/stats"),
    ("post", "/v2/repository/index"),
}
ROUTES = {
    *(("post", path) for path in WORK_ROUTES),
    *(("get", path) for path in ("/sample", "/model", "/livez", "/readyz", "/metrics")),
    *(("get", path) for path in ("/model/calibration", "/recent", "/settings")),
    *(("get", path) for path in ("/model/card", "/model/plots/{name}")),
    ("post", "/preprocess"),
    ("get", "/model/latents"),
    ("post", "/model/reload"),
}


@pytest.fixture
def page(app: App) -> dict[str, Any]:
    return app.openapi()


def operations(page: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, methods in page["paths"].items()
        for method, operation in methods.items()
    }


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object anywhere in a JSON value."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from objects(item)


async def test_each_route_is_there_and_described(client: AsyncClient, page: dict[str, Any]) -> None:
    assert (await client.get("/openapi.json")).json() == page
    assert page["openapi"].startswith("3.")
    assert {"title", "version", "description"} <= set(page["info"])
    found = operations(page)
    assert set(found) == ROUTES | OPEN_INFERENCE_ROUTES
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    for operation in found.values():
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"]
        assert "200" in operation["responses"]
        for parameter in operation.get("parameters", []):
            assert parameter["description"], parameter["name"]
        for answer in operation["responses"].values():
            assert answer["description"]


def test_references_lead_somewhere(page: dict[str, Any]) -> None:
    for item in objects(page):
        reference = item.get("$ref")
        if reference is None:
            continue
        target: Any = page
        for part in reference.removeprefix("#/").split("/"):
            assert part in target, f"{reference} leads nowhere"
            target = target[part]


def test_bodies_are_all_types_that_are_read(page: dict[str, Any]) -> None:
    found = operations(page)
    arrays = {"application/json", "application/octet-stream", "application/x-npy"}
    files = {
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/bmp",
        "image/tiff",
        "multipart/form-data",
    }
    for path in (*IMAGE_ROUTES, "/preprocess"):
        body = found["post", path]["requestBody"]
        assert body["required"]
        assert set(body["content"]) == arrays | files
    assert set(found["post", "/decode"]["requestBody"]["content"]) == arrays


def test_arrays_are_listed_as_answers(page: dict[str, Any]) -> None:
    for method, path in (("post", "/encode"), ("get", "/model/latents")):
        answer = operations(page)[method, path]["responses"]["200"]
        arrays = {"application/json", "application/octet-stream", "application/x-npy"}
        assert set(answer["content"]) == arrays
        assert {"X-Tensor-Shape", "X-Tensor-Dtype"} <= set(answer["headers"])


@pytest.mark.parametrize(
    ("method", "path"),
    [("post", "/decode"), ("post", "/reconstruct"), ("post", "/preprocess"), ("get", "/sample")],
)
def test_pictures_are_listed_as_answers(page: dict[str, Any], method: str, path: str) -> None:
    answer = operations(page)[method, path]["responses"]["200"]
    arrays = {"application/json", "application/octet-stream", "application/x-npy"}
    frames = set() if path in ("/reconstruct", "/preprocess") else {"image/gif"}
    assert set(answer["content"]) == arrays | {"image/png"} | frames


def nearly(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(nearly(found[k], expected[k]) for k in expected)
    if isinstance(expected, list | float):
        return bool(np.array(found) == pytest.approx(np.array(expected), abs=1e-3, rel=1e-3))
    return bool(found == expected)


@pytest.mark.parametrize(
    ("path", "expected"), [("/encode", examples.ENCODE), ("/anomaly-score", examples.SCORE)]
)
async def test_worked_examples_are_answered(
    client: AsyncClient, path: str, expected: dict[str, Any]
) -> None:
    answer = await client.post(path, json=examples.IMAGES)
    assert nearly(answer.json(), expected)


@pytest.mark.parametrize(
    ("path", "expected"), [("/encode", examples.ENCODE), ("/anomaly-score", examples.SCORE)]
)
def test_worked_examples_are_on_the_page(
    page: dict[str, Any], path: str, expected: dict[str, Any]
) -> None:
    operation = operations(page)["post", path]
    body = operation["requestBody"]["content"]["application/json"]
    answer = operation["responses"]["200"]["content"]["application/json"]
    assert body["example"] == examples.IMAGES
    assert answer["example"] == expected


async def test_examples_of_latents_are_answered(client: AsyncClient, page: dict[str, Any]) -> None:
    body = operations(page)["post", "/decode"]["requestBody"]["content"]["application/json"]
    assert body["examples"]
    for example in body["examples"].values():
        assert (await client.post("/decode", json=example["value"])).status_code == 200


async def test_examples_of_infer_requests_are_answered(
    client: AsyncClient, page: dict[str, Any]
) -> None:
    for (method, path), operation in operations(page).items():
        if "{name}" not in path:
            continue
        values = {item["name"]: item.get("example") for item in operation["parameters"]}
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        answer = await client.request(method, path.format(**values), json=body.get("example"))
        assert answer.status_code == 200, path


async def test_the_example_is_the_digit_that_it_says(client: AsyncClient) -> None:
    sampled = await client.get("/sample?n=1&seed=1")
    mu = (await client.post("/encode", content=sampled.content)).json()["mu"]
    assert nearly(mu, examples.ENCODE["mu"])
    image = examples.IMAGES["images"][0]
    again = (await client.post("/encode", json={"images": [image]})).json()["mu"]
    assert nearly(again, mu)
    assert png_pixels(sampled).shape == (28, 28)


# Every route × every error that it lists


Provoke = Callable[[AsyncClient, str, str], Awaitable[Response]]


def call(**options: Any) -> Provoke:
    """Send this; a good body unless there is another."""

    async def provoke(client: AsyncClient, method: str, path: str) -> Response:
        body = {"n": 1} if path == "/decode" else examples.IMAGES
        if method == "post" and "content" not in options:
            return await client.request(method, path, json=body, **options)
        return await client.request(method, path, **options)

    return provoke


async def stall(client: AsyncClient, method: str, path: str) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    headers = {"X-Request-Timeout": "0.05"}
    return await client.request(method, path, content=body(), headers=headers)


async def too_large(client: AsyncClient, method: str, path: str) -> Response:
    if method == "get":
        return await client.get(f"{path}?n=1000000")
    return await client.post(path, content=b" " * (SMALL.max_body_bytes + 1))


PROVOKE: dict[int, Provoke] = {
    401: call(),
    403: call(headers={"Authorization": "Bearer a-key-that-may-do-nothing-here"}),
    429: call(headers={"Authorization": "Bearer a-key-that-has-used-it-all-up"}),
    400: call(content=b"{", headers={"Content-Type": "application/json"}),
    404: lambda client, _, path: client.get(path + "/nothing"),
    405: lambda client, _, path: client.delete(path),
    406: call(headers={"Accept": "text/html"}),
    409: call(),
    408: stall,
    413: too_large,
    415: call(content=b"text", headers={"Content-Type": "text/plain"}),
    422: call(params={"no-such-parameter": "1"}),
    500: call(),
    503: call(),
    504: call(),
}
BODY_ERRORS = {400, 408, 415}
WORK_ERRORS = {406, 413, 422, 429, 500, 503, 504}
KEY_ERRORS = {401, 403}


def errors_of(method: str, path: str) -> set[int]:
    others = {
        "/preprocess": KEY_ERRORS | BODY_ERRORS | WORK_ERRORS - {500},
        "/model": KEY_ERRORS,
        "/model/calibration": KEY_ERRORS | {404, 406, 422},
        "/model/latents": KEY_ERRORS | {404, 406},
        "/model/reload": KEY_ERRORS | {409},
        "/metrics": KEY_ERRORS,
        "/settings": KEY_ERRORS,
        "/model/card": KEY_ERRORS | {404, 409},
        "/model/plots/{name}": KEY_ERRORS | {404, 409},
        "/recent": KEY_ERRORS | {404, 422, 504},
        "/livez": {503},
        "/readyz": {503},
    }
    default = WORK_ERRORS | KEY_ERRORS | (BODY_ERRORS if method == "post" else set())
    return others.get(path, default)


def keys_file(path: str) -> str:
    """Of a key that may do something else than ask for `path`, and of one that has a rate."""
    other = "infer" if path in ("/metrics", "/settings") else "metrics"
    idle, spent = (
        sha256(key.encode()).hexdigest()
        for key in ("a-key-that-may-do-nothing-here", "a-key-that-has-used-it-all-up")
    )
    return f"idle {idle} scopes={other}\nspent {spent} rate=1\n"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (method, path, status)
        for method, path in sorted(ROUTES)
        for status in sorted(errors_of(method, path) | {404, 405})
    ],
)
async def test_every_error_of_every_route_is_of_one_shape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, path: str, status: int
) -> None:
    changed: dict[str, Any] = {
        "recent_images": 8,
        "request_timeout_s": 0.05 if status == 504 else 20,
    }
    if status in (401, 403, 429):
        (tmp_path / "keys").write_text(keys_file(path))
        changed["api_keys_file"] = str(tmp_path / "keys")
    bundle = tmp_path / "mine"
    if status == 409:
        shutil.copytree(find_bundle("mnist"), bundle)
        changed["bundle"] = str(bundle)
    app = create_app(SMALL.model_copy(update=changed))
    names = ("encode", "decode", "reconstruct", "score")
    async with client_of(app) as client:
        beside = []
        if status == 500:
            for name in names:
                monkeypatch.setattr(engine_of(app), name, lambda *_, **__: 1 / 0)
        held = [hold(monkeypatch, app, name) for name in names] if status in (503, 504) else []
        if status == 429:
            await PROVOKE[429](client, "post", "/decode")
        if status == 409:
            for name in ("model.safetensors", "config.json"):
                (bundle / name).write_bytes(b"damaged")
        if path == "/readyz":
            monkeypatch.setattr(health, "READY_FOR_S", 0.0)
            monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.05)
        elif path == "/livez":
            app.state.service.health._report_problem("no forward pass")
            monkeypatch.setattr(app.state.service.health, "_stall_timeout_s", 0.0)
        elif status == 503:
            decode = held[names.index("decode")]
            beside.append(asyncio.create_task(client.post("/decode", json={"n": 1})))
            await decode.begun()
            full = {"n": SMALL.max_queue_images}
            beside.append(asyncio.create_task(client.post("/decode", json=full)))
            await queue_holds(client, SMALL.max_queue_images)
        provoke = PROVOKE[status]
        if status == 504 and path in ("/preprocess", "/recent"):  # which wait for no pass
            provoke = call(headers={"X-Request-Timeout": "1e-9"})
        async with asyncio.timeout(HANG_S):
            answer = await provoke(client, method, path)
        for one in held:
            one.let_go()
        await asyncio.gather(*beside)
    found = problem(answer, status)
    assert found["type"] == "about:blank"
    assert found["title"]
    assert {"x-request-id", "x-model-version", "server-timing"} <= set(answer.headers)


def test_the_page_says_where_a_key_is_needed(page: dict[str, Any]) -> None:
    app = create_app(SMALL.model_copy(update={"api_keys": "a-key-of-enough-characters"}))
    scheme = {"type": "http", "scheme": "bearer"}
    for described, wanted in ((page, False), (app.openapi(), True)):
        ((name, found),) = described["components"]["securitySchemes"].items()
        assert found.items() >= scheme.items()
        for (_, path), operation in operations(described).items():
            takes_one = "401" in operation["responses"]
            assert takes_one is ("/health/" not in path and path not in ("/livez", "/readyz"))
            needed: list[Any] | None = [{name: []}] if takes_one and wanted else None
            assert operation.get("security") == needed
            assert ("429" in operation["responses"]) is (
                path in (*WORK_ROUTES, "/preprocess", "/sample")
                or path.endswith(("/infer", "/index"))
            )


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_the_page_lists_the_errors(page: dict[str, Any], method: str, path: str) -> None:
    answers = operations(page)[method, path]["responses"]
    assert {int(status) for status in answers} - {200} == errors_of(method, path)
    for status, answer in answers.items():
        if status != "200":
            assert set(answer["content"]) == {"application/problem+json"}
