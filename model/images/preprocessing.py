"""Image files to pixel arrays: the same steps when training and when serving.

Knows Pillow and numpy, and neither torch nor HTTP.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images.parts import PartsError, orientation, pixel_parts

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP")
"""Formats that are read. Pillow knows forty more, each a parser that nobody here needs."""

PREPROCESSING: Final[dict[str, str]] = {
    "pixels": "uint8 / 255",
    "alpha": "composited on black",
    "resize": "bicubic, anti-aliased, to the whole image shape",
}
"""How pixels are made. Travels with the weights, so a bundle made by other rules is noticed."""

MAX_SIDE: Final = 16_383
"""Of an image file, in pixels: as many as a WebP can have. No camera makes more, and what is longer
is a strip, of which no resizing makes an image."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, what makes what is stored what was seen (Exif 2.32, section 4.6.4)."""

LYING: Final = (5, 6, 7, 8)
"""Orientations whose rows are stored as columns."""

BACKWARDS: Final = (3, 4, 7, 8)
"""Orientations whose first row is stored last."""

STRIP_PIXELS: Final = 1 << 18
"""Of a decoded image, turned and made grey or RGB at a time. A strip takes a megabyte or two; of a
large photograph, each step between would take 100 MB."""


class ImageError(ValueError):
    """An image file cannot be used. The message names the value and the limit."""


class MalformedImageError(ImageError):
    """The bytes are no whole image of a format in `FORMATS`."""


class ImageTooLargeError(ImageError):
    """The file has more pixels, or parts, than the limit; nothing was decoded."""


class ImageSizeError(ImageError):
    """The image has another size than the network's, and resizing was not wanted."""


def open_image(data: bytes, *, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Read the header of an image file and refuse it there if it is too large.

    Of its metadata only the orientation is left. Raises `MalformedImageError` or
    `ImageTooLargeError`.
    """
    try:
        parts = pixel_parts(data)
    except PartsError as error:
        raise ImageTooLargeError(str(error)) from error
    if parts.size is not None:  # before Pillow, as its WebP decoder takes memory for all pixels
        _check_size(parts.size, max_pixels)
    try:
        image = Image.open(BytesIO(parts.data), formats=formats)
    except Exception as error:
        known = f"known formats are {', '.join(FORMATS)}"
        what = "an image file" if formats == FORMATS else f"a {formats[0]} file, as its type says"
        raise MalformedImageError(f"not {what}; {known}") from error
    _check_size(image.size, max_pixels)
    image.info["orientation"] = orientation(parts.exif)
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"image has {width} × {height} = {width * height:,} pixels > maximum {max_pixels:,}"
        )
    if max(size) > MAX_SIDE:
        raise ImageTooLargeError(
            f"image is {width} × {height}, its longer side > maximum {MAX_SIDE:,}"
        )


def image_to_array(
    image: Image.Image,
    image_shape: tuple[int, int, int],
    *,
    resize: bool = True,
    invert: bool = False,
) -> NDArray[np.uint8]:
    """Decode, turn by EXIF orientation, make grey or RGB, resize; (C, H, W) uint8.

    An animation gives its first frame. `invert` is for dark ink on light paper, where the network
    was trained on the reverse. Raises `MalformedImageError`, or `ImageSizeError` when `resize` is
    false and the size differs.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    orientation = image.info.get("orientation", 1)
    seen = image.size[::-1] if orientation in LYING else image.size
    if not resize and seen != (width, height):  # before the work of decoding it
        raise ImageSizeError(
            f"image is {seen[0]} × {seen[1]}, the model takes {width} × {height}, and resize=false"
        )
    try:
        image.load()
        flat = _seen(image, orientation, mode)
    except Exception as error:  # Pillow's decoders raise a dozen types; each is the file's fault.
        raise MalformedImageError(f"{image.format} file is damaged: {error}") from error
    if flat.size != (width, height):
        flat = flat.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(flat).reshape(height, width, channels).transpose(2, 0, 1)  # (C, H, W)
    return np.ascontiguousarray(255 - pixels if invert else pixels)


def _seen(image: Image.Image, orientation: int, mode: str) -> Image.Image:
    """A decoded image turned, in 8-bit `mode` and without alpha: one copy of it at most."""
    turn = TURNS.get(orientation)
    lying = orientation in LYING
    width, height = image.size[::-1] if lying else image.size
    few = width * height <= STRIP_PIXELS
    if few or (turn is None and image.mode == mode and not image.has_transparency_data):
        return _flatten(image if turn is None else image.transpose(turn), mode)
    seen = Image.new(mode, (width, height))
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        first, last = (height - end, height - top) if orientation in BACKWARDS else (top, end)
        strip = image.crop((first, 0, last, width) if lying else (0, first, width, last))
        if turn is not None:  # the first of them is 0
            strip = strip.transpose(turn)
        seen.paste(_flatten(strip, mode), (0, top))
    return seen


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """To 8-bit `mode`, without alpha."""
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip instead of scale.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert(
            mode
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGB", image.size)
        background.paste(image, mask=image.getchannel("A"))
        image = background
    return image if image.mode == mode else image.convert(mode)  # which would copy it
