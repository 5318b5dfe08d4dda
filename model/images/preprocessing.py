"""Image files to pixel arrays: the same steps in training and in serving.

Needs Pillow and numpy, and knows neither torch nor HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images.actions import actions
from model.images.bit_depth import BitDepthError, load_deep
from model.images.formats import READ, is_read, name_of
from model.images.pixel_parts import PartsError, orientation, pixel_parts
from model.images.tiff import (
    HEIGHT,
    ORIENTATION,
    SAMPLES,
    WIDTH,
    TiffError,
    is_tiff,
    open_page,
    read_page,
)

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats that are read. Pillow has forty more, each a parser that could be attacked."""

PILLOW_FORMATS: Final = FORMATS[:-1]
"""Formats that `Image.open` tells apart. `model.images.tiff` opens TIFF."""

RULES: Final = {
    "pixels": "uint8 / 255",
    "alpha": "composited on black",
    "resize": "bicubic, anti-aliased, to the whole image shape",
}
"""How pixels are computed, whatever the network."""

SCALED_JPEG: Final = "JPEG scaled down by libjpeg, to at least twice the image shape"

MIN_OVERSAMPLING: Final = 2
"""A scaled JPEG is decoded to at least this many times the wanted width and height, so that the
resizing after it still averages. On photographs of 12 megapixels no pixel then differs by more
than two levels of 255 from whole decoding; drawings with hard edges differ more."""

MAX_SIDE: Final = 16_383
"""Longest side of an image file, in pixels, as for WebP. No camera exceeds it, and a longer image
is a strip that is useless once resized."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, the transposition that makes an image upright (Exif 2.32, section 4.6.4)."""

TRANSPOSED: Final = (5, 6, 7, 8)
"""Orientations that store rows as columns."""

BACKWARDS: Final = (3, 4, 7, 8)
"""Orientations that store the first row last."""

MIRRORED: Final = (2, 3, 6, 7)
"""Orientations that store the first column last."""

NO_NOTES: Final[list[Note]] = []

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

STRIP_PIXELS: Final = 1 << 18
"""Pixels of a decoded image that are turned and converted at a time. A strip takes a megabyte or
two; for a whole photograph, each intermediate image would take 100 MB."""


class ImageError(ValueError):
    """An image file cannot be used. The message names the value and the limit."""


class Note(Enum):
    """What a person should know of how a file was read."""

    FIRST_PAGE = "the file has several pages, of which the first is read"
    CHANNELS = "the file has further channels, which are not read"
    DARK = "its 16-bit values all stay below 4,096, so the image is almost black"
    NOT_DEEP = "bits is for files with 16-bit samples, and this is not one: bits is ignored"
    ONE_COLOUR = (
        "without its transparency the whole image has one colour, so nothing in it is visible"
    )


class MalformedImageError(ImageError):
    """The bytes are not a complete image of a format in `FORMATS`."""


class ImageTooLargeError(ImageError):
    """The file has more pixels or parts than allowed. Nothing was decoded."""


class ImageBitsError(ImageError):
    """The file has larger samples than fit into as many bits as the caller says."""


class ImageSizeError(ImageError):
    """The image does not have the network's size, and resizing was turned off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How an image file becomes pixels. Stored with the weights, so that a network is served the
    same pixels that it was trained on."""

    scaled_jpeg: bool = False
    """Whether libjpeg scales large JPEG files down by 2, 4 or 8 while it decodes them, which takes
    a quarter to a third of the time. Bundles made before this option have them decoded whole."""

    def to_json(self) -> dict[str, str]:
        """As stored in a bundle."""
        return RULES | ({"decoding": SCALED_JPEG} if self.scaled_jpeg else {})

    @classmethod
    def from_json(cls, content: object) -> Self:
        """Raises `ValueError` for rules that this version does not follow."""
        known = [cls(), cls(scaled_jpeg=True)]
        for preprocessing in known:
            if content == preprocessing.to_json():
                return preprocessing
        expected = " or ".join(repr(preprocessing.to_json()) for preprocessing in known)
        raise ValueError(f"preprocessing is {content!r}, expected {expected}")


WHOLE: Final = Preprocessing()
"""Every file is decoded at its own size."""

SCALED: Final = Preprocessing(scaled_jpeg=True)
"""Large JPEG files are scaled down while they are decoded: for networks trained on image files."""


