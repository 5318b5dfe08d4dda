"""Which body type has which reader, and where it runs."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import orjson
import pytest

from service.codecs import registry as media
from service.codecs.options import ImageOptions
from service.codecs.responses import Result
from service.errors import (
    BadBodyError,
    InvalidContentError,
    ServiceError,
    TooLargeError,
    UnsupportedTypeError,
)
from tests.tiff_files import tiff_file
from tests.unit.service.codecs.bodies import file_of, random_pixels, read

READERS = cast("dict[str, Any]", media.IMAGE_READERS)


def wanted(content_type: str | None) -> ImageOptions:
    return ImageOptions(
        shape=(1, 4, 5), max_images=10, max_image_pixels=100, content_type=content_type or ""
    )


@pytest.mark.parametrize(
    ("body", "content_type", "found"),
    [
        (b'{"images"', None, "application/json"),
        (b" \r\n\t[", "", "application/json"),
        (b"\x89PNG\r\n", None, "image/png"),
        (b"\xff\xd8\xff\xe0", "application/x-www-form-urlencoded", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBP", None, "image/webp"),
        (b"BM", None, "image/bmp"),
        (b"II*\0", None, "image/tiff"),
        (b"MM\0*", None, "image/tiff"),
        (b"II+\0", None, "image/tiff"),
        (b"\xef\xbb\xbf {", None, "application/json"),
        (b"a", "image/jpg", "image/jpeg"),
        (b"a", "image/x-tiff", "image/tiff"),
        (b"a", "text/json; charset=utf-8", "application/json"),
        (b"\x93NUMPY", None, "application/x-npy"),
        (b"{", "image/png", "image/png"),
        (b"{", " Image/PNG ; charset=x", "image/png"),
        (b"\x89PNG", "application/json", "application/json"),
        (b"x", "text/plain", "text/plain"),
    ],
)
def test_the_body_s_type_is_the_one_named_or_the_one_seen(
    monkeypatch: pytest.MonkeyPatch, body: bytes, content_type: str | None, found: str
) -> None:
    seen: list[str] = []
    for media_type in media.IMAGE_READERS:
        monkeypatch.setitem(READERS, media_type, lambda *_, t=media_type: seen.append(t))
    if found not in media.IMAGE_READERS:
        with pytest.raises(UnsupportedTypeError, match=found):
            asyncio.run(media.read_images(body, wanted(content_type)))
    else:
        asyncio.run(media.read_images(body, wanted(content_type)))
        assert seen == [found]


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
def test_each_kind_of_wrong_body_has_its_error(body: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        read(body)


def test_warnings_in_a_header_are_ascii() -> None:
    result = Result({}, np.zeros(1, np.float32), warnings=("Blätter 🙂 are not read",))
    answer = asyncio.run(media.write("application/x-npy", result))
    value = dict(answer.raw_headers)[b"x-warnings"].decode("ascii")
    assert orjson.loads(value) == list(result.warnings)


@pytest.mark.parametrize("content_type", ["image/tiff", ""])
def test_what_is_to_be_warned_of_is_not_read_at_once(content_type: str) -> None:
    """The direct way shares its options among requests, and its answers have no warnings."""
    pixels = random_pixels(4, 5)
    plain, pages = tiff_file(pixels), tiff_file(pixels, pages=2)
    options = wanted(content_type)
    read_at_once = media.quick_reader(options)
    for file, is_read in ((plain, True), (pages, False), (pages, False), (plain, True)):
        assert (read_at_once(file) is not None) is is_read
        assert options.warnings == []
    asyncio.run(media.read_images(pages, options))
    assert len(options.warnings) == 1
