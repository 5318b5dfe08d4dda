"""Which type of body has which reader, and which type of answer which writer.

Adding a type is adding a row to `IMAGE_READERS`, `LATENT_READERS` or `WRITERS`, and one to `MAGIC`
if it is to be known by its first bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Final

from starlette.responses import Response

from model.images.preprocessing import ImageError, open_image
from service.codecs.arrays import read_raw_images, read_raw_latents
from service.codecs.image_files import FILE_FORMATS, NOT_DECODED, read_file_image
from service.codecs.json_bodies import read_json_images, read_json_latents, read_plain_json_images
from service.codecs.multipart import read_multipart_images
from service.codecs.npy import read_npy_images, read_npy_latents
from service.codecs.offload import in_thread
from service.codecs.options import ImageOptions, LatentOptions, Latents, Pixels
from service.codecs.png import write_png
from service.codecs.responses import (
    Result,
    write_json,
    write_large_json,
    write_large_npy,
    write_large_raw,
    write_npy,
    write_raw,
)
from service.errors import (
    BadBodyError,
    UnsupportedTypeError,
)

JSON: Final = "application/json"

NPY: Final = "application/x-npy"

RAW: Final = "application/octet-stream"

MULTIPART: Final = "multipart/form-data"

PNG: Final = "image/png"

FILES: Final = tuple(FILE_FORMATS)

IMAGE_READERS: Final[Mapping[str, Callable[[bytes, ImageOptions], Pixels]]] = {
    JSON: read_json_images,
    **dict.fromkeys(FILES, read_file_image),
    MULTIPART: read_multipart_images,
    RAW: read_raw_images,
    NPY: read_npy_images,
}

LATENT_READERS: Final[Mapping[str, Callable[[bytes, LatentOptions], Latents]]] = {
    JSON: read_json_latents,
    RAW: read_raw_latents,
    NPY: read_npy_latents,
}

WRITERS: Final[Mapping[str, Callable[[Result], Response]]] = {
    JSON: write_json,
    NPY: write_npy,
    RAW: write_raw,
    PNG: write_png,
}

INLINE_NUMBERS: Final = 65_536
"""Answers of so many numbers are written as JSON on the event loop: about two milliseconds."""

INLINE_COPIED: Final = 262_144
"""And those of so many as bytes."""

LARGE_WRITERS: Final[Mapping[str, tuple[int, Callable[[Result], Response]]]] = {
    JSON: (INLINE_NUMBERS, write_large_json),
    NPY: (INLINE_COPIED, write_large_npy),
    RAW: (INLINE_COPIED, write_large_raw),
}
"""From how many numbers on an answer has another writer, for a thread."""

ARRAY_ANSWERS: Final = (JSON, NPY, RAW)

IMAGE_ANSWERS: Final = (JSON, PNG, NPY, RAW)

PICTURE_ANSWERS: Final = (PNG, JSON, NPY, RAW)
"""Result types of a route, the default first."""

UNNAMED: Final = frozenset({"", "application/x-www-form-urlencoded"})
"""Types that say nothing: `curl --data-binary @file` sends the second with any file."""

MAGIC: Final = {
    b"\x93NUMPY": NPY,
    b"\x89PNG": PNG,
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
    b"{": JSON,
    b"[": JSON,
}
"""First bytes by which an unnamed body is known; a few blanks before JSON are skipped."""

INLINE_FILE_BYTES: Final = 16_384
"""Image files up to here are opened on the event loop: even finding the header can take long."""

INLINE_PIXELS: Final = 65_536
"""Those with so many pixels in their header are decoded there too: a 28×28 one costs less than a
change of thread."""

NOT_WRITTEN: Final = "the answer was not written"
"""Said when the deadline passes."""

INLINE_JSON_BYTES: Final = 262_144
"""JSON numbers up to here are read on the event loop: about half a millisecond."""


async def read_images(
    body: bytes, wanted: ImageOptions, decoders: Executor | None = None
) -> Pixels:
    """The images in a body, decoded by `decoders` where that takes long.

    Raises the errors of `service.codecs.arrays`, and `TimeoutError` at `wanted.deadline`.
    """
    media_type = _media_type(body, wanted.content_type, IMAGE_READERS)
    if media_type == JSON and len(body) <= INLINE_JSON_BYTES:
        plain = read_plain_json_images(body, wanted)
        if plain is not None:
            return plain
    reader = IMAGE_READERS[media_type]
    if _is_slow(media_type, body, wanted):
        return await in_thread(decoders, wanted.deadline, NOT_DECODED, reader, body, wanted)
    return reader(body, wanted)


async def read_latents(
    body: bytes,
    content_type: str,
    wanted: LatentOptions,
    decoders: Executor | None = None,
    deadline: float = math.inf,
) -> Latents:
    """The latents in a body, or drawn as it asks; as `read_images`."""
    media_type = _media_type(body, content_type, LATENT_READERS)
    reader = LATENT_READERS[media_type]
    if media_type == JSON and len(body) > INLINE_JSON_BYTES:
        return await in_thread(
            decoders, deadline, "the latents were not read", reader, body, wanted
        )
    return reader(body, wanted)


async def write(
    accepted: str, answer: Result, writers: Executor | None = None, deadline: float = math.inf
) -> Response:
    """The answer as the type that was negotiated, made by `writers` where that takes long.

    Raises `TimeoutError` at `deadline`.
    """
    if accepted == PNG:
        return await in_thread(None, deadline, NOT_WRITTEN, write_png, answer)
    inline_numbers, write_large = LARGE_WRITERS[accepted]
    if answer.array.size > inline_numbers:
        return await in_thread(writers, deadline, NOT_WRITTEN, write_large, answer)
    return WRITERS[accepted](answer)


def _media_type(body: bytes, content_type: str, readers: Mapping[str, object]) -> str:
    """The body's type, from its first bytes if the caller named none."""
    named = content_type.partition(";")[0].strip().lower()
    if not body:
        raise BadBodyError("the body is empty")
    if named in UNNAMED:
        start = body[:64].lstrip()
        named = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "")
    if named not in readers:
        found = f"Content-Type is {named[:64]!r}" if named else "the body has no known Content-Type"
        raise UnsupportedTypeError(f"{found}, this route reads {', '.join(readers)}")
    return named


def _is_slow(media_type: str, body: bytes, wanted: ImageOptions) -> bool:
    """Whether reading takes so long that others on the event loop would notice."""
    if media_type in (RAW, NPY):
        return False  # nothing is decoded
    if media_type == JSON and len(body) <= INLINE_JSON_BYTES:
        # So many quotation marks have the keys and the dtype; beyond that there are base64 files.
        return body.count(b'"') != (6 if b'"dtype"' in body else 2)
    if media_type not in FILES or len(body) > INLINE_FILE_BYTES:
        return True
    try:
        width, height = open_image(body, max_pixels=wanted.max_image_pixels).size
    except ImageError:
        return False  # the reader says so in more words
    return width * height > INLINE_PIXELS
