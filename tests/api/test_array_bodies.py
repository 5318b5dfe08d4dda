"""Arrays and forms, in and out: .npy, raw numbers, multipart, compressed, every answer type."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import zstandard
from httpx import AsyncClient, Response
from numpy.typing import NDArray

from tests.api.conftest import SMALL
from tests.api.helpers import (
    IMAGE_ROUTES,
    LOSSLESS,
    WORK_ROUTES,
    base64_file,
    image_file,
    png_pixels,
    problem,
    uint8_body,
)

pytestmark = pytest.mark.anyio

Array = NDArray[Any]
Images = NDArray[np.uint8]

JSON = "application/json"
NPY = "application/x-npy"
RAW = "application/octet-stream"
FORM = "multipart/form-data; boundary=cut"
BLANK = np.zeros((1, 28, 28), np.uint8)


def npy(array: Array, version: tuple[int, int] | None = None) -> bytes:
    file = BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    return file.getvalue()


def npy_by_hand(header: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def npy_header(descr: str = "|u1", shape: str = "(1, 784)", fortran: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def form(*files: bytes, name: str = "images", closed: bool = True) -> bytes:
    """A multipart body, for `FORM`."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="a.png"'
    parts = [b"--cut\r\n%s\r\n\r\n%s\r\n" % (disposition.encode(), file) for file in files]
    return b"".join(parts) + (b"--cut--\r\n" if closed else b"")


async def post(
    client: AsyncClient, route: str, content: bytes, content_type: str, **headers: str
) -> Response:
    named = {"Content-Type": content_type} if content_type else {}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(route, content=content, headers=named | sent)


async def mu(client: AsyncClient, content: bytes, content_type: str, query: str = "") -> Array:
    answer = await post(client, f"/encode{query}", content, content_type)
    assert answer.status_code == 200, answer.text[:500]
    return np.array(answer.json()["mu"])


@pytest.fixture
async def expected(client: AsyncClient, four: Images) -> Array:
    """μ of `four`, by JSON."""
    return await mu(client, orjson.dumps(uint8_body(four)), JSON)


