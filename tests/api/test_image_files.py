"""Image files of every kind, through the service: what they show is what is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray
from PIL import Image

from tests.api.helpers import image_file, problem
from tests.api.image_makers import (
    CARRIERS,
    JPEG_NOISE,
    Pixels,
    animated_webp,
    cmyk_jpeg,
    file_of,
    jpeg,
    lossy_webp,
    of_pixels,
    palette,
    palette_with_alphas,
    phone_jpeg,
    progressive_jpeg,
    seen,
    send,
    sixteen_bits,
)


def one_bit(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(Image.fromarray(digit > 127)), (digit > 127) * 255


def palette_of_greys(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """Colour 0 is the lightest."""
    image = Image.fromarray(255 - digit, "L")
    image.putpalette(palette(list(range(255, -1, -1))))
    assert image.mode == "P"
    return file_of(image), digit


def palette_with_a_hole(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """White is transparent: where it was, there is black."""
    image = Image.fromarray(np.where(digit > 127, 1, 0).astype(np.uint8), "L")
    image.putpalette(palette([200, 255]))
    return file_of(image, transparency=1), np.where(digit > 127, 0, 200)


def sixteen_bits_just_below(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """The low byte is cut off, not rounded: 65,535 must not become 256."""
    return file_of(Image.fromarray(digit.astype(np.uint16) * 256 + 255)), digit


def grey_and_alpha(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(
        Image.merge("LA", [Image.new("L", (28, 28), 255), Image.fromarray(digit)])
    ), digit


def colour_and_alpha(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    white = Image.new("L", (28, 28), 255)
    return file_of(Image.merge("RGBA", [white] * 3 + [Image.fromarray(digit)])), digit


def webp_with_alpha(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    white = Image.new("L", (28, 28), 255)
    image = Image.merge("RGBA", [white] * 3 + [Image.fromarray(digit)])
    return file_of(image, "WEBP", lossless=True, exact=True), digit


def invisible(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    ink = Image.fromarray(digit)
    return file_of(Image.merge("LA", [ink, Image.new("L", (28, 28), 0)])), digit * 0


def animated_png(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    others = [Image.new("L", (28, 28), grey) for grey in (255, 0)]
    file = file_of(Image.fromarray(digit), save_all=True, append_images=others)
    assert b"acTL" in file
    return file, digit


def grey_bmp_of_a_palette(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(Image.fromarray(digit), "BMP"), digit


def colour(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """ITU-R 601: what Pillow, and the network's training, mean by grey."""
    red, green, blue = digit, np.roll(digit, 3), 255 - digit
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).round()
    return file_of(Image.fromarray(np.dstack([red, green, blue]))), luma


EXACT = [
    one_bit,
    palette_of_greys,
    palette_with_a_hole,
    palette_with_alphas,
    sixteen_bits,
    sixteen_bits_just_below,
    grey_and_alpha,
    colour_and_alpha,
    webp_with_alpha,
    invisible,
    animated_webp,
    animated_png,
    grey_bmp_of_a_palette,
    colour,
]


@pytest.mark.anyio
@pytest.mark.parametrize("make", EXACT, ids=lambda make: make.__name__)
async def test_a_file_shows_these_greys(
    client: AsyncClient, digit: Pixels, make: Callable[[Pixels], tuple[bytes, NDArray[Any]]]
) -> None:
    file, greys = make(digit)
    # Rounding may be one grey off for colours and alphas.
    tolerance = 0.05 if make in (colour, palette_with_alphas) else 1e-5
    expected = await of_pixels(client, greys)
    assert await seen(client, file) == pytest.approx(expected, abs=tolerance)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "make", [jpeg, progressive_jpeg, cmyk_jpeg, phone_jpeg, lossy_webp], ids=lambda f: f.__name__
)
async def test_a_lossy_file_shows_the_digit(
    client: AsyncClient, digit: Pixels, make: Callable[[Pixels], bytes]
) -> None:
    expected = await of_pixels(client, digit)
    assert await seen(client, make(digit)) == pytest.approx(expected, abs=JPEG_NOISE)


TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x, 2).T,
    8: lambda x: np.rot90(x, -1),
}
"""How a camera held so stores what it sees (Exif 2.3, tag 0x0112)."""


@pytest.mark.anyio
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_a_file_is_turned_as_its_exif_says(
    client: AsyncClient, digit: Pixels, file_format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(TURNS[orientation](digit))
    file = image_file(stored, file_format, exif=exif, quality=98)
    tolerance = JPEG_NOISE if file_format == "JPEG" else 1e-5
    expected = await of_pixels(client, digit)
    assert await seen(client, file) == pytest.approx(expected, abs=tolerance)


@pytest.mark.anyio
@pytest.mark.parametrize("grey", [0, 77, 255])
async def test_one_pixel(client: AsyncClient, grey: int) -> None:
    file = image_file(np.full((1, 1), grey, np.uint8))
    expected = await of_pixels(client, np.full((28, 28), grey))
    assert await seen(client, file) == pytest.approx(expected, abs=1e-5)
    for carrier in CARRIERS:
        answer = await send(client, file, carrier, "?resize=false")
        problem(answer, 422, "1 × 1", "28 × 28")


@pytest.mark.anyio
@pytest.mark.parametrize("size", [(1, 16_383), (16_383, 1), (28, 1), (3_000, 3)])
async def test_a_shape_far_from_square(client: AsyncClient, size: tuple[int, int]) -> None:
    expected = await of_pixels(client, np.full((28, 28), 99))
    assert await seen(client, file_of(Image.new("L", size, 99))) == pytest.approx(
        expected, abs=1e-5
    )
