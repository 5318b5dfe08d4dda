"""The reader of each body type and the writer of each response type.

To add a type, add a row to `IMAGE_READERS`, `LATENT_READERS` or `WRITERS`, and one to `MAGIC` if
bodies without a Content-Type are to be recognized by their first bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Final

from starlette.responses import Response

from model.images.preprocessing import ImageError, open_image
from service.codecs.gif import write_gif
from service.codecs.hints import what_it_is
from service.codecs.image_files import (
    FILE_ALIASES,
    FILE_FORMATS,
    NOT_DECODED,
    read_file_image,
)
from service.codecs.json_bodies import read_json_images, read_json_latents, read_plain_json_images
from service.codecs.json_errors import BOM
from service.codecs.multipart import read_multipart_images
from service.codecs.npy import read_npy_images, read_npy_latents
from service.codecs.offload import in_thread
from service.codecs.options import ImageOptions, LatentOptions, Latents, Pixels
from service.codecs.png import write_png
from service.codecs.raw import read_raw_images, read_raw_latents
from service.codecs.responses import (
    Result,
    write_json,
    write_large_json,
    write_large_npy,
    write_large_raw,
    write_npy,
    write_raw,
)
from service.errors import BadBodyError, UnsupportedTypeError

JSON: Final = "application/json"

NPY: Final = "application/x-npy"

RAW: Final = "application/octet-stream"

MULTIPART: Final = "multipart/form-data"

PNG: Final = "image/png"

GIF: Final = "image/gif"

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
    GIF: write_gif,
}

PICTURES: Final = (PNG, GIF)
"""Response types that take long to write, and are always written in a thread."""

WARNINGS_HEADER: Final = "x-warnings"

INLINE_JSON_NUMBERS: Final = 65_536
"""Up to this many numbers are written as JSON on the event loop: about two milliseconds."""

INLINE_BINARY_NUMBERS: Final = 262_144
"""Up to this many numbers are written as .npy or raw bytes on the event loop."""

LARGE_WRITERS: Final[Mapping[str, tuple[int, Callable[[Result], Response]]]] = {
    JSON: (INLINE_JSON_NUMBERS, write_large_json),
    NPY: (INLINE_BINARY_NUMBERS, write_large_npy),
    RAW: (INLINE_BINARY_NUMBERS, write_large_raw),
}
"""The writer, to be run in a thread, for results of more than this many numbers."""

ARRAY_RESPONSE_TYPES: Final = (JSON, NPY, RAW)
"""Response types of routes that return numbers. In these three, the first is the default."""

IMAGE_RESPONSE_TYPES: Final = (JSON, PNG, NPY, RAW)
"""Response types of routes that can return images."""

DECODE_RESPONSE_TYPES: Final = (*IMAGE_RESPONSE_TYPES, GIF)
"""Response types of `/decode`."""

SAMPLE_RESPONSE_TYPES: Final = (PNG, JSON, NPY, RAW, GIF)
"""Response types of `/sample`."""

ALIASES: Final = FILE_ALIASES | dict.fromkeys(("text/json", "application/x-json"), JSON)
"""Other names of body types."""

UNSPECIFIC: Final = frozenset({"", "application/x-www-form-urlencoded"})
"""Content-Types that do not say what the body is. `curl --data-binary @file` sends the second with
any file."""

MAGIC: Final = {
    b"\x93NUMPY": NPY,
    b"\x89PNG": PNG,
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
    b"{": JSON,
    b"[": JSON,
    b"II*": "image/tiff",
    b"MM\0*": "image/tiff",
    b"II+\0": "image/tiff",
    b"MM\0+": "image/tiff",
}
"""The first bytes of each type that is recognized without a Content-Type. Whitespace and a byte
order mark at the start of the body are skipped."""

INLINE_FILE_BYTES: Final = 16_384
"""Image files up to this size are opened on the event loop. In larger ones, finding the image's
size alone can take long."""

INLINE_PIXELS: Final = 65_536
"""Image files with up to this many pixels are also decoded on the event loop: for a 28×28 image
that costs less than handing it to a thread."""

NOT_WRITTEN: Final = "the response was not written"
"""Error detail when the deadline passes."""

INLINE_JSON_BYTES: Final = 262_144
"""JSON numbers up to this size are parsed on the event loop: about half a millisecond."""


async def read_images(
    body: bytes, options: ImageOptions, decoders: Executor | None = None
) -> Pixels:
    """The images in a body, (N, C·H·W). If decoding takes long, it is done by `decoders`.

    Raises `UnsupportedTypeError`, `BadBodyError`, `InvalidContentError`, `TooLargeError`, and
    `TimeoutError` at `options.deadline`.
    """
    media_type = _media_type(body, options.content_type, IMAGE_READERS)
    if media_type == JSON and len(body) <= INLINE_JSON_BYTES:
        plain = read_plain_json_images(body, options)
        if plain is not None:
            return plain
    reader = IMAGE_READERS[media_type]
    if _is_slow(media_type, body, options):
        return await in_thread(decoders, options.deadline, NOT_DECODED, reader, body, options)
    return reader(body, options)


def quick_reader(options: ImageOptions) -> Callable[[bytes], Pixels | None]:
    """Reads the images in a body at once, or gives None if that would take long or there is
    something to warn of.

    Errors as in `read_images`, except that the body's type may be found out by the reader.
    """
    declared = options.content_type.partition(";")[0].strip().lower()
    if declared == JSON:
        return partial(read_plain_json_images, options=options)

    def read(body: bytes) -> Pixels | None:
        media_type = _media_type(body, options.content_type, IMAGE_READERS)
        if media_type == JSON:
            return read_plain_json_images(body, options)
        if _is_slow(media_type, body, options):
            return None
        pixels = IMAGE_READERS[media_type](body, options)
        if options.warnings:  # whose answer is not a usual one
            options.warnings.clear()
            return None
        return pixels

    return read


async def read_latents(
    body: bytes,
    content_type: str,
    options: LatentOptions,
    decoders: Executor | None = None,
    deadline: float = math.inf,
) -> Latents:
    """The latents in a body, or drawn from the prior if it asks for that, (N, D).

    Errors as in `read_images`.
    """
    media_type = _media_type(body, content_type, LATENT_READERS)
    reader = LATENT_READERS[media_type]
    if media_type == JSON and len(body) > INLINE_JSON_BYTES:
        return await in_thread(
            decoders, deadline, "the latents were not read", reader, body, options
        )
    return reader(body, options)


async def write(
    accepted: str, result: Result, writers: Executor | None = None, deadline: float = math.inf
) -> Response:
    """The response in the negotiated type, written by `writers` if that takes long.

    Raises `TimeoutError` at `deadline`.
    """
    if result.warnings:
        return await _write_with_warnings(accepted, result, writers, deadline)
    if accepted in PICTURES:
        return await in_thread(None, deadline, NOT_WRITTEN, WRITERS[accepted], result)
    inline_numbers, write_large = LARGE_WRITERS[accepted]
    if result.array.size > inline_numbers:
        return await in_thread(writers, deadline, NOT_WRITTEN, write_large, result)
    return WRITERS[accepted](result)


async def _write_with_warnings(
    accepted: str, result: Result, writers: Executor | None, deadline: float
) -> Response:
    """As `write`: the warnings are a field of the JSON object, or a header as a JSON list."""
    warnings = list(result.warnings)
    fields = {**result.fields, "warnings": warnings}
    response = await write(accepted, result._replace(fields=fields, warnings=()), writers, deadline)
    if accepted != JSON:
        response.headers[WARNINGS_HEADER] = json.dumps(warnings)  # ASCII, as headers have to be
    return response


def _media_type(body: bytes, content_type: str, readers: Mapping[str, object]) -> str:
    """The body's type, recognized by its first bytes if the Content-Type does not say it.

    Raises `BadBodyError` for an empty body, and `UnsupportedTypeError`.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if not body:
        raise BadBodyError("the body is empty")
    if media_type in UNSPECIFIC:
        start = body[:64].removeprefix(BOM).lstrip()
        media_type = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "")
    if media_type in readers:
        return media_type
    if (alias := ALIASES.get(media_type)) in readers:
        return str(alias)
    declared = content_type.partition(";")[0].strip()
    raise UnsupportedTypeError(_why_not_read(body, declared, readers))


