"""Image files: PNG, JPEG, WebP, BMP and TIFF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter, sleep
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images.preprocessing import (
    FORMATS,
    TRANSPOSED,
    ImageBitsError,
    ImageSizeError,
    ImageTooLargeError,
    MalformedImageError,
    Note,
    image_to_array,
    is_scaled,
    open_image,
)
from service.codecs.hints import file_hint
from service.codecs.offload import PAUSE_S
from service.codecs.options import ImageOptions, Pixels
from service.errors import BadBodyError, InvalidContentError, TooLargeError

FILE_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "image/png": ("PNG",),
    "image/jpeg": ("JPEG",),
    "image/webp": ("WEBP",),
    "image/bmp": ("BMP",),
    "image/tiff": ("TIFF",),
}
"""Formats that are accepted for each Content-Type."""

HINTS: Final[Mapping[Note, str]] = {
    Note.DARK: "; for a 12-bit camera, add ?bits=12",
    Note.ONE_COLOUR: "; ?invert=true is for dark ink on light or transparent paper",
}
"""What a caller can do about a note."""

MAX_WARNINGS: Final = 16
"""Warnings that a request gets, at most."""

FILE_ALIASES: Final[dict[str, str]] = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/jfif": "image/jpeg",
    "image/x-png": "image/png",
    "image/apng": "image/png",
    "image/vnd.mozilla.apng": "image/png",
    "image/x-webp": "image/webp",
    "image/x-bmp": "image/bmp",
    "image/x-ms-bmp": "image/bmp",
    "image/x-windows-bmp": "image/bmp",
    "image/tif": "image/tiff",
    "image/x-tif": "image/tiff",
    "image/x-tiff": "image/tiff",
}
"""Other names of the same types, which programs still send."""

MAX_SIZE_IMAGES: Final = 10
"""All files of a request together may have as many pixels as this number of images of the maximum
size. It limits the time to decode them to some seconds."""

SCALED_SHARE: Final = 2
"""So many pixels count as one in a JPEG that is scaled down while it is decoded. We measured 4 ns a
pixel of the file for a photograph and 11 ns for noise, and for whole decoding 13 and 25 ns."""

NOT_DECODED: Final = "the images were not decoded"
"""Error detail when the deadline passes."""

TURN_S: Final = 0.0005
"""Time to decode before pausing so that other threads can run. Pillow releases the GIL for each
file, but takes it back before other threads wake up: without a pause the event loop waited 100 ms
for it."""


def read_file_image(body: bytes, options: ImageOptions) -> Pixels:
    """One image file, as (1, C·H·W) pixels."""
    media_type = options.content_type.partition(";")[0].strip().lower()
    formats = FILE_FORMATS.get(FILE_ALIASES.get(media_type, media_type), FORMATS)
    return FileDecoder(options).decode(body, formats=formats)[None]


class FileDecoder:
    """Decodes the image files of one request, within the request's pixel limit and deadline."""

    def __init__(self, options: ImageOptions) -> None:
        self._options = options
        self._pixels_left = MAX_SIZE_IMAGES * options.max_image_pixels
        self._turn_began = math.inf

    def decode(
        self, data: bytes, index: int | None = None, formats: tuple[str, ...] = FORMATS
    ) -> NDArray[np.uint8]:
        """Decode one file to (C·H·W,) pixels.

        `index` is its position if the request may have several. `formats` are the Pillow formats
        that it may have. Raises `TooLargeError`, `InvalidContentError`, `BadBodyError`, or
        `TimeoutError` at the deadline.
        """
        options = self._options
        where = "" if index is None else f"images[{index}]: "
        now = perf_counter()
        if now > options.deadline:
            raise TimeoutError(NOT_DECODED)
        if self._turn_began == math.inf:  # no pause before the first: it may be on the event loop
            self._turn_began = now
        elif now > self._turn_began + TURN_S:
            sleep(PAUSE_S)
            self._turn_began = perf_counter()
        try:
            image = open_image(data, max_pixels=options.max_image_pixels, formats=formats)
            self._pixels_left -= self._counted_pixels(image)
            if self._pixels_left < 0:
                limit = MAX_SIZE_IMAGES * options.max_image_pixels
                raise TooLargeError(
                    f"{where}the request's files up to this one count as "
                    f"{limit - self._pixels_left:,} pixels > maximum {limit:,}"
                )
            notes: list[Note] = []
            done = None if options.files is None else self._report(image, index or 0)
            pixels = image_to_array(
                image,
                options.shape,
                preprocessing=options.preprocessing,
                resize=options.resize,
                invert=options.invert,
                bits=options.bits,
                notes=notes,
                done=done,
            ).reshape(-1)
            if notes:
                self._warn(where, notes)
            return pixels
        except ImageTooLargeError as error:
            raise TooLargeError(f"{where}{error}") from error
        except (ImageSizeError, ImageBitsError) as error:
            loc = ("body",) if index is None else ("body", "images", index)
            raise InvalidContentError(f"{where}{error}", loc) from error
        except MalformedImageError as error:
            raise BadBodyError(f"{where}{error}{file_hint(data, options.content_type)}") from error

    def _report(self, image: Image.Image, index: int) -> list[str]:
        """Begin a file's report, before it is decoded. Returns where to add what is done to it."""
        assert self._options.files is not None  # noqa: S101 - for mypy
        orientation: int = image.info["orientation"]
        width, height = image.size[::-1] if orientation in TRANSPOSED else image.size
        done: list[str] = []
        self._options.files[index] = {
            "format": str(image.format),
            "width": width,
            "height": height,
            "mode": image.mode,
            "orientation": orientation,
            "actions": done,
        }
        return done

    def _warn(self, where: str, notes: list[Note]) -> None:
        warnings = self._options.warnings
        for note in notes:
            # With alpha on white, other ink is hidden, and inverting is no advice.
            hint = "" if note is Note.ONE_COLOUR and self._options.invert else HINTS.get(note, "")
            warnings.append(f"{where}{note.value}{hint}")
        if len(warnings) > MAX_WARNINGS:
            warnings[MAX_WARNINGS - 1 :] = ["there are more warnings, which are left out"]

    def _counted_pixels(self, image: Image.Image) -> int:
        """What a file counts towards the limit on all pixels of a request."""
        pixels = image.width * image.height
        # Several scans, as in a progressive JPEG, take as long as whole decoding of one.
        one_scan = image.info["scans"] <= 1
        if one_scan and is_scaled(image, self._options.shape, self._options.preprocessing):
            return pixels // SCALED_SHARE
        return pixels
