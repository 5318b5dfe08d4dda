"""Image files: PNG, JPEG, WebP and BMP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter, sleep
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.images.preprocessing import (
    FORMATS,
    ImageSizeError,
    ImageTooLargeError,
    MalformedImageError,
    image_to_array,
    open_image,
)
from service.codecs.offload import PAUSE_S
from service.codecs.options import ImageOptions, Pixels
from service.errors import BadBodyError, InvalidContentError, TooLargeError

FILE_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "image/png": ("PNG",),
    "image/jpeg": ("JPEG",),
    "image/webp": ("WEBP",),
    "image/bmp": ("BMP",),
}
"""What a body may be that is said to be such a file."""

REQUEST_PIXELS: Final = 10
"""Pixels that the files of one request may have together, in largest images: a bound on the time
that decoding takes, some seconds."""

NOT_DECODED: Final = "the images were not decoded"
"""Said when the deadline passes."""

TURN_S: Final = 0.0005
"""Of decoding, after which others get a turn. Pillow gives the interpreter away for each file and
has it back before they wake: without a pause the event loop waited 100 ms for it."""


def read_file_image(body: bytes, wanted: ImageOptions) -> Pixels:
    """One image file."""
    named = wanted.content_type.partition(";")[0].strip().lower()
    return FileDecoder(wanted).decode(body, formats=FILE_FORMATS.get(named, FORMATS))[None]


class FileDecoder:
    """Decodes the image files of one request, within what one request may take."""

    def __init__(self, wanted: ImageOptions) -> None:
        self._wanted = wanted
        self._pixels_left = REQUEST_PIXELS * wanted.max_image_pixels
        self._turn_began = math.inf

    def decode(
        self, data: bytes, index: int | None = None, formats: tuple[str, ...] = FORMATS
    ) -> NDArray[np.uint8]:
        """One file, (C·H·W,); `index` is its place if there may be several."""
        wanted = self._wanted
        where = "" if index is None else f"images[{index}]: "
        now = perf_counter()
        if now > wanted.deadline:
            raise TimeoutError(NOT_DECODED)
        if self._turn_began == math.inf:  # the first one, which may be on the event loop
            self._turn_began = now
        elif now > self._turn_began + TURN_S:
            sleep(PAUSE_S)
            self._turn_began = perf_counter()
        try:
            image = open_image(data, max_pixels=wanted.max_image_pixels, formats=formats)
            self._pixels_left -= image.width * image.height
            if self._pixels_left < 0:
                limit = REQUEST_PIXELS * wanted.max_image_pixels
                raise TooLargeError(
                    f"{where}with it the request's files have {limit - self._pixels_left:,} pixels "
                    f"> maximum {limit:,}"
                )
            return image_to_array(
                image, wanted.shape, resize=wanted.resize, invert=wanted.invert
            ).reshape(-1)
        except ImageTooLargeError as error:
            raise TooLargeError(f"{where}{error}") from error
        except ImageSizeError as error:
            loc = ("body",) if index is None else ("body", "images", index)
            raise InvalidContentError(f"{where}{error}", loc) from error
        except MalformedImageError as error:
            raise BadBodyError(f"{where}{error}") from error
