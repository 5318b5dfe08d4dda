"""Sheets of images as PNG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from service.codecs.png import write_png
from service.codecs.responses import Result
from service.errors import InvalidContentError


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
