"""Bodies without a type, of the wrong type, empty, or too large."""

from __future__ import annotations

import gzip

import numpy as np
import orjson
import pytest
from httpx import AsyncClient

from tests.api.bodies import BLANK, FORM, JSON, NPY, RAW, Array, Images, form, mu, npy, post
from tests.api.helpers import (
    LOSSLESS,
    SMALL,
    WORK_ROUTES,
    base64_file,
    image_file,
    problem,
    uint8_body,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("content_type", ["", "application/x-www-form-urlencoded"])
async def test_a_body_without_a_type_is_known_by_its_first_bytes(
    client: AsyncClient, four: Images, mu_of_four: Array, content_type: str
) -> None:
    numbers = orjson.dumps(uint8_body(four))
    for body in (npy(four), numbers, b" \r\n\t" + numbers):
        assert (await mu(client, body, content_type) == mu_of_four).all()
    for file_format in LOSSLESS:
        found = await mu(client, image_file(four[0], file_format), content_type)
        assert found == pytest.approx(mu_of_four[:1], abs=1e-5)
    for body in (four.tobytes(), form(image_file(four[0])), bytes(784)):
        problem(await post(client, "/encode", body, content_type), 415, "Content-Type", RAW)


async def test_latents_without_a_type(client: AsyncClient) -> None:
    z = np.ones((2, 10), np.float32)
    by_json = (await post(client, "/decode", orjson.dumps({"z": z.tolist()}), "")).json()
    assert (await post(client, "/decode", npy(z), "")).json() == by_json
    problem(await post(client, "/decode", z.tobytes(), ""), 415, RAW)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [(JSON, 400), (NPY, 400), ("image/png", 400), (FORM, 400), (RAW, 422), ("text/csv", 415)],
)
async def test_a_wrong_type_for_the_bytes(
    client: AsyncClient, four: Images, content_type: str, status: int
) -> None:
    bodies = {
        JSON: orjson.dumps(uint8_body(four[:1])),
        NPY: npy(four[0]),
        "image/png": image_file(four[0]),
        FORM: form(image_file(four[0])),
    }
    for own_type, body in bodies.items():
        if own_type != content_type:
            problem(await post(client, "/encode", body, content_type), status)


@pytest.mark.parametrize("content_type", ["", JSON, NPY, RAW, FORM, "image/png"])
@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_an_empty_body(client: AsyncClient, route: str, content_type: str) -> None:
    problem(await post(client, route, b"", content_type), 400, "empty")


async def test_ten_thousand_images(client: AsyncClient) -> None:
    n = 10_000
    images = np.zeros((n, 784), np.uint8)
    flat = b'{"images": [' + b",".join([b"[0]"] * n) + b"]}"
    for body, content_type in [
        (images.tobytes(), RAW),
        (npy(images), NPY),
        (form(*[image_file(BLANK)] * n), FORM),
        (flat, JSON),
        (orjson.dumps({"images": [base64_file(BLANK)] * n}), JSON),
    ]:
        problem(await post(client, "/encode", body, content_type), 413, "8,192", "images")
    z = np.zeros((n, 10), np.float32)
    for body, content_type in [(z.tobytes(), RAW), (npy(z), NPY)]:
        problem(await post(client, "/decode", body, content_type), 413, "8,192", "10,000")


async def test_as_many_images_as_are_allowed(small_client: AsyncClient) -> None:
    n = SMALL.max_images_per_request
    for count, status in [(n, 200), (n + 1, 413)]:
        images = np.zeros((count, 784), np.uint8)
        for body, content_type in [
            (images.tobytes(), RAW),
            (npy(images), NPY),
            (form(*[image_file(BLANK)] * count), FORM),
        ]:
            answer = await post(small_client, "/encode", body, content_type)
            assert answer.status_code == status, answer.text[:300]


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": [], "images": []}',
        b'{"dtype": "uint8", "images": [[0]], "dtype": "uint8"}',
        b'{"z": [], "z": []}',
        b'{"n": 1, "n": 2}',
    ],
)
async def test_a_duplicate_key(client: AsyncClient, body: bytes) -> None:
    route = "/encode" if b"images" in body else "/decode"
    problem(await post(client, route, body, JSON), 422, "twice")


@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_depth_and_bytes_that_are_no_text(client: AsyncClient, route: str) -> None:
    key = b"z" if route == "/decode" else b"images"
    for inside in (b"[" * 1_000 + b"]" * 1_000, b'{"a":' * 1_000 + b"1" + b"}" * 1_000):
        answer = await post(client, route, b'{"%s": [%s]}' % (key, inside), JSON)
        problem(answer, 400 if answer.status_code == 400 else 422)
    for text in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\\ud800"):
        problem(await post(client, route, b'{"%s": ["%s"]}' % (key, text), JSON), 400, "JSON")
        problem(await post(client, route, b'{"%s": 1}' % text, JSON), 400, "JSON")


@pytest.mark.parametrize("seed", ["-1", str(2**64), str(-(2**63)), "1" * 5_000])
async def test_a_seed_that_is_negative_or_of_more_than_64_bits(
    client: AsyncClient, seed: str
) -> None:
    body = f'{{"n": 1, "seed": {seed}}}'.encode()
    answer = await post(client, "/decode", body, JSON)
    problem(answer, 400 if answer.status_code == 400 else 422)
    for route in ("/encode", "/reconstruct"):
        answer = await post(client, f"{route}?sample=true&seed={seed}", npy(BLANK), NPY)
        assert problem(answer, 422, "seed")["errors"][0]["loc"] == ["query", "seed"]
    problem(await client.get(f"/sample?seed={seed}"), 422, "seed")


@pytest.mark.parametrize(
    ("declared", "sent", "status", "words"),
    [
        (JSON, "image/png", 400, "is not JSON: it is a PNG file"),
        (JSON, NPY, 400, "is not JSON: it is an .npy file"),
        (JSON, FORM, 400, "is not JSON: it is a form; leave its Content-Type"),
        (JSON, "gzip", 400, "it is a gzip file, which needs Content-Encoding: gzip"),
        ("image/png", JSON, 400, "it looks like JSON, whose type is application/json"),
        ("image/*", "image/png", 415, "it is a PNG file, whose type is image/png"),
        ("text/plain;charset=UTF-8", JSON, 415, "bytes it looks like JSON, whose type is"),
        ("application/x-numpy", NPY, 415, "it is an .npy file, whose type is application/x-npy"),
        ("", "gzip", 415, "there is no Content-Type, and by the body's bytes it is a gzip file"),
        ("", "gzip", 415, "any body with Content-Encoding: gzip"),
        ("application/x-www-form-urlencoded", "fields", 415, "curl -F images=@FILE"),
        ("application/x-www-form-urlencoded", "fields", 415, "'application/x-www-form-urlenc"),
    ],
)
async def test_a_wrong_type_is_told_what_the_body_is(
    client: AsyncClient, four: Images, declared: str, sent: str, status: int, words: str
) -> None:
    """As programs send it that set one Content-Type for everything."""
    body = {
        JSON: orjson.dumps(uint8_body(four[:1])),
        NPY: npy(four[0]),
        "image/png": image_file(four[0]),
        FORM: form(image_file(four[0])),
        "gzip": gzip.compress(orjson.dumps(uint8_body(four[:1]))),
        "fields": b"images=iVBORw0KGgo%2B&alpha=0.5",
    }[sent]
    problem(await post(client, "/encode", body, declared), status, words)
