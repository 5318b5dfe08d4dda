"""Images and labels in IDX files, as MNIST has them."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from model.datasets.folder import is_file
from model.datasets.image_set import DataError, Split

IDX_NAMES: Final[Mapping[Split, str]] = {
    "train": "train-images-idx3-ubyte",
    "test": "t10k-images-idx3-ubyte",
}
"""Names of the MNIST family's image files, which may end in .gz."""

LABEL_NAMES: Final[Mapping[Split, str]] = {
    "train": "train-labels-idx1-ubyte",
    "test": "t10k-labels-idx1-ubyte",
}
"""Names of the label files beside them."""


def find_idx(directory: Path, names: Mapping[Split, str] = IDX_NAMES) -> dict[Split, Path]:
    """The IDX files of images in a directory, or those of labels, by split."""
    paths: dict[Split, Path] = {}
    for split, name in names.items():
        for path in (directory / name, directory / f"{name}.gz"):
            if is_file(path):
                paths[split] = path
                break
    return paths


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of uint8 images, gzipped or not: (N, H, W).

    Format: two zero bytes, 8 for uint8, the number of dimensions, the size of each dimension as a
    big-endian uint32, then the values. Raises `DataError`.
    """
    return _read(path, 3)


def read_idx_labels(path: Path) -> NDArray[np.int64]:
    """Read an IDX file of uint8 labels, gzipped or not: (N,). Raises `DataError`."""
    return _read(path, 1).astype(np.int64)


def _read(path: Path, dimensions: Literal[1, 3]) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    start = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < start:
        contents = "images" if dimensions == 3 else "labels"
        raise DataError(
            f"{path} is no IDX file of {contents}: it starts with {data[:4].hex(' ')!r}"
        )
    shape: tuple[int, ...] = struct.unpack_from(f">{dimensions}I", data, 4)
    if len(data) - start != math.prod(shape) or 0 in shape:
        unit = "pixels" if dimensions == 3 else "labels"
        raise DataError(
            f"{path} holds {len(data) - start:,} {unit}, but its header says {shape}, "
            f"{math.prod(shape):,} in all"
        )
    # torch needs a writable array.
    values: NDArray[np.uint8] = np.frombuffer(data, np.uint8, offset=start).copy()
    return values.reshape(shape)
