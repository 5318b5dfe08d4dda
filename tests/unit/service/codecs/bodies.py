"""Small bodies for a grey and a colour network."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image

from service.codecs import registry as media
from service.codecs.options import ImageOptions, Pixels

GREY = ImageOptions(shape=(1, 4, 5), max_images=10, max_image_pixels=10_000)
COLOUR = ImageOptions(shape=(3, 4, 5), max_images=10, max_image_pixels=10_000)


def read(body: bytes | dict[str, Any], wanted: ImageOptions = GREY, **options: Any) -> Pixels:
    data = orjson.dumps(body) if isinstance(body, dict) else body
    return asyncio.run(media.read_images(data, replace(wanted, **options)))


def file_of(pixels: NDArray[np.uint8], file_format: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def random_pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