def open_image(data: bytes, *, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Read the header of an image file. Nothing is decoded yet.

    Of its metadata, `image.info` keeps the `orientation` and the number of `scans` of a JPEG. If
    samples have more than 8 bits, it also has `deep` and how many `significant_bits` the file says
    that those have (or None), and `notes` if there are any.

    Raises `MalformedImageError`, or `ImageTooLargeError` for more than `max_pixels`, a side above
    `MAX_SIDE` or too many parts.
    """
    if "TIFF" in formats:
        if is_tiff(data):
            return _open_tiff(data, max_pixels)
        if formats == ("TIFF",):
            raise MalformedImageError(_why_not_read(data, formats))
    try:
        parts = pixel_parts(data)
    except PartsError as error:
        raise ImageTooLargeError(str(error)) from error
    if parts.size is not None:  # before Pillow, whose WebP decoder allocates all pixels at once
        _check_size(parts.size, max_pixels)
    try:
        decoders = PILLOW_FORMATS if formats == FORMATS else formats
        image = Image.open(BytesIO(parts.data), formats=decoders)
    except Exception as error:
        raise MalformedImageError(_why_not_read(data, formats)) from error
    _check_size(image.size, max_pixels)
    image.info["orientation"] = orientation(parts.exif)
    image.info["scans"] = parts.scans
    if parts.sample_bits > 8:
        image.info["deep"] = True
        image.info["significant_bits"] = parts.significant_bits
    return image


def _open_tiff(data: bytes, max_pixels: int) -> Image.Image:
    if not is_read(name_of(data) or ""):  # raw photos that begin as TIFF
        raise MalformedImageError(_why_not_read(data, FORMATS))
    try:
        page = read_page(data)
        _check_size((page.one(WIDTH), page.one(HEIGHT)), max_pixels)
        image = open_page(page, max_pixels)
    except PartsError as error:
        raise ImageTooLargeError(str(error)) from error
    except TiffError as error:
        raise MalformedImageError(f"the TIFF file cannot be read: {error}") from error
    image.info["orientation"] = page.one(ORIENTATION, 1)
    image.info["scans"] = 0
    image.info["deep"] = page.bits > 8
    image.info["significant_bits"] = page.significant_bits
    image.info["notes"] = [
        *([Note.FIRST_PAGE] if page.has_more_pages else []),
        *([Note.CHANNELS] if page.one(SAMPLES, 1) > len(image.getbands()) else []),
    ]
    return image


def _why_not_read(data: bytes, formats: tuple[str, ...]) -> str:
    """What is wrong with a file that no decoder takes."""
    if not data:
        return "the file is empty"
    name = name_of(data)
    if name is None:
        return f"not an image file; {READ} are read"
    if not is_read(name):
        return f"{name}; {READ} are read"
    own = {"PNG": "a PNG file", "JPEG": "a JPEG file", "WEBP": "a WebP file", "BMP": "a BMP file"}
    if formats != FORMATS and name != own.get(formats[0]):
        return f"{name}, not {own.get(formats[0], 'a TIFF file')}, as its type says"
    return f"{name} that is damaged"


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


def is_scaled(
    image: Image.Image, image_shape: tuple[int, int, int], preprocessing: Preprocessing
) -> bool:
    """Whether `image_to_array` is going to scale a file down while decoding it.

    That holds for JPEG files of which a half is still `MIN_OVERSAMPLING` times as wide and high as
    the image that is wanted.
    """
    width, height = _wanted(image, image_shape)
    large = image.width >= 2 * width and image.height >= 2 * height
    return preprocessing.scaled_jpeg and image.format == "JPEG" and large


def image_to_array(
    image: Image.Image,
    image_shape: tuple[int, int, int],
    *,
    preprocessing: Preprocessing = WHOLE,
    resize: bool = True,
    invert: bool = False,
    bits: int | None = None,
    notes: list[Note] | None = None,
    done: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Decode, turn upright, convert to grey or RGB and resize: (C, H, W) uint8.

    Of an animation or of several pages, the first. `invert` is for dark ink on light paper, if the
    network was trained on the reverse: alpha is then composited on white, otherwise on black.
    `bits`, 8 to 16, says how many bits a 16-bit file uses, see `model.images.bit_depth`. What the
    caller should know is added to `notes`, and each change to `done`, in words.

    Raises `MalformedImageError`, `ImageBitsError` if a sample does not fit into `bits`, or
    `ImageSizeError` if `resize` is false and the size differs.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    orientation = image.info.get("orientation", 1)
    seen = image.size[::-1] if orientation in TRANSPOSED else image.size
    if not resize and seen != (width, height):  # before the work of decoding
        raise ImageSizeError(
            f"image is {seen[0]} × {seen[1]}, the model takes {width} × {height}, and resize=false"
        )
    deep = image.info.get("deep", False)
    noted: list[Note] = image.info.get("notes", NO_NOTES)
    box, stored, deep_bits = None, image.size, 8
    try:
        if is_scaled(image, image_shape, preprocessing):
            box = _scale_down(image, image_shape)
        file_format = image.format
        if deep:
            image, deep_bits, is_dark = load_deep(image, bits)
            noted = [*noted, Note.DARK] if is_dark else noted
        else:
            noted = [*noted, Note.NOT_DEEP] if bits is not None and bits > 8 else noted
            image.load()
        if image.mode == "La":  # of which Pillow's only conversion is this
            image = image.convert("LA")
        flat = _seen(image, orientation, mode, 255 if invert else 0)
    except BitDepthError as error:
        raise ImageBitsError(str(error)) from error
    except Exception as error:  # Pillow's decoders raise a dozen types, all for bad files
        raise MalformedImageError(f"{file_format} file is damaged: {error}") from error
    if notes is not None:
        notes += noted
        if image.has_transparency_data and _hides_what_is_there(image, flat):
            notes.append(Note.ONE_COLOUR)
    if done is not None:
        done += actions(
            stored,
            image,
            mode,
            (width, height),
            orientation=orientation,
            bits=deep_bits,
            invert=invert,
        )
    if flat.size != (width, height):
        flat = flat.resize((width, height), Image.Resampling.BICUBIC, box)
    pixels = np.asarray(flat).reshape(height, width, channels).transpose(2, 0, 1)  # (C, H, W)
    return np.ascontiguousarray(255 - pixels if invert else pixels)


def _scale_down(image: Image.Image, image_shape: tuple[int, int, int]) -> Box:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size.

    Returns the box that the picture takes up in the decoded image, once that is upright. A width
    that the scale does not divide is rounded up: without the box, the far edge would move by up to
    a pixel, and on hard edges the result would differ by 90 levels instead of 26.
    """
    # In its own mode: grey from the luma alone is no faster, and differs for saturated colours.
    drafted = image.draft(None, _wanted(image, image_shape))
    size = image.size
    used = (float(size[0]), float(size[1])) if drafted is None else drafted[1][2:]
    orientation = image.info.get("orientation", 1)
    if orientation in TRANSPOSED:
        size, used = size[::-1], used[::-1]
    left = size[0] - used[0] if orientation in MIRRORED else 0.0
    top = size[1] - used[1] if orientation in BACKWARDS else 0.0
    return left, top, left + used[0], top + used[1]


def _wanted(image: Image.Image, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """The least width and height, as stored, to which a file may be scaled down."""
    _, height, width = image_shape
    if image.info.get("orientation", 1) in TRANSPOSED:
        width, height = height, width
    return width * MIN_OVERSAMPLING, height * MIN_OVERSAMPLING


def _seen(image: Image.Image, orientation: int, mode: str, paper: int) -> Image.Image:
    """A decoded image upright, in 8-bit `mode` and without alpha, with one full copy at most.

    What is transparent lies on `paper`, 0 for black or 255 for white.
    """
    turn = TURNS.get(orientation)
    transposed = orientation in TRANSPOSED
    width, height = image.size[::-1] if transposed else image.size
    is_small = width * height <= STRIP_PIXELS
    if is_small or (turn is None and image.mode == mode and not image.has_transparency_data):
        return _flatten(image if turn is None else image.transpose(turn), mode, paper)
    seen = Image.new(mode, (width, height))
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        first, last = (height - end, height - top) if orientation in BACKWARDS else (top, end)
        strip = image.crop((first, 0, last, width) if transposed else (0, first, width, last))
        if turn is not None:  # orientation 1 has none
            strip = strip.transpose(turn)
        seen.paste(_flatten(strip, mode, paper), (0, top))
    return seen


def _flatten(image: Image.Image, mode: str, paper: int) -> Image.Image:
    """The image in 8-bit `mode`, on `paper` where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGB", image.size, (paper, paper, paper))
        background.paste(image, mask=image.getchannel("A"))
        image = background
    return image if image.mode == mode else image.convert(mode)  # convert() always copies


def _hides_what_is_there(image: Image.Image, flat: Image.Image) -> bool:
    """Whether an image with alpha is all of one colour once that is gone, as black ink on black."""
    return _is_uniform(flat) and not _is_uniform(image, alpha=True)


def _is_uniform(image: Image.Image, *, alpha: bool = False) -> bool:
    """Whether all pixels have the same colour, or the same `alpha`.

    Looks at a strip at a time: as a whole, a photograph would be copied.
    """
    rows = max(1, STRIP_PIXELS // image.width)
    colours = set()
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if alpha:
            strip = strip.convert("RGBA").getchannel("A")
        extrema = [band.getextrema() for band in strip.split()]
        colours.add(tuple(low for low, _ in extrema))
        if len(colours) > 1 or any(low != high for low, high in extrema):
            return False
    return True