def _why_not_read(body: bytes, declared: str, readers: Mapping[str, object]) -> str:
    """`declared` is the Content-Type, without parameters; it may be empty."""
    read = f"this route reads {', '.join(readers)}"
    name = what_it_is(body)
    stated = f"Content-Type is {declared[:64]!r}" if declared else "there is no Content-Type"
    if declared and declared.lower() not in UNSPECIFIC:
        return f"{stated}, {read}" + (f"; by the body's bytes {name}" if name else "")
    if name:
        return f"{stated}, and by the body's bytes {name}; {read}"
    return f"{stated} and the body's type was not recognized, {read}"


def _is_slow(media_type: str, body: bytes, options: ImageOptions) -> bool:
    """Whether reading would block the event loop noticeably."""
    if media_type in (RAW, NPY):
        return False  # nothing is decoded
    if media_type == JSON and len(body) <= INLINE_JSON_BYTES:
        # The keys and the dtype account for this many quotation marks. If there are more, there
        # are base64 files.
        return body.count(b'"') != (6 if b'"dtype"' in body else 2)
    if media_type not in FILES or len(body) > INLINE_FILE_BYTES:
        return True
    try:
        width, height = open_image(body, max_pixels=options.max_image_pixels).size
    except ImageError:
        return False  # the reader fails just as fast, with a better message
    return width * height > INLINE_PIXELS
