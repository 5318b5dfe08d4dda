"""Bytes to arrays and back, for grey and colour networks."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message

from service import media
from service.errors import (
    BadBodyError,
    InvalidContentError,
    NotAcceptableError,
    ServiceError,
    TooLargeError,
    UnsupportedTypeError,
)

GREY = media.ImageFormat(shape=(1, 4, 5), max_images=10, max_image_pixels=10_000)
COLOUR = media.ImageFormat(shape=(3, 4, 5), max_images=10, max_image_pixels=10_000)


def read(
    body: bytes | dict[str, Any],
    image_format: media.ImageFormat = GREY,
    content_type: str | None = None,
    **options: bool,
) -> media.Pixels:
    data = orjson.dumps(body) if isinstance(body, dict) else body
    headers = Headers({} if content_type is None else {"content-type": content_type})
    chosen = media.FileOptions(**options)
    return asyncio.run(media.read_images(data, headers, image_format, chosen))


def file_of(pixels: NDArray[np.uint8], file_format: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def random_pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# Images in


@pytest.mark.parametrize("image_format", [GREY, COLOUR])
def test_numbers_come_out_as_they_went_in(image_format: media.ImageFormat) -> None:
    channels, height, width = image_format.shape
    pixels = random_pixels(3, channels, height, width)
    flat = pixels.reshape(3, -1)
    for nested in (pixels, flat):
        found = read({"images": nested.tolist(), "dtype": "uint8"}, image_format)
        assert found.dtype == np.uint8
        assert (found == flat).all()
        found = read({"images": (nested / 255).tolist()}, image_format)
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
    roomy = media.ImageFormat(shape=(1, 4, 5), max_images=1000, max_image_pixels=200_000)
    large_file = file_of(np.full((150, 200), 77, dtype=np.uint8), "BMP")
    assert len(large_file) > media.INLINE_BYTES
    assert (read(large_file, roomy) == 77).all()
    many_pixels = file_of(np.full((400, 500), 77, dtype=np.uint8), "PNG")
    assert len(many_pixels) < media.INLINE_BYTES
    assert (read(many_pixels, roomy) == 77).all()
    small = random_pixels(4, 5)
    images: list[Any] = [small.tolist()] * 999
    assert len(orjson.dumps(images)) > media.INLINE_BYTES
    assert (read({"images": images, "dtype": "uint8"}, roomy) == small.reshape(-1)).all()
    with pytest.raises(InvalidContentError, match=r"images\[999\]"):
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


@pytest.mark.parametrize(
    ("body", "content_type", "found"),
    [
        (b'{"images"', None, "application/json"),
        (b" \r\n\t[", "", "application/json"),
        (b"\x89PNG\r\n", None, "image/png"),
        (b"\xff\xd8\xff\xe0", "application/x-www-form-urlencoded", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBP", None, "image/webp"),
        (b"BM", None, "image/bmp"),
        (b"{", "image/png", "image/png"),
        (b"{", " Image/PNG ; charset=x", "image/png"),
        (b"\x89PNG", "application/json", "application/json"),
        (b"x", "text/plain", "text/plain"),
    ],
)
def test_the_body_s_type_is_the_one_named_or_the_one_seen(
    body: bytes, content_type: str | None, found: str
) -> None:
    headers = Headers({} if content_type is None else {"content-type": content_type})
    assert media.body_type(body, headers) == found


def request_of(*chunks: bytes, **headers: str) -> Request:
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)}
        for i, chunk in enumerate(chunks)
    ]

    async def receive() -> Message:
        return messages.pop(0)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw}, receive)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10), st.integers(0, 100))
def test_a_body_is_read_whole_or_refused(chunks: list[bytes], max_bytes: int) -> None:
    whole = b"".join(chunks)
    request = request_of(*chunks)
    if len(whole) <= max_bytes:
        assert asyncio.run(media.read_body(request, max_bytes)) == whole
    else:
        with pytest.raises(TooLargeError, match=str(max_bytes)):
            asyncio.run(media.read_body(request, max_bytes))


def test_an_announced_size_is_believed_only_if_it_is_too_large() -> None:
    with pytest.raises(TooLargeError, match="11 bytes > maximum 10"):
        asyncio.run(media.read_body(request_of(content_length="11"), 10))
    for size in ("1", "-5", "x"):
        request = request_of(b"x" * 11, content_length=size)
        with pytest.raises(TooLargeError):
            asyncio.run(media.read_body(request, 10))


# Numbers


@given(st.integers(0, 255), st.integers(0, 9), st.sampled_from(["uint8", "float32"]))
@settings(deadline=None, max_examples=60)
def test_pixels_in_range_are_taken(value: int, index: int, dtype: str) -> None:
    number = value if dtype == "uint8" else value / 255
    images: list[Any] = [[0] * 20 for _ in range(10)]
    images[index][index] = number
    found = media.unit_pixels(read({"images": images, "dtype": dtype}))
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
    with pytest.raises(InvalidContentError, match=r'"dtype": "uint8"'):
        read({"images": [[0, 128, 255, *[0] * 17]]})


def test_numbers_may_have_one_of_several_shapes() -> None:
    shapes = [(2, 2), (4,)]
    found = media.numbers([[[1, 2], [3, 4]], [5, 6, 7, 8.5]], "x", shapes)
    assert found.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8.5]]
    with pytest.raises(InvalidContentError, match=r"x\[7\] is a list of shape \[3\]") as refusal:
        media.numbers([[1, 2, 3, 4], [1, 2, 3]], "x", shapes, first=6)
    assert refusal.value.loc == ["body", "x", 7]


@pytest.mark.parametrize("wrong", [True, None, "1", [1], {}, "x"])
def test_what_is_no_number_is_not_made_one(wrong: Any) -> None:
    for value in ([[0.5, wrong]], [[1, wrong]], [[wrong, wrong]], [[0, 1], [wrong, 1]]):
        with pytest.raises(InvalidContentError, match=rf"x\[{len(value) - 1}\]"):
            media.numbers(value, "x", [(2,)])


# Answers out

MEDIA_TYPES = ["application/json", "image/png"]


@given(st.permutations(MEDIA_TYPES), st.floats(0.001, 1), st.floats(0.001, 1))
def test_the_highest_quality_wins_and_the_first_wins_a_tie(
    offered: list[str], first: float, second: float
) -> None:
    accept = f"{offered[0]};q={first:.3f}, {offered[1]} ; q={second:.3f}"
    best = offered[0] if round(first, 3) >= round(second, 3) else offered[1]
    assert media.negotiate(accept, offered) == best


@given(st.text(max_size=40))
def test_any_accept_header_has_an_answer_or_a_refusal(accept: str) -> None:
    with suppress(NotAcceptableError):
        assert media.negotiate(accept, MEDIA_TYPES) in MEDIA_TYPES


def test_a_refusal_does_not_repeat_a_long_header() -> None:
    with pytest.raises(NotAcceptableError, match=r"text/html.*image/png") as refusal:
        media.negotiate("text/html," * 1_000, MEDIA_TYPES)
    assert len(refusal.value.detail) < 500


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/*;q=0, */*", "application/json"),
        ("application/json;q=0.2, */*;q=0.8", "image/png"),
        ("image/png;level=1;q=0.9, application/json;q=0.8", "image/png"),
        (",,image/png,,", "image/png"),
    ],
)
def test_ranges_go_by_how_specific_they_are(accept: str | None, found: str) -> None:
    assert media.negotiate(accept, MEDIA_TYPES) == found


def test_json_takes_arrays_however_they_lie_in_memory() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"whole": array, "columns": array[:, :2], "turned": array.T, "back": array[::-1]}
    answer = orjson.loads(bytes(media.json_response(views).body))
    assert answer == {name: view.tolist() for name, view in views.items()}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", range(1, 11))
def test_a_sheet_shows_each_image_in_its_place(n: int, channels: int) -> None:
    images = np.random.default_rng(n).random((n, channels, 4, 5), dtype=np.float32)
    answer = media.png_response(images, 2, 10_000)
    with Image.open(BytesIO(bytes(answer.body))) as image:
        assert image.format == "PNG"
        sheet = np.asarray(image).reshape(image.height, image.width, channels)
    columns = sheet.shape[1] // 10
    rows = sheet.shape[0] // 8
    assert (rows - 1) * columns < n <= rows * columns
    assert rows <= columns <= rows + 1, "near-square"
    for i in range(n):
        row, column = divmod(i, columns)
        tile = sheet[row * 8 : row * 8 + 8, column * 10 : column * 10 + 10]
        expected = images[i].transpose(1, 2, 0).repeat(2, axis=0).repeat(2, axis=1)
        assert np.abs(tile - 255 * expected).max() <= 0.5 + 1e-3


def test_the_ends_of_the_range_are_black_and_white() -> None:
    images = np.array([0, 1], dtype=np.float32).repeat(20).reshape(2, 1, 4, 5)
    with Image.open(BytesIO(bytes(media.png_response(images, 1, 100).body))) as image:
        assert image.getextrema() == (0, 255)


def test_a_sheet_too_large_is_refused() -> None:
    images = np.zeros((4, 1, 4, 5), dtype=np.float32)
    media.png_response(images, 1, 80)
    with pytest.raises(InvalidContentError, match=r"4 images at scale 1.*10 × 8.*79"):
        media.png_response(images, 1, 79)


def test_a_channel_of_its_own_is_left_out() -> None:
    assert media.nested(np.zeros((2, 1, 4, 5), dtype=np.float32)).shape == (2, 4, 5)
    assert media.nested(np.zeros((2, 3, 4, 5), dtype=np.float32)).shape == (2, 3, 4, 5)
