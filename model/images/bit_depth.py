"""16-bit samples to 8 bits, by one rule for every format.

Samples that are stored in 16 bits may use fewer. Cameras of microscopes write 12-bit values, which
as 16 bits are all but black. They are read as fewer bits

- if the caller says so;
- if a TIFF packs 12 bits, or its MaxSampleValue is 4095 (or another 2ⁿ − 1);
- if a PNG's sBIT chunk says so and its samples are not scaled up to 16 bits, as PNG demands.

Otherwise they are taken as 16 bits. The lowest bits are cut off, not rounded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

MIN_BITS, MAX_BITS = 8, 16

DARK: Final = 1 << 12
"""A 16-bit file without any value as large as this is black as 16 bits, or almost."""

STRIP_SAMPLES: Final = 1 << 18
"""Samples of 16 bits that are converted at a time."""


class Layout(NamedTuple):
    """How Pillow gives the bytes of 16-bit samples of several channels."""

    raw_mode: str
    """As which it gives the low bytes, in the same mode as the high ones."""
    high: tuple[int, ...]
    """The channels of the high bytes."""
    low: tuple[int, ...]
    colours: int
    """How many of the channels are colours, and not alpha."""


CHANNELS: Final = {"RGB": (0, 1, 2), "RGBX": (0, 1, 2), "RGBA": (0, 1, 2, 3)}

LAYOUTS: Final = {
    "LA;16B": Layout("RGBA", (0, 3), (1, 3), 1),
    **{
        f"{mode};16{order}": Layout(f"{mode};16{reverse}", channels, channels, 3)
        for mode, channels in CHANNELS.items()
        for order, reverse in ("BL", "LB", "NL" if sys.byteorder == "big" else "NB")
    },
}
"""By the raw mode with which Pillow opens a file, which drops the low bytes. Read in the reverse
byte order, the low bytes of numbers are the high ones. Big-endian (B) are PNG and some TIFFs,
native (N) what libtiff has decompressed. Grey with alpha has four bytes, as 8-bit RGBA has."""


class BitDepthError(ValueError):
    """The samples are not of as many bits as the caller says. The message names both."""


def load_deep(image: Image.Image, bits: int | None) -> tuple[Image.Image, int, bool]:
    """Decode an image of 16-bit samples to 8 bits. Also returns as how many bits they were read,
    and whether it looks `DARK`.

    `bits`, 8 to 16, is what the caller says, and `image.info["significant_bits"]` what the file
    says, or None. Raises `BitDepthError` for larger samples than `bits` have, and whatever Pillow
    raises.
    """
    image, chosen, largest = _load(image, bits, image.info["significant_bits"])
    is_dark = bits is None and chosen == 16 and max(largest) > 0 and max(largest) < DARK
    return image, chosen, is_dark


def _load(
    image: Image.Image, bits: int | None, tagged: int | None
) -> tuple[Image.Image, int, list[int]]:
    """The image, the number of bits that its samples were read as, and the largest sample of each
    colour."""
    if not isinstance(image, ImageFile.ImageFile) or not isinstance(image.fp, BytesIO):
        raise TypeError("the image was not opened by open_image, or is decoded already")
    data, raw_mode = image.fp.getvalue(), _raw_mode(image.tile[0].args)
    image.load()
    transparent = image.info.get("transparency")
    layout = LAYOUTS.get(raw_mode)
    if layout is None:  # grey, which Pillow keeps in 16 bits
        low, channels, colours = None, 1, 1
    else:
        channels, colours = len(layout.high), layout.colours
        high = [top << 8 | 0xFF for top in _largest_bytes(image)[:colours]]
        is_sixteen = bits == 16 or (bits is None and max(high) >= 1 << max(tagged or 8, 8))
        if is_sixteen and transparent is None:
            return image, 16, high
        low = _low_bytes(type(image)(BytesIO(data)), layout)
    strips = partial(_strips, image, low, layout)
    largest = np.max([_largest(strip) for strip in strips()], axis=0).tolist()
    colour_strips = (strip[..., :colours] for strip in strips())
    if tagged and image.format == "PNG" and all(_is_scaled(s, tagged) for s in colour_strips):
        tagged = None
    chosen = _choose(bits, tagged, max(largest[:colours]))
    shape = (image.height, image.width, channels)
    eight = _eight_bits(strips(), shape, _shifts(largest, colours, chosen))
    found = Image.fromarray(eight[..., 0] if channels == 1 else eight)
    if isinstance(transparent, int | tuple):
        key = np.array(transparent, np.uint16)
        seen = np.concatenate([(strip != key).any(axis=2) for strip in strips()])
        found.putalpha(Image.fromarray(seen.astype(np.uint8) * np.uint8(255)))
    return found, chosen, largest[:colours]


def _choose(bits: int | None, tagged: int | None, largest: int) -> int:
    """The number of bits that the samples are read as. `largest` is the largest sample."""
    if bits is not None:
        if largest >= 1 << bits:
            raise BitDepthError(
                f"its largest value is {largest:,}, and {bits} bits hold {(1 << bits) - 1:,} at "
                "most"
            )
        return bits
    return tagged if tagged is not None and largest < 1 << tagged else 16


def _shifts(largest: Sequence[int], colours: int, bits: int) -> NDArray[np.uint16]:
    """How many bits are cut off each channel. Alpha may use all bits where the colours do not."""
    alpha_bits = [bits if alpha < 1 << bits else 16 for alpha in largest[colours:]]
    return np.array([*[bits] * colours, *alpha_bits], np.uint16) - np.uint16(8)


def _largest(samples: NDArray[np.uint16]) -> list[int]:
    """Of each channel."""
    largest: list[int] = samples.max(axis=(0, 1)).tolist()
    return largest


def _largest_bytes(image: Image.Image) -> list[int]:
    """Of each channel."""
    return [int(band.getextrema()[1]) for band in image.split()]  # type: ignore[arg-type]


def _eight_bits(
    strips: Iterable[NDArray[np.uint16]], shape: Sequence[int], shifts: NDArray[np.uint16]
) -> NDArray[np.uint8]:
    """Rows of samples one after another, (H, W, channels), without their lowest bits."""
    found = np.empty(shape, np.uint8)
    rows = max(1, STRIP_SAMPLES // shape[1])
    at = 0
    for strip in strips:
        for top in range(0, len(strip), rows):
            part = strip[top : top + rows]
            found[at : at + len(part)] = part >> shifts
            at += len(part)
    return found


def _is_scaled(samples: NDArray[np.uint16], bits: int) -> bool:
    """Whether samples of `bits` are scaled to 16: the bits below them are 0, or the highest."""
    low = samples & np.uint16((1 << (16 - bits)) - 1)
    return bool((low == 0).all() or (low == samples >> bits).all())


def _raw_mode(args: tuple[Any, ...] | str | None) -> str:
    return str(args[0] if isinstance(args, tuple) else args)


def _low_bytes(image: ImageFile.ImageFile, layout: Layout) -> Image.Image:
    for number, tile in enumerate(image.tile):
        more = tile.args[1:] if isinstance(tile.args, tuple) else None
        args = layout.raw_mode if more is None else (layout.raw_mode, *more)
        image.tile[number] = tile._replace(args=args)
    image.load()
    return image


def _strips(
    image: Image.Image, low: Image.Image | None, layout: Layout | None
) -> Iterator[NDArray[np.uint16]]:
    """The 16-bit samples of some rows at a time, (rows, W, channels): grey, or joined from the
    image's high bytes and `low`."""
    rows = max(1, STRIP_SAMPLES // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        samples = np.asarray(image.crop(box))
        if low is None or layout is None:
            yield samples[..., None]
        else:
            high_bytes = samples[..., list(layout.high)].astype(np.uint16)
            yield high_bytes << np.uint16(8) | np.asarray(low.crop(box))[..., list(layout.low)]