# .npy bodies


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 1, 28, 28), (4, 784)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["|u1", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
async def test_npy_of_every_type_shape_and_order(
    client: AsyncClient, four: Images, expected: Array, dtype: str, order: Any, shape: Any
) -> None:
    numbers = four if dtype == "|u1" else four / 255
    body = npy(np.asarray(numbers.reshape(shape), dtype=dtype, order=order))
    assert f"'fortran_order': {order == 'F'}".encode() in body
    rounding = 5e-3 if dtype[1:] == "f2" else 1e-5
    assert await mu(client, body, NPY) == pytest.approx(expected, abs=rounding)
    if dtype == "|u1":
        assert (await mu(client, body, NPY) == expected).all()


@pytest.mark.parametrize("order", ["C", "F"])
async def test_npy_of_one_image(
    client: AsyncClient, four: Images, expected: Array, order: Any
) -> None:
    """[H, W] is one, not 28 rows."""
    body = npy(np.asarray(four[2, 0], order=order))
    assert await mu(client, body, NPY) == pytest.approx(expected[2:3], abs=1e-5)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
async def test_npy_of_every_version(
    client: AsyncClient, four: Images, expected: Array, version: tuple[int, int]
) -> None:
    body = npy(four, version)
    assert body[6] == version[0]
    assert (await mu(client, body, NPY) == expected).all()


@pytest.mark.parametrize("route", IMAGE_ROUTES)
async def test_arrays_on_every_image_route(client: AsyncClient, four: Images, route: str) -> None:
    by_json = (await client.post(route, json=uint8_body(four))).json()
    for content, content_type in [
        (npy(four), NPY),
        (four.tobytes(), RAW),
        (form(*map(image_file, four)), FORM),
    ]:
        assert (await post(client, route, content, content_type)).json() == by_json


@pytest.mark.parametrize("dtype", ["object", "structured", "bool", "int64", "U4", "c8", "M8[s]"])
async def test_npy_of_other_types(client: AsyncClient, dtype: str) -> None:
    """Nothing is ever unpickled: an object array is refused by its header."""
    if dtype == "object":
        body = npy_by_hand(npy_header("|O"), pickle.dumps(np.zeros((1, 784), object)))
    elif dtype == "structured":
        body = npy(np.zeros((1, 784), [("grey", "u1")]))
    else:
        body = npy(np.zeros((1, 784), dtype))
    for route in ("/encode", "/decode"):
        problem(await post(client, route, body, NPY), 422, "uint8, float16, float32, float64")


class Bomb:
    """Unpickled, it would end the process."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        import os

        return os._exit, (66,)


@pytest.mark.parametrize("header", [True, False])
async def test_pickles(client: AsyncClient, header: bool) -> None:
    body = pickle.dumps(Bomb())
    if header:
        body = npy_by_hand(npy_header("|O", "()"), body)
    for content_type in (NPY, ""):
        answer = await post(client, "/encode", body, content_type)
        problem(answer, answer.status_code)
        assert answer.status_code in {400, 415, 422}


@pytest.mark.parametrize(
    ("shape", "length"),
    [
        ("(2, 784)", 784),
        ("(1, 784)", 783),
        ("(1, 784)", 0),
        ("(1, 784)", 785),
        ("(1, 784)", 1_568),
        ("(0, 784)", 784),
        ("(9999999999, 784)", 784),
        (f"({2**40}, {2**40})", 784),
        ("(-1, 784)", 784),
        ("(-1, -784)", 784),
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
async def test_npy_whose_header_claims_more_or_less_than_there_is(
    client: AsyncClient, shape: str, length: int, version: int
) -> None:
    body = npy_by_hand(npy_header(shape=shape), bytes(length), version)
    problem(await post(client, "/encode", body, NPY), 400, shape[1:-1], f"{length:,}")
    body = npy_by_hand(npy_header("<f4", shape), bytes(length), version)
    problem(await post(client, "/decode", body, NPY), 400)


DAMAGED: dict[str, bytes] = {
    "magic only": b"\x93NUMPY",
    "cut in the length": b"\x93NUMPY\x01\x00\x10",
    "cut in the header": npy(BLANK)[:40],
    "a wrong length": b"\x93NUMPY\x01\x00\xff\xff" + npy(BLANK)[10:],
    "a long header": npy_by_hand(npy_header() + " " * 60_000, bytes(784)),
    "a header of 4 GB": npy_by_hand(npy_header(), bytes(784), 2)[:8] + b"\xff" * 4 + bytes(784),
    "version 0": npy_by_hand(npy_header(), bytes(784), 2)[:6] + b"\0\0" + bytes(784),
    "version 9": npy_by_hand(npy_header(), bytes(784), 9),
    "no dictionary": npy_by_hand("5"),
    "no text": npy_by_hand("\x00\x01"),
    "no UTF-8": npy_by_hand(b"{'descr': '\xff\xfe'}", version=3),
    "no descr": npy_by_hand("{'fortran_order': False, 'shape': (1, 784), }", bytes(784)),
    "a key too many": npy_by_hand(npy_header()[:-2] + "'x': 1}", bytes(784)),
    "a type that is none": npy_by_hand(npy_header("zz"), bytes(784)),
    "a shape that is a list": npy_by_hand(npy_header(shape="[1, 784]"), bytes(784)),
    "a shape of floats": npy_by_hand(npy_header(shape="(1.0, 784)"), bytes(784)),
    "an order that is none": npy_by_hand(npy_header(fortran="'F'"), bytes(784)),
    "code": npy_by_hand("__import__('os')._exit(66)"),
    "an open bracket": npy_by_hand("{'descr': ("),
    "an open bracket, Python 2": npy_by_hand("{'shape': (1L, "),
    "an open quotation mark": npy_by_hand("{'descr': 'abc\n", b""),
    "900 open brackets": npy_by_hand("(" * 900),
    "900 brackets": npy_by_hand("(" * 900 + ")" * 900),
    "no ASCII": npy_by_hand(b"{'de\xff\xfe"),
    "other bytes": bytes(range(256)) * 4,
    "an image file": image_file(BLANK),
}


@pytest.mark.parametrize("case", DAMAGED)
async def test_npy_that_is_damaged(client: AsyncClient, case: str) -> None:
    for route in WORK_ROUTES:
        problem(await post(client, route, DAMAGED[case], NPY), 400, ".npy")


@pytest.mark.parametrize(
    "shape",
    [
        "(0, 99999999999999999999999)",
        f"(0, {2**62}, {2**62})",
        "(0, -1)",
        f"({'1, ' * 65}784)",
        "(True, 784)",
        "(1L, 784L)",
    ],
)
async def test_npy_of_a_curious_shape(client: AsyncClient, shape: str) -> None:
    """Each passes for a header, and none is an array that numpy could make, or has made lately."""
    body = npy_by_hand(npy_header(shape=shape), bytes(0 if shape.startswith("(0") else 784))
    answer = await post(client, "/encode", body, NPY)
    if answer.status_code != 200 or shape.startswith("(0"):
        problem(answer, 422 if answer.status_code == 422 else 400)


@pytest.mark.parametrize(
    "shape", [(), (784,), (28, 27), (1, 28, 27), (1, 783), (4, 3, 28, 28), (1, 1, 1, 28, 28)]
)
async def test_npy_of_a_wrong_shape(client: AsyncClient, shape: tuple[int, ...]) -> None:
    answer = await post(client, "/encode", npy(np.zeros(shape, np.uint8)), NPY)
    problem(answer, 422, str(list(shape)), "[N, 28, 28] or [N, 1, 28, 28] or [N, 784]")


@pytest.mark.parametrize("shape", [(0, 28, 28), (0, 784), (0,)])
async def test_npy_of_no_images(client: AsyncClient, shape: tuple[int, ...]) -> None:
    problem(await post(client, "/encode", npy(np.zeros(shape, np.uint8)), NPY), 422)
    problem(await post(client, "/decode", npy(np.zeros((0, 10), np.float32)), NPY), 422)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.5, 1.5, 255.0])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
async def test_npy_with_a_pixel_out_of_range(client: AsyncClient, dtype: str, value: float) -> None:
    images = np.zeros((3, 28, 28), dtype)
    images[2, 0, 3] = value
    mentioned = ["images[2]", str(value), "pixel 3", "[0, 1]"]
    answer = await post(client, "/encode", npy(images), NPY)
    assert problem(answer, 422, *mentioned)["errors"][0]["loc"] == ["body", "images", 2]
    if dtype == "<f4":
        answer = await post(client, "/encode?dtype=float32", images.tobytes(), RAW)
        assert problem(answer, 422, *mentioned)["errors"][0]["loc"] == ["body", "images", 2]


# Raw bodies


async def test_raw_numbers(client: AsyncClient, four: Images, expected: Array) -> None:
    raw = four.tobytes()
    for query in ("", "?dtype=uint8"):
        assert (await mu(client, raw, RAW, query) == expected).all()
    floats = (four / np.float32(255)).astype("<f4").tobytes()
    assert await mu(client, floats, RAW, "?dtype=float32") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [1, 783, 785, 1_001])
async def test_raw_numbers_that_are_no_multiple(client: AsyncClient, n: int) -> None:
    problem(await post(client, "/encode", bytes(n), RAW), 422, f"{n:,}", "784")
    answer = await post(client, "/encode?dtype=float32", bytes(n), RAW)
    problem(answer, 422, f"{n:,}", "3,136")
    problem(await post(client, "/decode", bytes(n), RAW), 422, f"{n:,}", "40")


@pytest.mark.parametrize("dtype", ["float64", "uint16", "UINT8", "", "float16"])
async def test_raw_numbers_of_another_type(client: AsyncClient, dtype: str) -> None:
    answer = await post(client, f"/encode?dtype={dtype}", bytes(784), RAW)
    assert problem(answer, 422, "uint8", "float32")["errors"][0]["loc"] == ["query", "dtype"]


# Latents


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
async def test_latents_as_arrays(client: AsyncClient, dtype: str, order: Any) -> None:
    z = np.random.default_rng(3).standard_normal((5, 10)).astype("<f2").astype("<f4")
    by_json = (await client.post("/decode", json={"z": z.tolist()})).json()
    body = npy(np.asarray(z, dtype=dtype, order=order))
    assert (await post(client, "/decode", body, NPY)).json() == by_json
    assert (await post(client, "/decode", z.tobytes(), RAW)).json() == by_json
    one = (await post(client, "/decode", npy(z[0].astype(dtype)), NPY)).json()
    assert len(one["images"]) == 1
    assert np.array(one["images"]) == pytest.approx(np.array(by_json["images"][:1]), abs=1e-5)


async def test_whole_latents_are_numbers_too(client: AsyncClient) -> None:
    """uint8 is a type of arrays; of latents it is the numbers 0 to 255, not parts of 1."""
    z = np.arange(10, dtype=np.uint8) % 3
    by_json = (await client.post("/decode", json={"z": [z.tolist()]})).json()
    assert (await post(client, "/decode", npy(z), NPY)).json() == by_json


@pytest.mark.parametrize("shape", [(), (9,), (11,), (1, 11), (2, 1, 10), (10, 1), (784,)])
async def test_latents_of_a_wrong_shape(client: AsyncClient, shape: tuple[int, ...]) -> None:
    answer = await post(client, "/decode", npy(np.zeros(shape, np.float32)), NPY)
    problem(answer, 422, str(list(shape)), "[N, 10] or [10]")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7, -1e7])
async def test_latents_out_of_range(client: AsyncClient, value: float) -> None:
    z = np.zeros((3, 10), "<f4")
    z[1, 4] = value
    bodies = [(z.tobytes(), RAW), (npy(z), NPY), (npy(z.astype(">f8")), NPY)]
    if not np.isfinite(value):
        bodies.append((npy(z.astype("<f2")), NPY))
    for body, content_type in bodies:
        found = problem(await post(client, "/decode", body, content_type), 422, "z[1]", "1e+06")
        assert found["errors"][0]["loc"] == ["body", "z", 1, 4]


# Forms


async def test_a_form_keeps_the_order_of_its_parts(
    client: AsyncClient, four: Images, expected: Array
) -> None:
    formats = [*LOSSLESS, "PNG"]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2], [1, 1]):
        files = [image_file(four[i], formats[i]) for i in order]
        assert await mu(client, form(*files), FORM) == pytest.approx(expected[order], abs=1e-5)
        sent = [("images", ("ünïcode.png", file, "image/png")) for file in files]
        answer = await client.post("/encode", files=sent)
        assert np.array(answer.json()["mu"]) == pytest.approx(expected[order], abs=1e-5)


async def test_a_form_of_files_larger_than_a_part_s_first_block(client: AsyncClient) -> None:
    """Sizes around powers of two, boundaries and line ends inside the files."""
    texts = [b"\r\n--cu", b"\r\n--cut-", b"--cut--\r\n", b"\r\n" * 5_000, b"-" * 70_000]
    file = image_file(BLANK)
    files = [file + text for text in texts]  # Pillow does not look past a PNG's end
    assert (await mu(client, form(*files), FORM)).shape == (5, 10)


@pytest.mark.parametrize("quoted", ['"cut"', "cut; charset=utf-8", '"cut"; charset="utf-8"'])
async def test_a_boundary_in_any_dress(
    client: AsyncClient, four: Images, expected: Array, quoted: str
) -> None:
    body = form(image_file(four[1]))
    for name in ("boundary", "Boundary"):
        found = await mu(client, body, f"multipart/form-data; {name}={quoted}")
        assert found == pytest.approx(expected[1:2], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "mentioned"),
    [
        (form(b"x"), 400, "images[0]"),
        (form(image_file(BLANK), b"x", image_file(BLANK)), 400, "images[1]"),
        (form(image_file(BLANK), image_file(BLANK)[:50]), 400, "images[1]"),
        (form(image_file(BLANK), closed=False), 400, "cut short"),
        (form(image_file(BLANK))[:-40], 400, "cut short"),
        (form(image_file(BLANK))[:20], 400, "cut short"),
        (form(), 422, "images"),
        (b"\r\n--cut--\r\n", 422, "images"),
        (form(image_file(BLANK), name="image"), 422, "'image'"),
        (form(image_file(BLANK), name=""), 422, "'images'"),
        (form(image_file(BLANK))[:-9] + form(b"1", name="dtype"), 422, "'dtype'"),
        (b"--cut\r\n\r\nx\r\n--cut--\r\n", 422, "'images'"),
        (b"--cut\r\nContent-Disposition\r\n\r\nx\r\n--cut--\r\n", 400, "multipart"),
        (b"--other\r\n\r\nx\r\n--other--\r\n", 400, "multipart"),
        (b"x", 400, "multipart"),
        (b"\xff" * 1_000, 400, "multipart"),
        (b"--cut\r\n" + b"A: b\r\n" * 10_000 + b"\r\nx\r\n--cut--\r\n", 400, "multipart"),
        (b"--cut\r\nA: " + b"b" * 100_000 + b"\r\n\r\nx\r\n--cut--\r\n", 400, "multipart"),
    ],
)
async def test_a_form_that_is_wrong(
    client: AsyncClient, body: bytes, status: int, mentioned: str
) -> None:
    problem(await post(client, "/encode", body, FORM), status, mentioned)


@pytest.mark.parametrize(
    "parameters", ["", ";", "; boundary", "; boundary=", '; boundary=""', "; charset=utf-8"]
)
async def test_a_form_without_a_boundary(client: AsyncClient, parameters: str) -> None:
    content_type = f"multipart/form-data{parameters}"
    problem(await post(client, "/encode", form(b"x"), content_type), 400, "boundary")


@pytest.mark.parametrize("boundary", ["b" * 300, "b" * 10_000, "bogus''%ff", "\xe9\xff"])
async def test_a_form_with_a_curious_boundary(client: AsyncClient, boundary: str) -> None:
    for name in ("boundary", "boundary*"):
        content_type = f"multipart/form-data; {name}={boundary}".encode("latin-1")
        headers = [(b"Content-Type", content_type)]
        found = problem(await client.post("/encode", content=form(b"x"), headers=headers), 400)
        assert len(found["detail"]) < 400


async def test_a_form_has_no_latents(client: AsyncClient) -> None:
    problem(await post(client, "/decode", form(b"x"), FORM), 415, JSON, NPY, RAW)


# No type, a wrong type, nothing


@pytest.mark.parametrize("content_type", ["", "application/x-www-form-urlencoded"])
async def test_a_body_without_a_type_is_known_by_its_first_bytes(
    client: AsyncClient, four: Images, expected: Array, content_type: str
) -> None:
    numbers = orjson.dumps(uint8_body(four))
    for body in (npy(four), numbers, b" \r\n\t" + numbers):
        assert (await mu(client, body, content_type) == expected).all()
    for file_format in LOSSLESS:
        found = await mu(client, image_file(four[0], file_format), content_type)
        assert found == pytest.approx(expected[:1], abs=1e-5)
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
async def test_a_key_that_is_there_twice(client: AsyncClient, body: bytes) -> None:
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


# Compressed bodies


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("GZip", gzip.compress), ("deflate", zlib.compress)],
)
async def test_compressed_bodies(
    client: AsyncClient, four: Images, expected: Array, encoding: str, pack: Callable[..., bytes]
) -> None:
    file = image_file(four[0])
    for body, content_type, rows in [
        (four.tobytes(), RAW, 4),
        (npy(four), NPY, 4),
        (npy(four), "", 4),
        (orjson.dumps(uint8_body(four)), JSON, 4),
        (form(file), FORM, 1),
        (file, "image/png", 1),
    ]:
        packed = pack(body)
        answer = await post(client, "/encode", packed, content_type, content_encoding=encoding)
        assert answer.status_code == 200, answer.text
        assert np.array(answer.json()["mu"]) == pytest.approx(expected[:rows], abs=1e-5)


async def test_a_compressed_body_that_comes_byte_by_byte(
    client: AsyncClient, four: Images, expected: Array
) -> None:
    packed = gzip.compress(npy(four))

    async def slowly() -> AsyncIterator[bytes]:
        for i in range(len(packed)):
            yield packed[i : i + 1]

    headers = {"Content-Type": NPY, "Content-Encoding": "gzip"}
    answer = await client.post("/encode", content=slowly(), headers=headers)
    assert (np.array(answer.json()["mu"]) == expected).all()


@pytest.mark.parametrize(
    ("body", "encoding", "status", "mentioned"),
    [
        (gzip.compress(bytes(784))[:-1], "gzip", 400, "cut short"),
        (gzip.compress(bytes(784))[:15], "gzip", 400, "cut short"),
        (zlib.compress(bytes(784))[:-1], "deflate", 400, "cut short"),
        (gzip.compress(bytes(784)) + b"more", "gzip", 400, "extra bytes"),
        (gzip.compress(bytes(784))[:-8] + bytes(8), "gzip", 400, "gzip"),
        (b"garbage", "gzip", 400, "gzip"),
        (b"garbage", "deflate", 400, "deflate"),
        (bytes(784), "gzip", 400, "gzip"),
        (raw_deflate(bytes(784)), "deflate", 400, "deflate"),
        (gzip.compress(b""), "gzip", 400, "empty"),
        (b"x", "br", 415, "'br'"),
        (b"x", "zstd", 415, "'zstd'"),
        (b"x", "compress", 415, "gzip, deflate"),
        (b"x", "gzip, gzip", 415, "'gzip, gzip'"),
        (b"x", "x" * 10_000, 415, "gzip, deflate"),
    ],
)
@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_a_compressed_body_that_is_wrong(
    client: AsyncClient, route: str, body: bytes, encoding: str, status: int, mentioned: str
) -> None:
    answer = await post(client, route, body, RAW, content_encoding=encoding)
    assert len(problem(answer, status, mentioned)["detail"]) < 300


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_bomb(client: AsyncClient, pack: Callable[..., bytes]) -> None:
    """Limited by what it unpacks to, of which no more than the limit is ever unpacked."""
    limit = 32 * 1024 * 1024
    for size, status in [(limit - limit % 784, 413), (limit + 1, 413), (8 * limit, 413)]:
        packed = pack(bytes(size), 1)
        assert len(packed) < 2_000_000
        encoding = "gzip" if pack is gzip.compress else "deflate"
        answer = await post(client, "/encode", packed, RAW, content_encoding=encoding)
        problem(answer, status, "8,192" if size < limit else f"{limit:,}")


async def test_a_bomb_is_not_unpacked_past_the_limit(small_client: AsyncClient) -> None:
    """However much is in its first chunk."""
    packed = gzip.compress(bytes(58_000_000), 9)
    assert len(packed) < SMALL.max_body_bytes < 58_000_000
    tracemalloc.start()
    try:
        answer = await post(small_client, "/encode", packed, RAW, content_encoding="gzip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    problem(answer, 413, "decompresses", f"{SMALL.max_body_bytes:,}")
    assert peak < 5_000_000


# Answers


def arrays(route: str, fields: dict[str, Any], query: str = "") -> Array:
    """What a JSON answer's fields are as an array."""
    if route == "/encode":
        return np.stack([fields["mu"], fields["sigma"]], axis=1)
    if route == "/anomaly-score":
        return np.array(fields["anomaly_map" if "map" in query else "score"])
    return np.array(fields["images"])


@pytest.mark.parametrize(
    ("route", "query"),
    [
        ("/encode", ""),
        ("/reconstruct", ""),
        ("/anomaly-score", ""),
        ("/anomaly-score", "?map=true"),
        ("/decode", ""),
        ("/sample", "?n=4&seed=3"),
    ],
)
async def test_every_answer_type_holds_the_same(
    client: AsyncClient, four: Images, route: str, query: str
) -> None:
    async def ask(accept: str) -> Response:
        headers = {"Accept": accept}
        if route == "/sample":
            answer = await client.get(route + query, headers=headers)
        elif route == "/decode":
            answer = await client.post(route, json={"n": 4, "seed": 3}, headers=headers)
        else:
            answer = await client.post(route + query, json=uint8_body(four), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == accept
        return answer

    expected = arrays(route, (await ask(JSON)).json(), query).astype(np.float32)
    by_npy = np.load(BytesIO((await ask(NPY)).content), allow_pickle=False)
    raw = await ask(RAW)
    assert raw.headers["x-tensor-dtype"] == "float32"
    shape = tuple(map(int, raw.headers["x-tensor-shape"].split(",")))
    by_raw = np.frombuffer(raw.content, "<f4").reshape(shape)
    for found in (by_npy, by_raw):
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert (found == expected).all(), "shortest JSON numbers are exact"


@pytest.mark.parametrize("route", ["/reconstruct", "/decode", "/sample"])
async def test_images_as_bytes(client: AsyncClient, four: Images, route: str) -> None:
    async def ask(accept: str, dtype: str) -> Response:
        headers = {"Accept": accept}
        if route == "/sample":
            return await client.get(f"/sample?n=4&seed=3&dtype={dtype}", headers=headers)
        body = uint8_body(four) if route == "/reconstruct" else {"n": 4, "seed": 3}
        return await client.post(f"{route}?dtype={dtype}", json=body, headers=headers)

    floats = np.load(BytesIO((await ask(NPY, "float32")).content), allow_pickle=False)
    assert floats.dtype == np.float32
    bytes_ = np.load(BytesIO((await ask(NPY, "uint8")).content), allow_pickle=False)
    assert bytes_.dtype == np.uint8
    assert (bytes_ == np.rint(floats * 255)).all()
    raw = await ask(RAW, "uint8")
    assert raw.headers["x-tensor-dtype"] == "uint8"
    assert raw.headers["x-tensor-shape"] == "4,28,28"
    assert raw.content == bytes_.tobytes()
    sheet = png_pixels(await ask("image/png", "uint8"))
    rows = [np.hstack([bytes_[0], bytes_[1]]), np.hstack([bytes_[2], bytes_[3]])]
    assert (sheet == np.vstack(rows)).all()


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (f"{NPY}, {RAW}", NPY),
        (f"{RAW};q=0.9, {NPY};q=0.5", RAW),
        (f"{JSON};q=0.1, {NPY};q=0.2", NPY),
        (f"{NPY};q=0, */*", JSON),
        (f"{JSON};q=0, {NPY};q=0, */*;q=0.1", RAW),
        (f"text/html, application/xhtml+xml, {RAW};q=0.8", RAW),
        ("image/png, application/x-npy;q=0.5", NPY),
        (f"{NPY};q=1.0;version=2", NPY),
        ("APPLICATION/X-NPY", NPY),
        (f"{JSON};q=nan, {NPY};q=0.1", NPY),
        (f"{JSON};q=high, {NPY};q=0.1", NPY),
    ],
)
async def test_the_answer_that_is_liked_best(
    client: AsyncClient, accept: str | None, found: str
) -> None:
    headers = {"Accept": accept} if accept else {}
    body = npy(BLANK)
    request = client.build_request("POST", "/encode", content=body, headers=headers)
    if not accept:
        del request.headers["Accept"]
    answer = await client.send(request)
    assert answer.headers["content-type"] == found


