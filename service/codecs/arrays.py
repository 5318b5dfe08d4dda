"""Raw pixels and latents, and the checks that arrays of every origin pass."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.codecs.options import DTYPES, Dtype, ImageOptions, LatentOptions, Latents, Pixels
from service.errors import InvalidContentError, TooLargeError

MAX_LATENT: Final = 1e6
"""Largest |z|. Millions of standard deviations away from anything, and still finite in float32."""


def read_raw_images(body: bytes, wanted: ImageOptions) -> Pixels:
    """C-order pixels, uint8 or little-endian float32; N follows from the length."""
    dtype = wanted.dtype or "uint8"
    rows = _raw_rows(body, wanted.pixels, dtype, f"images of {list(wanted.shape)} {dtype}")
    check_count(len(rows), wanted.max_images)
    return pixels_in_range(rows, dtype)


def read_raw_latents(body: bytes, wanted: LatentOptions) -> Latents:
    """Little-endian float32, [N][D]."""
    rows = _raw_rows(body, wanted.size, "float32", f"latents of {wanted.size} float32")
    check_count(len(rows), wanted.max_images)
    return latents_in_range(rows)


def check_count(n: int, max_images: int) -> None:
    """Raise `TooLargeError` for more images in one request than the limit."""
    if n > max_images:
        raise TooLargeError(f"{n:,} images in one request > maximum {max_images:,}")


def check_draws(n: int, draws: int, max_images: int) -> None:
    """Raise `TooLargeError` if the draws of a request's images are more than the limit."""
    if n * draws > max_images:
        raise TooLargeError(
            f"{n:,} images with {draws:,} samples each make {n * draws:,} > maximum {max_images:,}"
        )


def pixels_in_range(rows: NDArray[Any], dtype: str, first: int = 0) -> Pixels:
    """(N, P) numbers as pixels of `dtype`, uint8 or float32.

    Raises `InvalidContentError` for the first pixel that is out of range or not finite; images are
    counted from `first`.
    """
    if rows.dtype == np.uint8:
        return rows
    limit = 255 if dtype == "uint8" else 1
    # NaN makes either comparison false.
    fits = rows.min() >= 0 and rows.max() <= limit
    if fits and dtype == "float32":
        return rows.astype(np.float32, copy=False)
    if fits:
        whole = rows.astype(np.uint8)
        if np.array_equal(whole, rows):
            return whole
    wrong = ~((rows >= 0) & (rows <= limit))
    if dtype == "uint8":
        wrong |= rows != np.floor(rows)
    index, pixel = np.argwhere(wrong)[0].tolist()
    hint = ""
    if dtype == "float32" and rows.min() >= 0 and 1 < rows.max() <= 255:
        hint = ". For 0..255 the dtype is uint8"
    kind = "a whole number in 0..255" if dtype == "uint8" else "a number in [0, 1]"
    raise InvalidContentError(
        f"images[{first + index}] has {rows[index, pixel]} at pixel {pixel}, expected {kind}{hint}",
        ("body", "images", first + index),
    )


def latents_in_range(rows: NDArray[Any]) -> Latents:
    """(N, D) numbers as float32. Raises `InvalidContentError` past ±`MAX_LATENT`."""
    rows = rows.astype(np.float64 if rows.dtype.kind == "f" else rows.dtype, copy=False)
    wrong = ~(np.abs(rows) <= MAX_LATENT)  # so that NaN is wrong too
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise InvalidContentError(
            f"z[{row}] has {rows[row, column]} at {column}, expected numbers within "
            f"±{MAX_LATENT:g}",
            ("body", "z", row, column),
        )
    return rows.astype(np.float32, copy=False)


def unit_pixels(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels in [0, 1], whichever of the two ways they came."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, 255, dtype=np.float32)
    return pixels.astype(np.float32, copy=False)


def _raw_rows(body: bytes, width: int, dtype: Dtype, what: str) -> NDArray[Any]:
    size = width * DTYPES[dtype].itemsize
    if len(body) % size:
        raise InvalidContentError(
            f"the body has {len(body):,} bytes, no multiple of {size:,} ({what})", ("body",)
        )
    rows: NDArray[Any] = np.frombuffer(body, DTYPES[dtype]).reshape(-1, width)
    return rows
