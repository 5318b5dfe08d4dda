"""For any images, every body type and answer type gives the same numbers."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from httpx import ASGITransport, AsyncClient, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from service.app import App, create_app
from service.settings import Settings
from tests.api.helpers import IMAGE_ROUTES, LOSSLESS, image_file, png_pixels

Images = NDArray[np.uint8]
Sent = tuple[str, bytes, str]
"""A query, a body and its type."""

JSON = "application/json"
NPY = "application/x-npy"
RAW = "application/octet-stream"
TYPES = {"PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp", "TIFF": "image/tiff"}

HALF_FLOATS = 0.02
"""How far μ of half floats may be off: each pixel is by 2.4e-4, half of its last bit below 1."""

EASY = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

IMAGES = st.integers(1, 5).flatmap(lambda n: arrays(np.uint8, (n, 28, 28)))
LATENTS = st.integers(1, 5).flatmap(
    lambda n: arrays(np.float32, (n, 10), elements=st.floats(-4, 4, width=32))
)


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    app = create_app(Settings(threads=1))
    yield app
    app.state.service.inference.close()


def npy(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def json_body(images: list[Any], dtype: str | None = None) -> bytes:
    return orjson.dumps({"images": images} | ({"dtype": dtype} if dtype else {}))


def form(files: list[bytes]) -> tuple[bytes, str]:
    """As httpx makes one."""
    parts = [("images", (f"{i}.png", file)) for i, file in enumerate(files)]
    request = httpx.Request("POST", "http://test", files=parts)
    return request.read(), request.headers["Content-Type"]


def same_pixels(images: Images) -> dict[str, Sent]:
    """Every body that carries these very uint8 pixels."""
    n = len(images)
    found: dict[str, Sent] = {"raw": ("", images.tobytes(), RAW)}
    for name, shaped in {
        "[H][W]": images,
        "[C][H][W]": images[:, None],
        "flat": images.reshape(n, -1),
    }.items():
        found[f"JSON {name}"] = ("", json_body(shaped.tolist(), "uint8"), JSON)
        found[f"npy {name}"] = ("", npy(shaped), NPY)
        found[f"npy {name}, Fortran"] = ("", npy(np.asfortranarray(shaped)), NPY)
    for file_format, content_type in TYPES.items():
        files = [image_file(image, file_format) for image in images]
        texts = [b64encode(file).decode() for file in files]
        found[f"base64 {file_format}"] = ("", json_body(texts), JSON)
        found[f"form of {file_format}"] = ("", *form(files))
        found[f"mixed with {file_format}"] = (
            "",
            json_body([texts[0], *images[1:].tolist()], "uint8"),
            JSON,
        )
        if n == 1:
            found[file_format] = ("", files[0], content_type)
            found[f"{file_format}, unnamed"] = ("", files[0], "")
            found["npy [H, W]"] = ("", npy(images[0]), NPY)
    return found


def same_floats(images: Images) -> dict[str, Sent]:
    """The same images as floats, but for rounding."""
    floats = images / np.float32(255)
    found: dict[str, Sent] = {
        "raw": ("?dtype=float32", floats.astype("<f4").tobytes(), RAW),
        "JSON": ("", json_body((images / 255).tolist()), JSON),
        "JSON by name": ("", json_body((images / 255)[:, None].tolist(), "float32"), JSON),
        "mixed": ("", json_body([*(images[:1] / 255).tolist(), *base64(images[1:])]), JSON),
    }
    for dtype in ("<f4", ">f4", "<f8", ">f8"):
        found[f"npy {dtype}"] = ("", npy((images / 255).astype(dtype)), NPY)
    return found


def base64(images: Images) -> list[str]:
    return [b64encode(image_file(image)).decode() for image in images]


async def ask(
    client: AsyncClient, route: str, sent: Sent, accept: str = JSON, query: str = ""
) -> Response:
    asked, body, content_type = sent
    headers = {"Accept": accept} | ({"Content-Type": content_type} if content_type else {})
    url = f"{route}?{'&'.join(part for part in (asked[1:], query) if part)}"
    answer = await client.post(url, content=body, headers=headers)
    assert answer.status_code == 200, (content_type, answer.text[:300])
    return answer


def client_of(app: App) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


def check_near(found: dict[str, Any], expected: dict[str, Any], abs_: float) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        if isinstance(value, list):
            np.testing.assert_allclose(found[key], value, rtol=max(1e-5, abs_), atol=abs_)
        else:
            assert found[key] == value


@pytest.mark.parametrize("route", IMAGE_ROUTES)
@given(images=IMAGES)
@EASY
def test_all_bodies_agree(app: App, route: str, images: Images) -> None:
    async def check() -> None:
        async with client_of(app) as client:
            bodies = same_pixels(images)
            answer = await ask(client, route, bodies["raw"])
            for name, sent in bodies.items():
                assert (await ask(client, route, sent)).content == answer.content, name
            for sent in same_floats(images).values():
                check_near((await ask(client, route, sent)).json(), answer.json(), 1e-5)

    asyncio.run(check())


@pytest.mark.parametrize("route", IMAGE_ROUTES)
@given(images=IMAGES)
@EASY
def test_all_answers_agree(app: App, route: str, images: Images) -> None:
    async def check() -> None:
        async with client_of(app) as client:
            await check_answers(client, route, ("", npy(images), NPY))
            if route == "/anomaly-score":
                await check_answers(client, route, ("", npy(images), NPY), "map=true")

    asyncio.run(check())


@given(z=LATENTS)
@EASY
def test_all_bodies_and_answers_of_latents_agree(app: App, z: NDArray[np.float32]) -> None:
    async def check() -> None:
        async with client_of(app) as client:
            by_raw: Sent = ("", z.astype("<f4").tobytes(), RAW)
            expected = (await ask(client, "/decode", by_raw)).json()
            bodies: list[Sent] = [
                ("", orjson.dumps({"z": z.tolist()}), JSON),
                *[("", npy(z.astype(dtype)), NPY) for dtype in ("<f4", ">f4", "<f8", ">f8")],
                ("", npy(np.asfortranarray(z)), NPY),
            ]
            if len(z) == 1:
                bodies.append(("", npy(z[0]), NPY))
            for sent in bodies:
                assert (await ask(client, "/decode", sent)).json() == expected
            await check_answers(client, "/decode", by_raw)

    asyncio.run(check())


async def check_answers(client: AsyncClient, route: str, sent: Sent, query: str = "") -> None:
    """JSON, .npy, raw numbers, and a PNG where there is one."""
    fields = (await ask(client, route, sent, query=query)).json()
    if route == "/encode":
        expected = np.stack([fields["mu"], fields["sigma"]], axis=1).astype(np.float32)
    else:
        name = "images" if "images" in fields else "anomaly_map" if query else "score"
        expected = np.array(fields[name], np.float32)
    by_npy = await ask(client, route, sent, NPY, query)
    raw = await ask(client, route, sent, RAW, query)
    shape = tuple(map(int, raw.headers["X-Tensor-Shape"].split(",")))
    for found in (
        np.load(BytesIO(by_npy.content), allow_pickle=False),
        np.frombuffer(raw.content, raw.headers["X-Tensor-Dtype"]).reshape(shape),
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    if "images" not in fields:
        return
    pixels = np.rint(expected * 255).astype(np.uint8)
    for accept, query_ in ((NPY, "dtype=uint8"), (RAW, "dtype=uint8")):
        answer = await ask(client, route, sent, accept, query_)
        assert answer.content.endswith(pixels.tobytes())
    sheet = png_pixels(await ask(client, route, sent, "image/png"))
    columns = sheet.shape[1] // 28
    tiles = sheet.reshape(-1, 28, columns, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    np.testing.assert_array_equal(tiles[: len(pixels)], pixels)
    assert not tiles[len(pixels) :].any()


@given(images=IMAGES)
@EASY
def test_half_floats_agree_to_their_own_precision(app: App, images: Images) -> None:
    """As what they are after rounding, that is: exactly as the same numbers in float64."""

    async def check() -> None:
        async with client_of(app) as client:
            halves = (images / 255).astype(np.float16)
            found = (await ask(client, "/encode", ("", npy(halves), NPY))).json()
            wide = npy(halves.astype(np.float64))
            assert found == (await ask(client, "/encode", ("", wide, NPY))).json()
            exact = (await ask(client, "/encode", ("", npy(images), NPY))).json()
            check_near(found, exact, HALF_FLOATS)

    asyncio.run(check())


def test_every_lossless_format_is_among_them() -> None:
    assert set(TYPES) == set(LOSSLESS)