@pytest.mark.parametrize("accept", ["text/html", "image/png", "*/*;q=0", f"{JSON};q=0", "x"])
async def test_no_answer_that_is_liked(client: AsyncClient, accept: str) -> None:
    answer = await post(client, "/encode", npy(BLANK), NPY, accept=accept)
    problem(answer, 406, accept, JSON, NPY, RAW)


UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.parametrize(
    ("accepted", "found"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0, zstd", "zstd"),
        ("zstd;q=0, gzip;q=0.1", "gzip"),
        ("identity", None),
        ("br", None),
        ("gzip;q=0", None),
        ("gzip;q=0, zstd;q=0.0", None),
        ("", None),
    ],
)
async def test_large_json_answers_are_compressed_for_those_who_accept_that(
    client: AsyncClient, accepted: str, found: str | None
) -> None:
    plain = await client.post("/decode", json={"n": 20, "seed": 1}, headers={"Accept-Encoding": ""})
    assert len(plain.content) > 100_000
    headers = {"Accept-Encoding": accepted}
    request = client.stream("POST", "/decode", json={"n": 20, "seed": 1}, headers=headers)
    async with request as answer:
        data = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == found
        assert "accept-encoding" in answer.headers["vary"].lower(), "so that caches tell them apart"
    if found:
        assert len(data) < len(plain.content) / 2
    assert UNPACK.get(found or "", bytes)(data) == plain.content


