"""Bytes to arrays and back.

`IMAGE_READERS` says which body type goes with which reader, `IMAGE_WRITERS` which answer type with
which writer. Adding a type is adding a row.
"""

from __future__ import annotations

import asyncio
import binascii
import math
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from model.preprocessing import (
    ImageSizeError,
    ImageTooLargeError,
    MalformedImageError,
    image_to_array,
    open_image,
)
from service.errors import (
    BadBodyError,
    InvalidContentError,
    NotAcceptableError,
    TooLargeError,
    UnsupportedTypeError,
)

JSON: Final = "application/json"
PNG: Final = "image/png"
UNNAMED_TYPES: Final = frozenset({"", "application/x-www-form-urlencoded"})
"""Types that say nothing: `curl --data-binary @file` sends the second one with any file."""

INLINE_BYTES: Final = 16_384
"""Bodies up to here are read on the event loop: a 28×28 file costs less than a change of thread."""

INLINE_PIXELS: Final = 65_536
"""The same, for the pixels of an image file."""

Pixels = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What images this service takes and how much of them."""

    shape: tuple[int, int, int]  # C, H, W
    max_images: int
    max_image_pixels: int


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What the caller wants done with image files."""

    resize: bool = True
    invert: bool = False


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What a reader is given besides the body."""

    format: ImageFormat
    options: FileOptions


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, refused as soon as it is seen to be too large. Raises `TooLargeError`."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooLargeError(f"body has {int(announced):,} bytes > maximum {max_bytes:,}")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(f"body has more bytes than the maximum {max_bytes:,}")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_images(
    body: bytes, headers: Headers, image_format: ImageFormat, options: FileOptions
) -> Pixels:
    """The images in a body, (N, C·H·W), as uint8 or as float32 in [0, 1].

    Raises `BadBodyError`, `TooLargeError`, `UnsupportedTypeError` or `InvalidContentError`.
    """
    media_type = body_type(body, headers)
    reader = IMAGE_READERS.get(media_type)
    if reader is None:
        raise UnsupportedTypeError(
            f"Content-Type is {media_type!r}, this route reads {', '.join(IMAGE_READERS)}"
        )
    reading = _Reading(format=image_format, options=options)
    if len(body) <= INLINE_BYTES and not _is_large_file(media_type, body, image_format):
        return reader(body, reading)
    return await asyncio.to_thread(reader, body, reading)


def body_type(body: bytes, headers: Headers) -> str:
    """The body's media type, without parameters; from its first bytes if the caller named none."""
    if not body:
        raise BadBodyError("the body is empty")
    named = headers.get("content-type", "").partition(";")[0].strip().lower()
    if named not in UNNAMED_TYPES:
        return named
    for magic, media_type in _MAGIC.items():
        if body.startswith(magic):
            return media_type
    if body.lstrip()[:1] in (b"{", b"["):
        return JSON
    raise UnsupportedTypeError(
        "the body has no Content-Type, and begins like no type that is read here "
        f"({', '.join(IMAGE_READERS)})"
    )


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises `BadBodyError` or `InvalidContentError`."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadBodyError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidContentError(f"the body is {_kind(value)}, expected a JSON object", ("body",))
    return value


def numbers(
    value: list[Any], name: str, shapes: Sequence[tuple[int, ...]], first: int = 0
) -> NDArray[Any]:
    """A list of N items, each numbers in one of `shapes`, as one array with a flat row for each.

    Raises `InvalidContentError` naming the first item that is something else; they are counted
    from `first`.
    """
    array = _as_array(value)
    if array is not None and array.shape[1:] in shapes:
        return array.reshape(len(array), -1)
    for index, item in enumerate(value, first):
        array = _as_array(item)
        expected = " or ".join(str(list(shape)) for shape in shapes)
        if array is None or array.shape not in shapes:
            found = "" if array is None else f" of shape {list(array.shape)}"
            raise InvalidContentError(
                f"{name}[{index}] is {_kind(item)}{found}, expected numbers of shape {expected}",
                ("body", name, index),
            )
    return np.stack([np.asarray(item).reshape(-1) for item in value])  # shapes are mixed


