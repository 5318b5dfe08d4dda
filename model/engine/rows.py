"""Batches as callers hand them over: one array, or several that share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.results import Floats

Rows = NDArray[Any] | Sequence[NDArray[Any]]
"""N rows, one for each image or latent, as one array or as several that form one batch.

Images are uint8 (0..255) or floats in [0, 1]; arrays of both types may share a batch. They have
the shape (N, C, H, W), or any other with C·H·W numbers in a row. Latents are floats, (N, D).
"""


def count_rows(rows: Rows) -> int:
    """N, the number of rows."""
    return len(rows) if isinstance(rows, np.ndarray) else sum(map(len, rows))


def concatenate_scaled(rows: Rows, width: int) -> Floats:
    """All rows in one new array, (N, width), with uint8 scaled to [0, 1].

    Raises `ValueError` for rows of another width.
    """
    batch = np.empty((count_rows(rows), width), dtype=np.float32)
    fill(batch, rows)
    return batch


def fill(batch: NDArray[Any], rows: Rows) -> None:
    """Write the rows into the start of `batch`, (at least N, width), in order.

    uint8 is scaled to [0, 1] if `batch` is float32, and copied if `batch` is uint8 too. Raises
    `ValueError` for rows of another width.
    """
    start = 0
    for part in (rows,) if isinstance(rows, np.ndarray) else rows:
        target = batch[start : (start := start + len(part))]
        write_scaled(part.reshape(target.shape), target)


def write_scaled(values: NDArray[Any], target: NDArray[Any]) -> None:
    """Write `values` into `target`, scaling uint8 to [0, 1] if `target` is float32.

    Both have the same shape. There is no temporary array.
    """
    if values.dtype == np.uint8 and target.dtype != np.uint8:
        np.divide(values, np.float32(255), out=target)
    else:
        target[...] = values
