"""PNG responses: sheets of images, and maps drawn over their images."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from model.results import Floats
from service.codecs.responses import ArrayResponse, MapDrawing, Result, to_uint8
from service.errors import InvalidContentError

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


def write_png(result: Result) -> Response:
    """Write images as one PNG: a near-square grid, row by row, each pixel `scale` × `scale`.

    Maps are drawn over their images. Raises `InvalidContentError` above `max_png_pixels`.
    """
    n, _, height, width = result.array.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    size = (columns * width * result.scale, rows * height * result.scale)
    if size[0] * size[1] > result.max_png_pixels:
        raise InvalidContentError(
            f"{n} images at scale {result.scale} make {size[0]} × {size[1]} pixels > maximum "
            f"{result.max_png_pixels:,}",
            ("query", "scale"),
        )
    images = result.array
    if result.drawing is not None:
        images = draw_map(images, result.drawing)
    channels = images.shape[1]
    grid = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    grid[:n] = to_uint8(images)
    pixels = (
        grid.reshape(rows, columns, channels, height, width)
        .transpose(0, 3, 1, 4, 2)  # rows, H, columns, W, C
        .reshape(rows * height, columns * width, channels)
    )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if result.scale > 1:
        image = image.resize(size, Image.Resampling.NEAREST)
    file = BytesIO()
    image.save(file, "PNG")
    return ArrayResponse(file.getvalue(), media_type="image/png")


def draw_map(maps: Floats, drawing: MapDrawing) -> Floats:
    """Draw maps, (N, C, H, W), over their images. Returns (N, 3, H, W) in [0, 1]."""
    if drawing.style == "errors":
        return _draw_errors(maps, drawing.images)
    values = maps[:, 0]  # the same in each channel
    if drawing.style == "tint":
        opacity = FULL_OPACITY * np.clip((values - CLEAR) / (FULL - CLEAR), 0, 1) ** 2
    else:
        opacity = _outline(values >= FULL).astype(np.float32)
    return _blend(drawing.images, np.reshape(DEFECT, (3, 1, 1)) / 255, opacity)


def _draw_errors(squared_errors: Floats, images: Floats) -> Floats:
    """Colour and opacity depend on |x − x̂| alone, so the same error looks the same in every
    response."""
    error = np.sqrt(squared_errors.mean(axis=1))  # (N, H, W), 0..1
    steps = np.linspace(0, 1, len(CIVIDIS))
    colour = np.stack(
        [np.interp(error, steps, channel) / 255 for channel in np.transpose(CIVIDIS)], axis=1
    )  # (N, 3, H, W)
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


def _blend(images: Floats, colour: NDArray[Any], opacity: Floats) -> Floats:
    """Images, (N, C, H, W), under a colour, (…, 3, H, W), that is as opaque as (N, H, W) says."""
    opacity = opacity[:, None]
    drawn: Floats = ((1 - opacity) * images + opacity * colour).astype(np.float32)
    return drawn