async def test_small_answers_and_pictures_are_not_compressed(client: AsyncClient) -> None:
    headers = {"Accept-Encoding": "gzip, zstd"}
    for answer in (
        await client.get("/livez", headers=headers),
        await client.post("/encode", json=uint8_body(BLANK[None]), headers=headers),
        await client.get("/sample?n=64&scale=4", headers=headers),
    ):
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers


# The map of errors


async def test_the_mean_of_a_map_is_the_error(client: AsyncClient, four: Images) -> None:
    body = uint8_body(four)
    plain = (await client.post("/anomaly-score", json=body)).json()
    mapped = (await client.post("/anomaly-score?map=true", json=body)).json()
    error_map = np.array(mapped.pop("anomaly_map"))
    assert error_map.shape == (4, 28, 28)
    assert error_map.min() >= 0
    assert error_map.mean(axis=(1, 2)) == pytest.approx(np.array(plain["mse"]), rel=1e-5)
    assert "anomaly_map" not in plain
    for name in ("score", "mse", "kl"):
        assert np.array(mapped.pop(name)) == pytest.approx(np.array(plain.pop(name)), rel=1e-5)
    assert mapped == plain
    back = (await client.post("/reconstruct", json=body)).json()["images"]
    assert error_map == pytest.approx(np.square(four[:, 0] / 255 - back), abs=1e-5)


