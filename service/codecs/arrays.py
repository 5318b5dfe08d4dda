"""Checks that pixels and latents of every format pass: count, shape, range."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.codecs.options import Latents, Pixels
from service.errors import InvalidContentError, TooLargeError, counted

MAX_LATENT: Final = 1e6
"""Largest |z|: a million standard deviations of the prior. Values within it stay finite in
float32."""


def check_count(n: int, max_images: int) -> None:
    """Raise `TooLargeError` if a request has more images than the limit."""
    if n > max_images:
        raise TooLargeError(f"{counted(n, 'image')} in one request > maximum {max_images:,}")


def check_draws(n: int, draws: int, max_images: int) -> None:
    """Raise `TooLargeError` if `n` images with `draws` each take more draws than the limit."""
    if n * draws > max_images:
        raise TooLargeError(
            f"{counted(n, 'image')} × {counted(draws, 'sample')} = {n * draws:,} draws > maximum "
            f"{max_images:,}"
        )


def pixels_in_range(
    rows: NDArray[Any], dtype: str, first: int = 0, *, as_bytes: str = "set the dtype to uint8"
) -> Pixels:
    """Numbers of shape (N, P) as pixels of `dtype`, uint8 or float32.

    Raises `InvalidContentError` for the first pixel that is out of range or not finite. `first` is
    the index of the first row among the request's images, and `as_bytes` what a caller with pixels
    in 0..255 should do.
    """
    if rows.dtype == np.uint8:
        return rows
    limit = 255 if dtype == "uint8" else 1
    in_range = rows.min() >= 0 and rows.max() <= limit  # False if there is a NaN
    if in_range and dtype == "float32":
        return rows.astype(np.float32, copy=False)
    if in_range:
        pixels = rows.astype(np.uint8)
        if np.array_equal(pixels, rows):
            return pixels
    wrong = ~((rows >= 0) & (rows <= limit))
    if dtype == "uint8":
        wrong |= rows != np.floor(rows)
    index, pixel = np.argwhere(wrong)[0].tolist()
    hint = ""
    if dtype == "float32" and rows.min() >= 0 and 1 < rows.max() <= 255:
        hint = f"; for pixels in 0..255, {as_bytes}"
    expected = "a whole number in 0..255" if dtype == "uint8" else "a number in [0, 1]"
    raise InvalidContentError(
        f"images[{first + index}] has {rows[index, pixel]} at pixel {pixel}, "
        f"expected {expected}{hint}",
        ("body", "images", first + index),
    )


def latents_in_range(rows: NDArray[Any]) -> Latents:
    """Numbers of shape (N, D) as float32.

    Raises `InvalidContentError` for the first one that is beyond ±`MAX_LATENT` or not finite.
    """
    rows = rows.astype(np.float64 if rows.dtype.kind == "f" else rows.dtype, copy=False)
    wrong = ~(np.abs(rows) <= MAX_LATENT)  # negated so that NaN counts as wrong
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise InvalidContentError(
            f"z[{row}] has {rows[row, column]} at index {column}, expected a number within "
            f"±{MAX_LATENT:g}",
            ("body", "z", row, column),
        )
    return rows.astype(np.float32, copy=False)


def inverted(pixels: Pixels) -> Pixels:
    """Dark ink on light paper as light on dark."""
    if pixels.dtype == np.uint8:
        return np.subtract(255, pixels, dtype=np.uint8)
    return np.subtract(1, pixels, dtype=np.float32)


def unit_pixels(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels of either type as float32 in [0, 1]."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, 255, dtype=np.float32)
    return pixels.astype(np.float32, copy=False)
