"""GIF responses: images one after another, as an endless animation."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from time import sleep
from typing import Final

from PIL import Image
from starlette.responses import Response

from service.codecs.offload import PAUSE_S
from service.codecs.responses import ArrayResponse, Result, to_uint8
from service.errors import InvalidContentError, counted

FRAME_MS: Final = 80
"""Time that an image is shown: 12.5 a second. GIF counts in hundredths of a second."""

MAX_SIDE: Final = 65_535
"""Of a frame: GIF stores sides in 16 bits."""


def check_frames(n: int, sides: tuple[int, int], scale: int, max_pixels: int) -> None:
    """Raise `InvalidContentError` if `n` images with these sides, height and width, each pixel
    `scale` × `scale`, have more than `max_pixels` together, or a side that is too long."""
    height, width = sides[0] * scale, sides[1] * scale
    if n * height * width > max_pixels:
        raise InvalidContentError(
            f"{counted(n, 'image')} at scale {scale} make {n * height * width:,} pixels > maximum "
            f"{max_pixels:,}",
            ("query", "scale"),
        )
    if max(height, width) > MAX_SIDE:
        raise InvalidContentError(
            f"images at scale {scale} are {width} × {height}, their longer side > maximum "
            f"{MAX_SIDE:,} of a GIF",
            ("query", "scale"),
        )


def write_gif(result: Result) -> Response:
    """Write images as the frames of a GIF that repeats for ever; one image is a still.

    Grey levels are kept, and colours are reduced to 256 for each image. To be run in a thread.
    Raises `InvalidContentError` above `max_png_pixels`.
    """
    n, _, *sides = result.array.shape
    check_frames(n, (sides[0], sides[1]), result.scale, result.max_png_pixels)
    frames = _frames(result)
    file = BytesIO()
    if n == 1:
        next(frames).save(file, "GIF")
    else:
        next(frames).save(
            file, "GIF", save_all=True, append_images=frames, duration=FRAME_MS, loop=0
        )
    return ArrayResponse(file.getvalue(), media_type="image/gif")


def frames_bytes(result: Result) -> int:
    """What the frames take, as Pillow keeps all of them until it has the last: one byte a pixel."""
    n, _, height, width = result.array.shape
    size: int = n * height * width * result.scale**2
    return size


def _frames(result: Result) -> Iterator[Image.Image]:
    """Each image in 256 levels or colours, enlarged."""
    _, channels, height, width = result.array.shape
    size = (width * result.scale, height * result.scale)
    for pixels in result.array:
        bytes_ = to_uint8(pixels)
        if channels == 1:
            frame = Image.fromarray(bytes_[0])
        else:  # before it is enlarged, as this holds the interpreter lock
            frame = Image.fromarray(bytes_.transpose(1, 2, 0)).quantize()
        yield frame.resize(size, Image.Resampling.NEAREST) if result.scale > 1 else frame
        sleep(PAUSE_S)  # so that other threads get the interpreter lock
