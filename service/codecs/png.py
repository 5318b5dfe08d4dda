"""PNG responses: sheets of images, and error maps drawn over their images."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image
from starlette.responses import Response

from model.results import Floats
from service.codecs.responses import ArrayResponse, Result, to_uint8
from service.errors import InvalidContentError

CIVIDIS: Final = (
    (0, 32, 77), (0, 52, 110), (60, 77, 107), (96, 103, 112),
    (124, 123, 120), (155, 146, 119), (188, 170, 108), (223, 196, 85), (255, 234, 70),
)  # fmt: skip
"""Nine evenly spaced colours (R, G, B) of matplotlib's cividis, a colour map that looks the same
with and without colour blindness (Nuñez, Anderton and Renslow 2018)."""


def write_png(result: Result) -> Response:
    """Write images as one PNG: a near-square grid, row by row, each pixel `scale` × `scale`.

    An error map is drawn over its images. Raises `InvalidContentError` above `max_png_pixels`.
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
    if result.backdrop is not None:
        images = draw_map(images, result.backdrop)
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


def draw_map(squared_errors: Floats, images: Floats) -> Floats:
    """Draw squared errors over their images, both (N, C, H, W) in [0, 1]. Returns (N, 3, H, W).

    Colour and opacity depend on |x − x̂| alone, so the same error looks the same in every response.
    """
    error = np.sqrt(squared_errors.mean(axis=1))  # (N, H, W), 0..1
    steps = np.linspace(0, 1, len(CIVIDIS))
    colour = np.stack(
        [np.interp(error, steps, channel) / 255 for channel in np.transpose(CIVIDIS)], axis=1
    )  # (N, 3, H, W)
    opacity = np.minimum(1, 2 * error)[:, None]
    drawn: Floats = ((1 - opacity) * images + opacity * colour).astype(np.float32)
    return drawn
