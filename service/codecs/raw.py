"""Raw bodies, application/octet-stream: C-order pixels or latents, cut into rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.codecs.arrays import check_count, inverted, latents_in_range, pixels_in_range
from service.codecs.hints import raw_hint
from service.codecs.options import DTYPES, Dtype, ImageOptions, LatentOptions, Latents, Pixels
from service.errors import InvalidContentError


def read_raw_images(body: bytes, options: ImageOptions) -> Pixels:
    """Pixels in C order, uint8 or little-endian float32. N follows from the length."""
    dtype = options.dtype or "uint8"
    rows = _raw_rows(body, options.pixels, dtype, f"images of {list(options.shape)} {dtype}")
    check_count(len(rows), options.max_images)
    pixels = pixels_in_range(rows, dtype)
    return inverted(pixels) if options.invert else pixels


def read_raw_latents(body: bytes, options: LatentOptions) -> Latents:
    """Latents as little-endian float32, [N][D]."""
    rows = _raw_rows(body, options.size, "float32", f"latents of {options.size} float32")
    check_count(len(rows), options.max_images)
    return latents_in_range(rows)


def _raw_rows(body: bytes, width: int, dtype: Dtype, description: str) -> NDArray[Any]:
    size = width * DTYPES[dtype].itemsize
    if len(body) % size:
        raise InvalidContentError(
            f"the body has {len(body):,} bytes, expected a multiple of {size:,} ({description})"
            f"{raw_hint(body)}",
            ("body",),
        )
    rows: NDArray[Any] = np.frombuffer(body, DTYPES[dtype]).reshape(-1, width)
    return rows
