"""Bodies to arrays, for grey and colour networks."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.codecs import registry as media
from service.codecs.arrays import unit_pixels
from service.codecs.json_numbers import fields, items, number_rows, parse_json
from service.codecs.options import ImageOptions, Pixels
from service.errors import (
    BadBodyError,
    InvalidContentError,
    ServiceError,
    TooLargeError,
    UnsupportedTypeError,
)

GREY = ImageOptions(shape=(1, 4, 5), max_images=10, max_image_pixels=10_000)
COLOUR = ImageOptions(shape=(3, 4, 5), max_images=10, max_image_pixels=10_000)


def read(body: bytes | dict[str, Any], wanted: ImageOptions = GREY, **options: Any) -> Pixels:
    data = orjson.dumps(body) if isinstance(body, dict) else body
    return asyncio.run(media.read_images(data, replace(wanted, **options)))


def file_of(pixels: NDArray[np.uint8], file_format: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def random_pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# Images in


@pytest.mark.parametrize("wanted", [GREY, COLOUR])
def test_numbers_come_out_as_they_went_in(wanted: ImageOptions) -> None:
    channels, height, width = wanted.shape
    pixels = random_pixels(3, channels, height, width)
    flat = pixels.reshape(3, -1)
    for nested in (pixels, flat):
        found = read({"images": nested.tolist(), "dtype": "uint8"}, wanted)
        assert found.dtype == np.uint8
        assert (found == flat).all()
        found = read({"images": (nested / 255).tolist()}, wanted)
        assert found.dtype == np.float32
        assert found == pytest.approx(flat / 255, abs=1e-6)
        assert found.flags.c_contiguous


def test_a_colour_network_takes_no_plane() -> None:
    plane = random_pixels(4, 5).tolist()
    assert read({"images": [plane], "dtype": "uint8"}).shape == (1, 20)
    with pytest.raises(InvalidContentError, match=r"images\[0\].*\[3, 4, 5\] or \[60\]"):
        read({"images": [plane], "dtype": "uint8"}, COLOUR)


def test_a_file_is_made_what_the_network_needs() -> None:
    colour = random_pixels(4, 5, 3)
    grey = random_pixels(4, 5)
    assert (read(file_of(colour), COLOUR) == colour.transpose(2, 0, 1).reshape(1, -1)).all()
    assert (read(file_of(grey)) == grey.reshape(1, -1)).all()
    assert (read(file_of(grey), COLOUR) == np.tile(grey.reshape(1, -1), 3)).all()
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    assert (read(file_of(colour)) == luma.reshape(1, -1)).all()
    assert (read(file_of(grey), invert=True) == 255 - grey.reshape(1, -1)).all()


def test_files_and_numbers_share_a_body() -> None:
    grey = random_pixels(4, 5)
    text = b64encode(file_of(grey)).decode()
    found = read({"images": [text, grey.tolist(), grey.reshape(-1).tolist()], "dtype": "uint8"})
    assert found.dtype == np.uint8
    assert (found == grey.reshape(-1)).all()
    found = read({"images": [(grey / 255).tolist(), text]})
    assert found.dtype == np.float32
    assert found == pytest.approx(np.tile(grey.reshape(-1) / 255, (2, 1)), abs=1e-6)


def test_small_and_large_bodies_are_read_alike() -> None:
    """Small ones on the event loop, large ones in a thread."""
    roomy = ImageOptions(shape=(1, 4, 5), max_images=5000, max_image_pixels=200_000)
    large_file = file_of(np.full((150, 200), 77, dtype=np.uint8), "BMP")
    assert len(large_file) > 16_384
    assert (read(large_file, roomy) == 77).all()
    many_pixels = file_of(np.full((400, 500), 77, dtype=np.uint8), "PNG")
    assert len(many_pixels) < 16_384
    assert (read(many_pixels, roomy) == 77).all()
    small = random_pixels(4, 5)
    images: list[Any] = [small.tolist()] * 4999
    assert len(orjson.dumps(images)) > media.INLINE_JSON_BYTES
    assert (read({"images": images, "dtype": "uint8"}, roomy) == small.reshape(-1)).all()
    with pytest.raises(InvalidContentError, match=r"images\[4999\]"):
        read({"images": [*images, []], "dtype": "uint8"}, roomy)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", BadBodyError),
        (b"{", BadBodyError),
        (b'{"images": [[[1e999]]]}', BadBodyError),
        (b"\x89PNG nothing more", BadBodyError),
        (b"something else", UnsupportedTypeError),
        (b"[1]", InvalidContentError),
        (b"{}", InvalidContentError),
        (b'{"images": [[0, 0.5]]}', InvalidContentError),
        (b'{"images": ["%%%"]}', InvalidContentError),
        (b'{"images": ["aGVsbG8="]}', BadBodyError),
        (b'{"images": [%s0]}' % (b"0," * 10), TooLargeError),
    ],
)
def test_what_is_wrong_is_told_apart(body: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        read(body)


@given(st.integers(0, 255), st.integers(0, 9), st.sampled_from(["uint8", "float32"]))
@settings(deadline=None, max_examples=60)
def test_pixels_in_range_are_taken(value: int, index: int, dtype: str) -> None:
    number = value if dtype == "uint8" else value / 255
    images: list[Any] = [[0] * 20 for _ in range(10)]
    images[index][index] = number
    found = unit_pixels(read({"images": images, "dtype": dtype}))
    assert found.dtype == np.float32
    assert found[index, index] == pytest.approx(value / 255, abs=1e-7)
    assert found.sum() == pytest.approx(value / 255, abs=1e-6)


OUTSIDE = st.floats(max_value=-1e-6) | st.floats(min_value=255.001, max_value=1e300)


@given(OUTSIDE.filter(np.isfinite), st.integers(0, 9), st.sampled_from(["uint8", "float32"]))
@settings(deadline=None, max_examples=60)
def test_pixels_out_of_range_are_named(value: float, index: int, dtype: str) -> None:
    images: list[Any] = [[0] * 20 for _ in range(10)]
    images[index][7] = value
    with pytest.raises(InvalidContentError, match=rf"images\[{index}\] .* pixel 7") as refusal:
        read({"images": images, "dtype": dtype})
    assert refusal.value.loc == ["body", "images", index]


def test_numbers_of_0_to_255_get_a_hint() -> None:
    with pytest.raises(InvalidContentError, match="dtype to uint8"):
        read({"images": [[0, 128, 255, *[0] * 17]]})


def rows(value: Any, shapes: list[tuple[int, ...]]) -> NDArray[np.float64]:
    body = orjson.dumps({"x": value})
    return number_rows(items(fields(parse_json(body), ["x"]), "x"), "x", shapes, body.count(b"["))


def test_numbers_may_have_one_of_several_shapes() -> None:
    shapes = [(2, 2), (4,)]
    found = rows([[[1, 2], [3, 4]], [5, 6, 7, 8.5]], shapes)
    assert found.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8.5]]
    with pytest.raises(InvalidContentError, match=r"x\[1\] is an array of shape \[3\]") as refusal:
        rows([[1, 2, 3, 4], [1, 2, 3]], shapes)
    assert refusal.value.loc == ["body", "x", 1]


@pytest.mark.parametrize("wrong", [True, None, "1", [1], {}, "x", []])
def test_what_is_no_number_is_not_made_one(wrong: Any) -> None:
    for value in ([[0.5, wrong]], [[1, wrong]], [[wrong, wrong]], [[0, 1], [wrong, 1]]):
        with pytest.raises(InvalidContentError, match=rf"x\[{len(value) - 1}\]"):
            rows(value, [(2,)])


@pytest.mark.parametrize(
    "value", [[[[1, 2], []]], [[[1], [2]]], [[[1, 2, 3], [4]]], [[[[1], 2], [3, 4]]]]
)
def test_as_many_numbers_in_another_shape_are_refused(value: Any) -> None:
    with pytest.raises(InvalidContentError, match=r"x\[0\]"):
        rows(value, [(2, 2), (2,)])


# Arrays whose header asks for much


def npy_header(text: bytes, version: int = 1, length: int | None = None) -> bytes:
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (npy_header(b" " * 4_097), "header has 4,097 bytes > maximum 4,096"),
        (npy_header(b"", 2, 2**32 - 1), "header has 4,294,967,295 bytes > maximum 4,096"),
        (npy_header(b"", 3, 10**8), "header has 100,000,000 bytes > maximum 4,096"),
        (npy_header(b"(" * 4_096), "header of the .npy file is damaged"),
        (npy_header(b"{", 1, 4_096), "header of the .npy file is damaged"),
        (b"\x93NUMPY\x02\0\0", "is not an .npy file, or its header is damaged"),
        (b"\x93NUMPY\x04\0" + bytes(200), "is not an .npy file, or its header is damaged"),
        (b"PK\x03\x04" + bytes(200), "is not an .npy file"),
    ],
)
def test_an_npy_header_that_is_none(body: bytes, reason: str) -> None:
    with pytest.raises(BadBodyError, match=re.escape(reason)):
        read(body, content_type="application/x-npy")


def test_shapes_in_messages_are_short() -> None:
    shape = "1," * 1_900
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape})}}"
    with pytest.raises(BadBodyError) as raised:
        read(npy_header(header.encode()), content_type="application/x-npy")
    assert len(str(raised.value)) < 300
