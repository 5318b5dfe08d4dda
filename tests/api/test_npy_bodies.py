""".npy bodies: every type, shape and order, and headers that are wrong."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient

from tests.api.bodies import BLANK, FORM, NPY, RAW, Array, Images, form, mu, npy, post
from tests.api.helpers import IMAGE_ROUTES, WORK_ROUTES, image_file, problem, uint8_body

pytestmark = pytest.mark.anyio


def npy_by_hand(header: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def npy_header(descr: str = "|u1", shape: str = "(1, 784)", fortran: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


# .npy bodies


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 1, 28, 28), (4, 784)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["|u1", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
async def test_npy_of_every_type_shape_and_order(
    client: AsyncClient, four: Images, mu_of_four: Array, dtype: str, order: Any, shape: Any
) -> None:
    numbers = four if dtype == "|u1" else four / 255
    body = npy(np.asarray(numbers.reshape(shape), dtype=dtype, order=order))
    assert f"'fortran_order': {order == 'F'}".encode() in body
    rounding = 5e-3 if dtype[1:] == "f2" else 1e-5
    assert await mu(client, body, NPY) == pytest.approx(mu_of_four, abs=rounding)
    if dtype == "|u1":
        assert (await mu(client, body, NPY) == mu_of_four).all()


@pytest.mark.parametrize("order", ["C", "F"])
async def test_npy_of_one_image(
    client: AsyncClient, four: Images, mu_of_four: Array, order: Any
) -> None:
    """[H, W] is one, not 28 rows."""
    body = npy(np.asarray(four[2, 0], order=order))
    assert await mu(client, body, NPY) == pytest.approx(mu_of_four[2:3], abs=1e-5)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
async def test_npy_of_every_version(
    client: AsyncClient, four: Images, mu_of_four: Array, version: tuple[int, int]
) -> None:
    body = npy(four, version)
    assert body[6] == version[0]
    assert (await mu(client, body, NPY) == mu_of_four).all()


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
async def test_npy_of_an_odd_shape(client: AsyncClient, shape: str) -> None:
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


async def test_an_array_of_no_images_is_named(client: AsyncClient) -> None:
    answer = await post(client, "/encode", npy(np.zeros((0, 28, 28), np.float32)), NPY)
    problem(answer, 422, "the array is empty: its shape is [0, 28, 28]")
