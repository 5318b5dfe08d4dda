"""PNG responses: sheets of images, and maps drawn over their images."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from model.results import Floats
from service.codecs.arrays import unit_pixels
from service.codecs.responses import ArrayResponse, MapDrawing, Result, to_uint8
from service.errors import InvalidContentError, counted

CIVIDIS: Final = (
    (0, 32, 77), (0, 52, 110), (60, 77, 107), (96, 103, 112),
    (124, 123, 120), (155, 146, 119), (188, 170, 108), (223, 196, 85), (255, 234, 70),
)  # fmt: skip
"""Nine evenly spaced colours (R, G, B) of matplotlib's cividis, a colour map that looks the same
with and without colour blindness (Nuñez, Anderton and Renslow 2018)."""

DEFECT: Final = (255, 120, 0)
"""Colour (R, G, B) of unusual places. With any kind of red-green blindness orange looks yellow or
brown, and still stands out from grey photographs, whether bright or dark."""

CLEAR: Final = 0.5
"""Places of a scaled map up to this value are not tinted."""

FULL: Final = 1.0
"""Places of a scaled map from this value on have the full tint, and are inside a contour."""

FULL_OPACITY: Final = 0.5
"""Of the full tint. With more, it hides small defects."""

DRAWN_PIXELS: Final = 1 << 16
"""Pixels that are drawn at a time, in whole images: one takes up to 60 bytes while it is drawn."""


def sheet_sides(n: int, sides: tuple[int, int], scale: int, max_png_pixels: int) -> tuple[int, int]:
    """Height and width of the PNG of `n` images with these sides, each pixel `scale` × `scale`.

    Raises `InvalidContentError` if that is more than `max_png_pixels`.
    """
    rows, columns = _grid(n)
    height, width = rows * sides[0] * scale, columns * sides[1] * scale
    if height * width > max_png_pixels:
        raise InvalidContentError(
            f"{counted(n, 'image')} at scale {scale} make {width} × {height} pixels > maximum "
            f"{max_png_pixels:,}",
            ("query", "scale"),
        )
    return height, width


def write_png(result: Result) -> Response:
    """Write images as one PNG: a near-square grid, row by row, each pixel `scale` × `scale`.

    Maps are drawn over their images. Raises `InvalidContentError` above `max_png_pixels`.
    """
    n, _, *sides = result.array.shape
    height, width = sheet_sides(n, (sides[0], sides[1]), result.scale, result.max_png_pixels)
    sheet = _sheet(result)
    image = Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet)
    del sheet
    if result.scale > 1:
        image = image.resize((width, height), Image.Resampling.NEAREST)
    file = BytesIO()
    image.save(file, "PNG")
    return ArrayResponse(file.getvalue(), media_type="image/png")


def picture_bytes(result: Result) -> int:
    """What the picture takes that `write_png` compresses: Pillow has 4 bytes for a pixel in colour,
    and one for a grey one."""
    n, channels, height, width = result.array.shape
    rows, columns = _grid(n)
    pixel_bytes = 1 if channels == 1 and result.drawing is None else 4
    size: int = rows * columns * height * width * result.scale**2 * pixel_bytes
    return size


def _grid(n: int) -> tuple[int, int]:
    """Rows and columns of a sheet of `n` images."""
    columns = math.ceil(math.sqrt(n))
    return math.ceil(n / columns), columns


def _sheet(result: Result) -> NDArray[np.uint8]:
    """The images side by side, not enlarged, (rows · H, columns · W, C)."""
    n, channels, height, width = result.array.shape
    rows, columns = _grid(n)
    if result.drawing is not None:
        channels = len(DEFECT)
    sheet = np.zeros((rows * height, columns * width, channels), dtype=np.uint8)
    cells = sheet.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
    together = max(1, DRAWN_PIXELS // (height * width))
    for row in range(rows):
        end = min(n, (row + 1) * columns)
        for start in range(row * columns, end, together):
            part = slice(start, min(end, start + together))
            images = result.array[part]
            if result.drawing is not None:
                images = draw_map(images, result.drawing.of(part))
            column = start - row * columns
            cells[row, column : column + len(images)] = to_uint8(images)
    return sheet


def draw_map(maps: Floats, drawing: MapDrawing) -> Floats:
    """Draw maps, (N, C, H, W), over their images. Returns (N, 3, H, W) in [0, 1]."""
    images = unit_pixels(drawing.images).reshape(maps.shape)
    if drawing.style == "errors":
        return _draw_errors(maps, images)
    values = maps[:, 0]  # the same in each channel
    if drawing.style == "tint":
        opacity = FULL_OPACITY * np.clip((values - CLEAR) / (FULL - CLEAR), 0, 1) ** 2
    else:
        opacity = _outline(values >= FULL).astype(np.float32)
    return _blend(images, np.array(DEFECT, np.float32).reshape(3, 1, 1) / np.float32(255), opacity)


def _draw_errors(squared_errors: Floats, images: Floats) -> Floats:
    """Colour and opacity depend on |x − x̂| alone, so the same error looks the same in every
    response."""
    error = np.sqrt(squared_errors.mean(axis=1))  # (N, H, W), 0..1
    steps = np.linspace(0, 1, len(CIVIDIS))
    colour = np.empty((len(error), 3, *error.shape[1:]), dtype=np.float32)
    for channel, values in enumerate(np.transpose(CIVIDIS)):
        colour[:, channel] = np.interp(error, steps, values / 255)
    return _blend(images, colour, np.minimum(1, 2 * error))


def _outline(regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels around `regions`, (N, H, W), so that nothing inside is covered.

    Where a region reaches the edge of the image, its own pixels there close the line.
    """
    _, height, width = regions.shape
    padded = np.pad(regions, ((0, 0), (1, 1), (1, 1)))
    grown = np.zeros_like(regions)
    for row in range(3):
        for column in range(3):
            grown |= padded[:, row : row + height, column : column + width]
    edge = np.ones((height, width), dtype=np.bool_)
    edge[1:-1, 1:-1] = False
    outline: NDArray[np.bool_] = (grown & ~regions) | (regions & edge)
    return outline


def _blend(images: Floats, colour: Floats, opacity: Floats) -> Floats:
    """Images, (N, C, H, W), under a colour, (…, 3, H, W), that is as opaque as (N, H, W) says."""
    drawn = np.array(np.broadcast_to(colour, (len(images), 3, *images.shape[2:])))
    drawn -= images
    drawn *= opacity[:, None]
    drawn += images
    return drawn
