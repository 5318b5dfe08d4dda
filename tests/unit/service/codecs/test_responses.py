"""Results to answers."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from service.codecs import responses as writers
from service.codecs.png import write_png
from service.codecs.responses import (
    ChunkedResponse,
    Result,
    json_response,
    without_grey_channel,
    write_json,
    write_large_json,
    write_large_npy,
    write_large_raw,
    write_npy,
    write_raw,
)
from service.errors import InvalidContentError


def sheet(images: NDArray[np.float32], scale: int, max_pixels: int) -> Response:
    answer = Result(fields={}, array=images, drawable=True, scale=scale, max_png_pixels=max_pixels)
    return write_png(answer)


def test_json_takes_arrays_however_they_lie_in_memory() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"whole": array, "columns": array[:, :2], "turned": array.T, "back": array[::-1]}
    answer = orjson.loads(bytes(json_response(views).body))
    assert answer == {name: view.tolist() for name, view in views.items()}


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


def test_a_channel_of_its_own_is_left_out() -> None:
    assert without_grey_channel(np.zeros((2, 1, 4, 5), dtype=np.float32)).shape == (2, 4, 5)
    assert without_grey_channel(np.zeros((2, 3, 4, 5), dtype=np.float32)).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("write", "write_large"), [(write_npy, write_large_npy), (write_raw, write_large_raw)]
)
def test_large_arrays_are_the_same_in_pieces(
    write: Callable[[Result], Response],
    write_large: Callable[[Result], ChunkedResponse],
    channels: int,
    uint8: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writers, "PIECE_BYTES", 10)
    images = np.random.default_rng(0).random((7, 2, 3, channels), dtype=np.float32)
    answer = Result(fields={}, array=images.transpose(0, 3, 1, 2), drawable=True, uint8=uint8)
    large, small = write_large(answer), write(answer)
    assert len(large.pieces) > 3
    assert b"".join(large.pieces) == small.body
    assert large.headers == small.headers


def test_large_json_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PIECE_NUMBERS", 10)
    images = np.random.default_rng(0).random((7, 2, 3), dtype=np.float32)
    fields = {
        "model": 'a "name"',
        "images": images,
        "mse": images[:, 0, 0],
        "turned": images.T,
        "none": None,
    }
    answer = Result(fields=fields, array=images)
    large, small = write_large_json(answer), write_json(answer)
    assert b"".join(large.pieces) == small.body
    assert large.headers == small.headers