def unit_pixels(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels in [0, 1], whichever of the two ways they came."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, 255, dtype=np.float32)
    return pixels.astype(np.float32, copy=False)


def check_items(value: dict[str, Any], name: str, max_images: int) -> list[Any]:
    """`value[name]` as a list that is neither empty nor too long."""
    items = value.get(name)
    if not isinstance(items, list):
        raise InvalidContentError(
            f"{name} is {_kind(items)}, expected a list" if name in value else f"{name} is missing",
            ("body", name),
        )
    if not items:
        raise InvalidContentError(f"{name} is empty, expected at least one item", ("body", name))
    check_count(len(items), max_images)
    return items


def check_count(n: int, max_images: int) -> None:
    """Raise `TooLargeError` for more images in one request than the limit."""
    if n > max_images:
        raise TooLargeError(f"{n:,} images in one request > maximum {max_images:,}")


def reject_unknown(value: dict[str, Any], known: Sequence[str]) -> None:
    """Raise `InvalidContentError` for a key that would otherwise be silently ignored."""
    for key in value:
        if key not in known:
            raise InvalidContentError(
                f"{key[:64]!r} is no known field, expected {', '.join(known)}", ("body", key)
            )


def _read_json(body: bytes, reading: _Reading) -> Pixels:
    value = parse_json(body)
    reject_unknown(value, ("images", "dtype"))
    dtype = value.get("dtype", "float32")
    if dtype not in ("float32", "uint8"):
        raise InvalidContentError(
            f"dtype is {dtype!r}, expected 'float32' (pixels in [0, 1]) or 'uint8' (0..255)",
            ("body", "dtype"),
        )
    items = check_items(value, "images", reading.format.max_images)
    if not any(isinstance(item, str) for item in items):
        return _scaled(_number_images(items, reading), dtype)
    rows: list[Pixels] = []
    for index, item in enumerate(items):
        if isinstance(item, str):
            rows.append(_base64_image(item, index, reading))
        else:
            rows.append(_scaled(_number_images([item], reading, index), dtype, index)[0])
    if any(row.dtype == np.float32 for row in rows):
        return np.stack([unit_pixels(row) for row in rows])
    return np.stack([row.astype(np.uint8) for row in rows])


def _number_images(items: list[Any], reading: _Reading, first: int = 0) -> NDArray[Any]:
    channels, height, width = reading.format.shape
    shapes = [(channels, height, width), (channels * height * width,)]
    if channels == 1:
        shapes.insert(0, (height, width))
    return numbers(items, "images", shapes, first)


def _scaled(array: NDArray[Any], dtype: str, first: int = 0) -> Pixels:
    """Check the range of (N, P) pixels, and make them uint8 or float32."""
    limit = 255 if dtype == "uint8" else 1
    wrong = ~((array >= 0) & (array <= limit))  # so that NaN is wrong too
    if dtype == "uint8" and array.dtype.kind == "f":
        wrong |= array != np.floor(array)
    if wrong.any():
        index, pixel = np.argwhere(wrong)[0].tolist()
        hint = ""
        if dtype == "float32" and array.min() >= 0 and 1 < array.max() <= 255:
            hint = '; send "dtype": "uint8" for 0..255'
        kind = "a whole number in 0..255" if dtype == "uint8" else "a number in [0, 1]"
        raise InvalidContentError(
            f"images[{first + index}] has {array[index, pixel]} at pixel {pixel}, expected "
            f"{kind}{hint}",
            ("body", "images", first + index),
        )
    return array.astype(np.uint8) if dtype == "uint8" else array.astype(np.float32)


def _base64_image(text: str, index: int, reading: _Reading) -> NDArray[np.uint8]:
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidContentError(
            f"images[{index}] is a text that is not base64: {error}", ("body", "images", index)
        ) from error
    return _decode_file(data, reading, where=f"images[{index}]: ", loc=("body", "images", index))


def _read_file(body: bytes, reading: _Reading) -> Pixels:
    return _decode_file(body, reading, where="", loc=("body",))[None]


def _decode_file(
    data: bytes, reading: _Reading, *, where: str, loc: tuple[str | int, ...]
) -> NDArray[np.uint8]:
    """One image file as (C·H·W,) uint8."""
    options = reading.options
    try:
        image = open_image(data, max_pixels=reading.format.max_image_pixels)
        return image_to_array(
            image, reading.format.shape, resize=options.resize, invert=options.invert
        ).reshape(-1)
    except ImageTooLargeError as error:
        raise TooLargeError(f"{where}{error}") from error
    except ImageSizeError as error:
        raise InvalidContentError(f"{where}{error}", loc) from error
    except MalformedImageError as error:
        raise BadBodyError(f"{where}{error}") from error


def _is_large_file(media_type: str, body: bytes, image_format: ImageFormat) -> bool:
    """Whether a small body is an image file of many pixels, which takes long to decode."""
    if media_type == JSON:
        return False
    try:
        width, height = open_image(body, max_pixels=image_format.max_image_pixels).size
    except (ImageTooLargeError, MalformedImageError):
        return False  # the reader says so with more words
    return width * height > INLINE_PIXELS


IMAGE_READERS: Final[Mapping[str, Callable[[bytes, _Reading], Pixels]]] = {
    JSON: _read_json,
    "image/png": _read_file,
    "image/jpeg": _read_file,
    "image/webp": _read_file,
    "image/bmp": _read_file,
}

_MAGIC: Final = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
}


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The type of `offered` that an `Accept` header likes best; the first wins a tie.

    Source: RFC 9110, section 12.5.1. Raises `NotAcceptableError`.
    """
    if not accept:
        return offered[0]
    ranges = [_parse_range(part) for part in accept.split(",")]
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptableError(f"Accept is {accept[:128]!r}, this route has {', '.join(offered)}")
    return best


def _parse_range(part: str) -> tuple[str, float]:
    media_range, *parameters = (text.strip().lower() for text in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media_range, float(parameter[2:])
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The q-value of the most specific range that covers `media_type`."""
    kind = media_type.partition("/")[0]
    found = dict(reversed(ranges))
    for media_range in (media_type, f"{kind}/*", "*/*"):
        if media_range in found:
            return found[media_range]
    return 0.0


