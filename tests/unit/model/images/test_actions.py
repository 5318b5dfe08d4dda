"""What is said to be done to a file is what is done."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.images.actions import TURNED
from model.images.preprocessing import SCALED, TURNS, Preprocessing, image_to_array, open_image
from tests.tiff_files import tiff_file

MEANINGS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "mirrored left to right": np.fliplr,
    "mirrored top to bottom": np.flipud,
    "turned by 180°": lambda x: np.rot90(x, 2),
    "turned by 90° clockwise": lambda x: np.rot90(x, -1),
    "turned by 90° counterclockwise": np.rot90,
}


def done_to(
    image: Image.Image | bytes,
    shape: tuple[int, int, int] = (1, 28, 28),
    file_format: str = "PNG",
    orientation: int = 1,
    preprocessing: Preprocessing | None = None,
    **options: Any,
) -> list[str]:
    data = image
    if isinstance(image, Image.Image):
        file, exif = BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        image.save(file, file_format, exif=exif)
        data = file.getvalue()
    assert isinstance(data, bytes)
    done: list[str] = []
    if preprocessing is not None:
        options["preprocessing"] = preprocessing
    image_to_array(open_image(data, max_pixels=10**8), shape, done=done, **options)
    return done


def test_each_orientation_is_put_in_words_that_mean_it() -> None:
    assert set(TURNED) == set(TURNS)
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for orientation, words in TURNED.items():
        found: NDArray[Any] = stored
        for part in words.split(" and "):
            found = MEANINGS[part](found)
        expected = np.asarray(Image.fromarray(stored).transpose(TURNS[orientation]))
        assert found.tolist() == expected.tolist(), words


def test_nothing_is_done_to_what_fits() -> None:
    assert done_to(Image.new("L", (28, 28))) == []
    assert done_to(Image.new("1", (28, 28))) == []
    assert done_to(Image.new("RGB", (28, 28)), (3, 28, 28)) == []


@pytest.mark.parametrize(
    ("mode", "shape", "expected"),
    [
        ("RGB", (1, 28, 28), ["colour to grey"]),
        ("P", (1, 28, 28), ["palette to grey"]),
        ("P", (3, 28, 28), ["palette to RGB"]),
        ("L", (3, 28, 28), ["grey to RGB"]),
        ("RGBA", (3, 28, 28), ["transparency composited on black"]),
        ("LA", (1, 28, 28), ["transparency composited on black"]),
        ("RGBA", (1, 28, 28), ["transparency composited on black", "colour to grey"]),
        ("LA", (3, 28, 28), ["transparency composited on black", "grey to RGB"]),
    ],
)
def test_colours_and_transparency(
    mode: str, shape: tuple[int, int, int], expected: list[str]
) -> None:
    assert done_to(Image.new(mode, (28, 28)), shape) == expected


def test_cmyk() -> None:
    for channels, wanted in ((1, "grey"), (3, "RGB")):
        done = done_to(Image.new("CMYK", (28, 28)), (channels, 28, 28), "JPEG")
        assert done == [f"CMYK to {wanted}"]


def test_inverting_comes_last_and_puts_transparency_on_white() -> None:
    done = done_to(Image.new("LA", (56, 56)), invert=True)
    assert done == ["transparency composited on white", "56 × 56 resized to 28 × 28", "inverted"]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((56, 56), "resized"),
        ((57, 57), "resized"),
        ((14, 14), "enlarged"),
        ((400, 300), "squashed"),
        ((10, 300), "squashed"),
        ((20, 10), "stretched"),
        ((28, 10), "stretched"),
        ((1000, 1001), "resized"),
    ],
)
def test_the_new_size(size: tuple[int, int], words: str) -> None:
    expected = [f"{size[0]} × {size[1]} {words} to 28 × 28"]
    assert done_to(Image.new("L", size)) == expected


def test_sizes_are_those_of_the_upright_image() -> None:
    done = done_to(Image.new("L", (60, 40)), (1, 30, 20), orientation=8)
    assert done == [
        "turned by 90° counterclockwise, as its EXIF orientation 8 says",
        "40 × 60 resized to 20 × 30",
    ]


@pytest.mark.parametrize(
    ("largest", "bits", "expected"),
    [(65_535, None, ["16 bits to 8"]), (4_095, 12, ["12 bits to 8"]), (255, 8, [])],
)
def test_deep_samples(largest: int, bits: int | None, expected: list[str]) -> None:
    deep = np.full((28, 28), largest, np.uint16)
    for file in (Image.fromarray(deep), tiff_file(deep)):
        assert done_to(file, bits=bits) == expected


def test_a_large_jpeg_that_is_scaled_while_it_is_decoded() -> None:
    photograph = Image.new("RGB", (403, 300))
    done = done_to(photograph, file_format="JPEG", orientation=6, preprocessing=SCALED)
    assert done == [
        "decoded at 1/4 of its size, 101 × 75",
        "turned by 90° clockwise, as its EXIF orientation 6 says",
        "colour to grey",
        "300 × 403 squashed to 28 × 28",
    ]
