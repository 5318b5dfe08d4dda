"""Any body gets an answer that the contract allows, and does no harm to other requests."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

import numpy as np
import orjson
import pytest
from httpx import ASGITransport, AsyncClient, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.app import App, create_app
from service.settings import Settings

ROUTES = st.sampled_from(["/encode", "/decode", "/reconstruct", "/anomaly-score"])
INFER_ROUTES = st.sampled_from(
    [f"/v2/models/{name}/infer" for name in ("encode", "decode", "reconstruct", "anomaly-score")]
)
REFUSALS = {400, 406, 413, 415, 422}
BESIDE = orjson.dumps({"images": [[0.0] * 784]})

TYPES = st.sampled_from(
    [
        "",
        "application/json",
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/bmp",
        "image/tiff",
        "text/plain",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=20)
NEARLY_IMAGES = st.lists(
    st.one_of(
        VALUES,
        st.builds(lambda value: [value, *[0] * 783], SCALARS),
        st.builds(lambda value: [*[0.5] * 783, value], SCALARS),
        st.builds(lambda row: [*[[0] * 28] * 27, row], st.lists(SCALARS, max_size=28)),
        st.binary(max_size=30).map(lambda data: b64encode(data).decode()),
    ),
    max_size=3,
)
NEARLY_LATENTS = st.lists(VALUES | st.lists(SCALARS, min_size=10, max_size=10), max_size=3)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "images": NEARLY_IMAGES | VALUES,
        "z": NEARLY_LATENTS | VALUES,
        "dtype": st.sampled_from(["uint8", "float32"]) | VALUES,
        "n": SCALARS,
        "seed": SCALARS,
    },
)


def files() -> list[bytes]:
    found = []
    pixels = np.arange(784, dtype=np.uint8).reshape(28, 28)
    for file_format in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        file = BytesIO()
        Image.fromarray(pixels).save(file, file_format)
        found.append(file.getvalue())
    return found


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(files())))
    for _ in range(draw(st.integers(0, 6))):
        position = draw(st.integers(0, len(data) - 1) | st.integers(0, 60))
        data[min(position, len(data) - 1)] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    app = create_app(Settings(threads=1))
    yield app
    app.state.service.inference.close()


def send(app: App, path: str, body: bytes, headers: dict[str, str]) -> Response:
    """Its answer, which is one of the contract's; with a good request beside it."""

    async def both() -> tuple[Response, Response]:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            return await asyncio.gather(
                client.post(path, content=body, headers=headers),
                client.post("/encode", content=BESIDE),
            )

    answer, beside = asyncio.run(both())
    assert beside.status_code == 200
    assert answer.status_code == 200 or answer.status_code in REFUSALS, answer.text[:500]
    if answer.status_code != 200 and path.startswith("/v2/"):
        assert answer.status_code == 400, "the protocol has no finer words"
        assert list(answer.json()) == ["error"]
        assert 0 < len(answer.json()["error"]) < 1_000
    elif answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = answer.json()
        assert found["status"] == answer.status_code
        assert 0 < len(found["detail"]) < 1_000
        assert ("errors" in found) == (answer.status_code == 422)
    return answer