def json_response(content: Any) -> Response:
    """JSON, with arrays written straight from their memory."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)


def png_response(images: NDArray[np.float32], scale: int, max_pixels: int) -> Response:
    """Images in [0, 1], (N, C, H, W), as one PNG: a near-square grid, row by row.

    Each pixel becomes `scale` × `scale`. Raises `InvalidContentError` past `max_pixels`.
    """
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    size = (columns * width * scale, rows * height * scale)
    if size[0] * size[1] > max_pixels:
        raise InvalidContentError(
            f"{n} images at scale {scale} make {size[0]} × {size[1]} pixels > maximum "
            f"{max_pixels:,}",
            ("query", "scale"),
        )
    grid = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    grid[:n] = np.rint(images * 255)
    pixels = (
        grid.reshape(rows, columns, channels, height, width)
        .transpose(0, 3, 1, 4, 2)  # rows, H, columns, W, C
        .reshape(rows * height, columns * width, channels)
    )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if scale > 1:
        image = image.resize(size, Image.Resampling.NEAREST)
    file = BytesIO()
    image.save(file, "PNG")
    return Response(file.getvalue(), media_type=PNG)


def nested(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C, H, W) as clients see it: (N, H, W) when C is 1."""
    return images[:, 0] if images.shape[1] == 1 else images


def _as_array(value: Any) -> NDArray[Any] | None:
    """`value` as an array of numbers, or None if it is ragged or holds anything else."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # ragged, or nested deeper than numpy goes
        return None
    return array if array.dtype.kind in "iuf" else None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
