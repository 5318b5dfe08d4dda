"""Reader for multipart/form-data: forms of image files."""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from typing import Final

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.codecs.image_files import FileDecoder
from service.codecs.options import ImageOptions, Pixels
from service.errors import BadBodyError, InvalidContentError, TooLargeError

IMAGES_PART: Final = b"images"
"""The name that every part must have."""


def read_multipart_images(body: bytes, options: ImageOptions) -> Pixels:
    """The images of a form whose parts, all named `images`, are image files."""
    files = multipart_files(
        body, options.content_type, options.max_images, query_names=options.query_names
    )
    decoder = FileDecoder(options)
    return np.stack([decoder.decode(data, index) for index, data in enumerate(files)])


def multipart_files(
    body: bytes, content_type: str, max_files: int, query_names: Collection[str] = ()
) -> list[bytes]:
    """The contents of a form's parts, in order. `query_names` are parameters that some callers
    put there.

    Raises `BadBodyError`, `InvalidContentError` or `TooLargeError`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadBodyError(
            f"Content-Type {content_type[:128]!r} has no boundary: leave the "
            "header to the client that makes the form, as fetch and curl -F do if it is not set"
        )
    files: list[bytes] = []
    header: dict[str, bytes] = {}
    name, value, content = bytearray(), bytearray(), BytesIO()
    ended = False

    def end_header() -> None:
        header[name.decode("latin-1").lower()] = bytes(value)
        name.clear()
        value.clear()

    def end_headers() -> None:
        part = parse_options_header(header.get("content-disposition", b""))[1].get(b"name", b"")
        if part != IMAGES_PART:
            shown = part.decode("utf-8", "replace")[:64]
            hint = f"; {shown} goes into the query: ?{shown}=…" if shown in query_names else ""
            raise InvalidContentError(
                f"the form has a part named {shown!r}, expected 'images'{hint}", ("body",)
            )

        if header.get("content-type", b"").lower().startswith(b"multipart/"):
            raise InvalidContentError(
                "the form has several files in one part; each takes its own: curl -F images=@A "
                "-F images=@B",
                ("body",),
            )

    def part_data(data: bytes, start: int, stop: int) -> None:
        content.write(data[start:stop])

    def end_part() -> None:
        nonlocal content
        files.append(content.getvalue())
        content = BytesIO()
        header.clear()
        if len(files) > max_files:
            raise TooLargeError(f"more images in one request than the maximum of {max_files:,}")

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
                "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
                "on_header_end": end_header,
                "on_headers_finished": end_headers,
                "on_part_data": part_data,
                "on_part_end": end_part,
                "on_end": end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadBodyError(f"the body is not multipart/form-data: {error}") from error
    if not ended:
        raise BadBodyError("the multipart body is cut short: its closing boundary is missing")
    if not files:
        raise InvalidContentError("images is missing: the form has no parts", ("body", "images"))
    return files