def hostile(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@given(ROUTES, st.binary(max_size=200), TYPES)
@hostile(150)
def test_any_bytes(app: App, path: str, body: bytes, content_type: str) -> None:
    send(app, path, body, {"Content-Type": content_type} if content_type else {})


@given(ROUTES, BODIES)
@hostile(300)
def test_any_json(app: App, path: str, body: dict[str, Any]) -> None:
    try:
        content = orjson.dumps(body)
    except orjson.JSONEncodeError:  # an integer of more than 64 bits
        content = repr(body).replace("'", '"').replace("None", "null").encode()
    answer = send(app, path, content, {"Content-Type": "application/json"})
    if answer.status_code == 200:
        assert "null" not in answer.text.partition('"images"')[2], "NaN in an image"


@given(ROUTES, damaged_files(), st.booleans())
@hostile(250)
def test_any_damage_to_an_image_file(app: App, path: str, data: bytes, in_json: bool) -> None:
    body = orjson.dumps({"images": [b64encode(data).decode()]}) if in_json else data
    content_type = "application/json" if in_json else "image/png"
    send(app, path, body, {"Content-Type": content_type})


@given(
    ROUTES,
    st.dictionaries(
        st.sampled_from(["alpha", "score", "seed", "sample", "scale", "resize", "invert", "x"]),
        st.text(max_size=5) | st.integers().map(str) | st.floats().map(str),
        max_size=3,
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)
@hostile(150)
def test_any_query_and_accept(app: App, path: str, query: dict[str, str], accept: str) -> None:
    body = orjson.dumps({"n": 1}) if path == "/decode" else BESIDE
    send(app, f"{path}?{urlencode(query)}", body, {"Accept": accept})


PARTS = st.lists(
    st.tuples(
        st.sampled_from(["images", "images", "images", "image", "", 'a"b', "\udcff"]),
        damaged_files() | st.binary(max_size=50),
    ),
    max_size=4,
)


@given(ROUTES, PARTS, st.sampled_from([b"\r\n", b"\n", b""]), st.integers(0, 60), st.booleans())
@hostile(200)
def test_any_form(
    app: App, path: str, parts: list[tuple[str, bytes]], line: bytes, missing: int, named: bool
) -> None:
    body = b"".join(
        b'--x%sContent-Disposition: form-data; name="%s"%s%s%s\r\n'
        % (line, name.encode("utf-8", "surrogateescape"), line, line, data)
        for name, data in parts
    )
    body += b"--x--\r\n"
    content_type = "multipart/form-data; boundary=x" if named else "multipart/form-data"
    send(app, path, body[: len(body) - missing], {"Content-Type": content_type})


TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["images", "z"]) | VALUES,
        "datatype": st.sampled_from(["FP32", "UINT8", "FP64", "BYTES"]) | VALUES,
        "shape": st.sampled_from([[1, 10], [1, 784], [1, 1, 28, 28], [2**40, 784]]) | VALUES,
        "data": st.lists(SCALARS, min_size=10, max_size=10) | st.just([0.5] * 784) | VALUES,
        "parameters": st.fixed_dictionaries(
            {},
            optional={"binary_data_size": st.sampled_from([40, 784, 3136]) | SCALARS},
        )
        | VALUES,
    },
)
INFER_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "id": SCALARS,
        "inputs": st.lists(TENSORS | VALUES, max_size=2) | VALUES,
        "outputs": st.lists(
            st.builds(lambda name: {"name": name}, st.sampled_from(["mu", "images", "score"]))
            | VALUES,
            max_size=3,
        ),
        "parameters": st.fixed_dictionaries(
            {},
            optional={
                "timeout": st.sampled_from([0, 10**9, -1]) | st.text(max_size=3),
                "binary_data_output": SCALARS,
            },
        ),
    },
)


@given(
    INFER_ROUTES,
    INFER_BODIES,
    st.binary(max_size=20) | st.sampled_from([bytes(40), bytes(784), bytes(3136)]),
    st.none() | st.integers(-2, 2) | st.text("0123456789-+x ", max_size=20),
)
@hostile(300)
def test_any_infer_request(
    app: App, path: str, body: dict[str, Any], binary: bytes, length: int | str | None
) -> None:
    """`length` is what the header says, or how far it is from the truth."""
    try:
        text = orjson.dumps(body)
    except orjson.JSONEncodeError:  # an integer of more than 64 bits
        text = repr(body).replace("'", '"').replace("None", "null").encode()
    headers = {"Content-Type": "application/octet-stream"}
    if length is not None:
        said = length if isinstance(length, str) else str(len(text) + length)
        headers["Inference-Header-Content-Length"] = said
    answer = send(app, path, text + binary, headers)
    if answer.status_code == 200 and "inference-header-content-length" not in answer.headers:
        assert answer.json()["outputs"]
