"""Sheets of images as PNG."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from typing import Final, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from service.codecs import png
from service.codecs.arrays import unit_pixels
from service.codecs.png import picture_bytes, sheet_sides, write_png
from service.codecs.responses import MapDrawing, Result
from service.errors import InvalidContentError

Style = Literal["errors", "tint", "contour"]

STYLES: Final[tuple[Style, ...]] = ("errors", "tint", "contour")


def sheet(images: NDArray[np.float32], scale: int, max_pixels: int) -> Response:
    answer = Result(fields={}, array=images, drawable=True, scale=scale, max_png_pixels=max_pixels)
    return write_png(answer)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", range(1, 11))
def test_a_sheet_shows_each_image_in_its_place(n: int, channels: int) -> None:
    images = np.random.default_rng(n).random((n, channels, 4, 5), dtype=np.float32)
    answer = sheet(images, 2, 10_000)
    with Image.open(BytesIO(bytes(answer.body))) as image:
        assert image.format == "PNG"
        grid = np.asarray(image).reshape(image.height, image.width, channels)
    columns = grid.shape[1] // 10
    rows = grid.shape[0] // 8
    assert (rows - 1) * columns < n <= rows * columns
    assert rows <= columns <= rows + 1, "near-square"
    for i in range(n):
        row, column = divmod(i, columns)
        tile = grid[row * 8 : row * 8 + 8, column * 10 : column * 10 + 10]
        expected = images[i].transpose(1, 2, 0).repeat(2, axis=0).repeat(2, axis=1)
        assert np.abs(tile - 255 * expected).max() <= 0.5 + 1e-3


def test_the_ends_of_the_range_are_black_and_white() -> None:
    images = np.array([0, 1], dtype=np.float32).repeat(20).reshape(2, 1, 4, 5)
    with Image.open(BytesIO(bytes(sheet(images, 1, 100).body))) as image:
        assert image.getextrema() == (0, 255)


def test_a_sheet_too_large_is_refused() -> None:
    images = np.zeros((4, 1, 4, 5), dtype=np.float32)
    sheet(images, 1, 80)
    with pytest.raises(InvalidContentError, match=r"4 images at scale 1.*10 × 8.*79"):
        sheet(images, 1, 79)
    with pytest.raises(InvalidContentError, match=r"^1 image at scale 2 "):
        sheet(images[:1], 2, 79)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 17])
@pytest.mark.parametrize("drawn_pixels", [1, 20, 41, 10_000])
def test_images_drawn_in_any_parts_make_the_same_sheet(
    n: int, drawn_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time, two of a row, and a whole row."""
    numbers = np.random.default_rng(n)
    pixels = numbers.integers(0, 256, (n, 60), dtype=np.uint8)
    maps = numbers.random((n, 3, 4, 5), dtype=np.float32)
    for style in STYLES:
        found = []
        for limit in (drawn_pixels, 1 << 20):
            monkeypatch.setattr(png, "DRAWN_PIXELS", limit)
            result = Result({}, maps, drawing=MapDrawing(pixels, style), max_png_pixels=10_000)
            found.append(bytes(write_png(result).body))
        assert found[0] == found[1]


@pytest.mark.parametrize("style", STYLES)
def test_bytes_and_floats_of_an_image_are_drawn_alike(style: Style) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 60), dtype=np.uint8)
    maps = np.random.default_rng(1).random((4, 3, 4, 5), dtype=np.float32)
    bodies = {
        bytes(write_png(Result({}, maps, drawing=drawing, max_png_pixels=10_000)).body)
        for drawing in (
            MapDrawing(pixels, style),
            MapDrawing(unit_pixels(pixels), style),
        )
    }
    assert len(bodies) == 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("channels", [1, 3])
def test_drawing_takes_little_beside_the_sheet(channels: int, style: Style) -> None:
    """All images at once, in doubles, took 50 to 90 bytes for each pixel."""
    n, side = 16, 256  # each of them as many pixels as are drawn at a time
    maps = np.zeros((n, channels, side, side), np.float32)
    pixels = np.zeros((n, channels * side * side), np.uint8)
    result = Result({}, maps, drawing=MapDrawing(pixels, style), max_png_pixels=1 << 30)
    tracemalloc.start()
    try:
        write_png(result)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sheet = 3 * n * side * side
    assert peak < 2 * sheet + 70 * png.DRAWN_PIXELS


@pytest.mark.parametrize(("channels", "of_map"), [(1, False), (1, True), (3, False), (3, True)])
def test_what_a_picture_takes_is_known_before_it_is_made(channels: int, of_map: bool) -> None:
    images = np.zeros((5, channels, 4, 6), np.float32)
    drawing = MapDrawing(np.zeros((5, channels * 24), np.uint8), "tint") if of_map else None
    result = Result({}, images, drawing=drawing, scale=2, max_png_pixels=10_000)
    with Image.open(BytesIO(bytes(write_png(result).body))) as image:
        pixels, bands = image.width * image.height, len(image.getbands())
    assert picture_bytes(result) == pixels * {1: 1, 3: 4}[bands]


def test_the_sides_of_a_sheet() -> None:
    assert sheet_sides(5, (4, 6), 2, 2 * 8 * 3 * 12) == (16, 36)
    with pytest.raises(InvalidContentError, match=r"5 images at scale 2 make 36 × 16 pixels > max"):
        sheet_sides(5, (4, 6), 2, 2 * 8 * 3 * 12 - 1)
