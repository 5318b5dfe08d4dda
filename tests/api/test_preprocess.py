"""POST /preprocess: images as the network gets them, and what was done to their files."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pytest
from httpx import AsyncClient
from PIL import Image

from service.api.preprocess import MAX_HEADER_BYTES, MAX_HEADER_FILES
from service.app import App
from tests.api.bodies import FORM, JSON, NPY, RAW, Array, Images, form, npy, post
from tests.api.helpers import base64_file, image_file, metric, png_pixels, problem, uint8_body
from tests.api.image_makers import file_of
from tests.docs import fenced_block

pytestmark = pytest.mark.anyio

ROUTE = "/preprocess"


def photograph() -> bytes:
    """On its side, as phones save them: 300 × 400 pixels when it is upright."""
    few = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(few).resize((400, 300), Image.Resampling.BICUBIC)
    return file_of(image, "JPEG", exif=exif)


async def mu_of(client: AsyncClient, pixels: Array) -> Any:
    answer = await post(client, "/encode", npy(pixels.astype(np.float32)), NPY)
    return answer.json()["mu"]


async def test_the_documented_answer(client: AsyncClient) -> None:
    found = (await client.post(ROUTE, content=photograph())).json()
    documented = json.loads(fenced_block("preprocess answer", "json"))
    assert found["files"] == documented["files"]
    assert found.keys() == documented.keys()
    assert found["model"] == documented["model"]


async def test_it_is_what_the_network_gets(client: AsyncClient, four: Images) -> None:
    for content, content_type in (
        (photograph(), ""),
        (form(image_file(four[0]), photograph()), FORM),
        (npy(four), NPY),
        (four.tobytes(), RAW),
        (orjson.dumps(uint8_body(four)), JSON),
    ):
        for query in ("", "?invert=true"):
            encoded = (await post(client, f"/encode{query}", content, content_type)).json()["mu"]
            shown = (await post(client, ROUTE + query, content, content_type)).json()["images"]
            assert await mu_of(client, np.array(shown)) == encoded


async def test_every_answer_type_holds_the_same(client: AsyncClient, four: Images) -> None:
    content = form(*(image_file(image) for image in four))

    async def ask(accept: str, query: str = "") -> Any:
        answer = await post(client, ROUTE + query, content, FORM, accept=accept)
        assert answer.headers["content-type"] == accept
        return answer

    fields = (await ask(JSON)).json()
    assert np.rint(np.array(fields["images"]) * 255).astype(np.uint8).tolist() == (
        four[:, 0].tolist()
    )
    by_npy = np.load(BytesIO((await ask(NPY)).content))
    assert by_npy.dtype == np.float32
    assert (by_npy == np.array(fields["images"], np.float32)).all()
    raw = await ask(RAW, "?dtype=uint8")
    assert raw.content == four.tobytes()
    assert raw.headers["x-tensor-shape"] == "4,28,28"
    sheet = png_pixels(await ask("image/png", "?scale=2"))
    assert sheet.shape == (112, 112)
    assert (sheet[:56:2, :56:2] == four[0, 0]).all()
    for answer in (await ask(NPY), raw):
        assert json.loads(answer.headers["x-image-files"]) == fields["files"]


async def test_numbers_have_no_file(client: AsyncClient, four: Images) -> None:
    answer = await client.post(ROUTE, json=uint8_body(four))
    assert answer.json()["files"] is None
    assert "x-image-files" not in answer.headers
    for content, content_type in ((npy(four), NPY), (four.tobytes(), RAW)):
        answer = await post(client, ROUTE, content, content_type, accept=NPY)
        assert answer.status_code == 200
        assert "x-image-files" not in answer.headers
    mixed = {"images": [four[0, 0].tolist(), base64_file(four[1])], "dtype": "uint8"}
    found = (await client.post(ROUTE, json=mixed)).json()
    assert found["files"][0] is None
    assert found["files"][1] == {
        "format": "PNG",
        "width": 28,
        "height": 28,
        "mode": "L",
        "orientation": 1,
        "actions": [],
    }


async def test_the_header_is_short(client: AsyncClient, digit: Images) -> None:
    plain, changed = image_file(digit), photograph()
    for file, count in ((plain, MAX_HEADER_FILES), (changed, None)):
        content = form(*[file] * (MAX_HEADER_FILES + 4))
        everything = (await post(client, ROUTE, content, FORM)).json()["files"]
        header = (await post(client, ROUTE, content, FORM, accept=NPY)).headers["x-image-files"]
        assert len(header) <= MAX_HEADER_BYTES
        found = json.loads(header)
        assert found == everything[: len(found)]
        assert 4 <= len(found) <= MAX_HEADER_FILES
        assert count in (None, len(found))


async def test_warnings_are_there_too(client: AsyncClient, digit: Images) -> None:
    ink = Image.new("RGBA", (28, 28), "black")
    ink.putalpha(Image.fromarray(digit))
    found = (await client.post(ROUTE, content=file_of(ink))).json()
    assert "?invert=true" in found["warnings"][0]
    assert found["files"][0]["actions"] == ["transparency composited on black", "colour to grey"]
    found = (await client.post(f"{ROUTE}?invert=true", content=file_of(ink))).json()
    assert "warnings" not in found
    assert found["files"][0]["actions"][-1] == "inverted"


async def test_nothing_is_queued(client: AsyncClient, digit: Images) -> None:
    passes = await metric(client, "vae_batch_images_count")
    assert (await client.post(ROUTE, content=image_file(digit))).status_code == 200
    assert await metric(client, "vae_batch_images_count") == passes


async def test_the_limits_hold(small_client: AsyncClient, small_app: App, four: Images) -> None:
    nine = form(*[image_file(four[0])] * 9)
    problem(await post(small_client, ROUTE, nine, FORM), 413, "8")
    large = image_file(np.zeros((400, 400), np.uint8))
    problem(await small_client.post(ROUTE, content=large), 413, "160,000", "100,000")
    big = await small_client.post(ROUTE, content=b" " * 60_001)
    problem(big, 413, "60,001", "60,000")
    late = await small_client.post(
        ROUTE, content=image_file(four[0]), headers={"X-Request-Timeout": "1e-9"}
    )
    problem(late, 504)
    answer = await small_client.post(
        f"{ROUTE}?scale=64", json=uint8_body(four), headers={"Accept": "image/png"}
    )
    problem(answer, 422, "100,000")
    other = image_file(np.zeros((30, 40), np.uint8))
    problem(await small_client.post(f"{ROUTE}?resize=false", content=other), 422, "40 × 30")
    problem(await small_client.post(f"{ROUTE}?bits=8&bits=9", content=other), 422, "twice")
    assert small_app.state.budget.reserved == 0


async def test_many_images_are_made_numbers_in_a_thread(client: AsyncClient) -> None:
    many = np.random.default_rng(1).integers(0, 256, (400, 28, 28), dtype=np.uint8)
    answer = await post(client, ROUTE, npy(many), NPY, accept=NPY)
    assert (np.load(BytesIO(answer.content)) == many / np.float32(255)).all()