async def test_a_map_as_a_picture(client: AsyncClient, four: Images) -> None:
    headers = {"Accept": "image/png"}

    async def draw(images: Images, query: str = "") -> Images:
        url = f"/anomaly-score?map=true{query}"
        answer = await client.post(url, json=uint8_body(images), headers=headers)
        return png_pixels(answer)

    assert (await draw(four[:1])).shape == (28, 28, 3)
    sheet = await draw(four)
    assert sheet.shape == (56, 56, 3)
    assert (sheet[:28, 28:] == await draw(four[1:2])).all(), "the colour of an error is fixed"
    assert ((await draw(four, "&scale=3"))[::3, ::3] == sheet).all()
    problem(
        await client.post("/anomaly-score", json=uint8_body(four), headers=headers),
        406,
        "image/png",
    )
    answer = await client.post(
        "/anomaly-score?map=true&scale=64",
        content=npy(np.zeros((200, 784), np.uint8)),
        headers=headers,
    )
    problem(answer, 422, "25,000,000")


async def test_a_map_shows_where_the_error_is(client: AsyncClient, four: Images) -> None:
    """A white square in the corner, where no digit has ink, is what the colour is seen at."""
    spoilt = four[:1].copy()
    spoilt[0, 0, :5, :5] = 255
    headers = {"Accept": "image/png"}
    answer = await client.post("/anomaly-score?map=true", json=uint8_body(spoilt), headers=headers)
    drawn = png_pixels(answer).astype(int)
    colour = drawn.max(axis=2) - drawn.min(axis=2)
    assert colour[:5, :5].min() > 2 * colour[6:, 6:].mean()


@pytest.mark.parametrize("score", ["nope", "bernoulli", "MSE"])
async def test_a_score_that_is_not_offered(client: AsyncClient, score: str) -> None:
    for query in ("", "&map=true"):
        answer = await post(client, f"/anomaly-score?score={score}{query}", npy(BLANK), NPY)
        found = problem(answer, 422, f"'{score}'", "mse")
        assert found["errors"][0]["loc"] == ["query", "score"]


async def test_all_that_is_wrong_leaves_the_service_well(
    client: AsyncClient, four: Images, expected: Array
) -> None:
    """Good and bad bodies at once, of every type."""
    bad = [
        (b"{", JSON),
        (npy(four)[:-1], NPY),
        (b"abc", RAW),
        (form(b"x"), FORM),
        (b"x", "image/png"),
    ]
    good = [(npy(four), NPY), (four.tobytes(), RAW), (orjson.dumps(uint8_body(four)), JSON)]
    answers = await asyncio.gather(
        *(post(client, "/encode", *body) for _ in range(5) for body in bad + good)
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses == [400, 400, 422, 400, 400, 200, 200, 200] * 5
    for answer in answers:
        if answer.status_code == httpx.codes.OK:
            assert np.array(answer.json()["mu"]) == pytest.approx(expected, abs=1e-5)
