"""Reader for NumPy's .npy files."""

from __future__ import annotations

import math
import struct
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from service.codecs.arrays import check_count, inverted, latents_in_range, pixels_in_range
from service.codecs.hints import stripped_hint
from service.codecs.options import ImageOptions, LatentOptions, Latents, Pixels
from service.errors import BadBodyError, InvalidContentError

MAX_NPY_HEADER_BYTES: Final = 4096
"""Headers of the types and shapes that are read here have 128 bytes."""

MAX_NPY_DIMENSIONS: Final = 32
"""More than any valid shape has. numpy itself allows 64."""

NPY_HEADERS: Final[dict[tuple[int, int], Any]] = {
    (1, 0): ("<H", npy_format.read_array_header_1_0),
    (2, 0): ("<I", npy_format.read_array_header_2_0),
    (3, 0): ("<I", npy_format.read_array_header_2_0),
}
"""For each version, the `struct` format of the header's length and the function that parses the
header. Version 3.0 differs from 2.0 only in field names, which none of `NPY_TYPES` has."""

NPY_TYPES: Final = ("uint8", "float16", "float32", "float64")


def read_npy_images(body: bytes, options: ImageOptions) -> Pixels:
    """Images of shape [N, H, W], [N, C, H, W], [N, C·H·W] or [H, W]."""
    array = read_npy(body)
    channels, height, width = options.shape
    if channels == 1 and array.shape == (height, width):
        array = array[None]
    shapes = options.item_shapes
    if array.ndim == 0 or array.shape[1:] not in shapes:
        expected = " or ".join(str(["N", *shape]).replace("'", "") for shape in shapes)
        raise InvalidContentError(
            f"the array has shape {list(array.shape)}, expected {expected}", ("body",)
        )
    check_count(len(array), options.max_images)
    dtype = "uint8" if array.dtype == np.uint8 else "float32"
    pixels = pixels_in_range(array.reshape(len(array), -1), dtype)
    return inverted(pixels) if options.invert else pixels


def read_npy_latents(body: bytes, options: LatentOptions) -> Latents:
    """Latents of shape [N, D] or [D]."""
    array = read_npy(body)
    if array.ndim not in (1, 2) or array.shape[-1] != options.size:
        raise InvalidContentError(
            f"the array has shape {list(array.shape)}, expected [N, {options.size}] or "
            f"[{options.size}]",
            ("body",),
        )
    rows = array.reshape(-1, options.size)
    check_count(len(rows), options.max_images)
    return latents_in_range(rows)


def read_npy(body: bytes) -> NDArray[Any]:
    """The array in an .npy file, as a view of `body`. Its type is one of `NPY_TYPES`.

    Nothing is unpickled, and the header is checked against the length of the body before anything
    of the size that it announces is allocated. Raises `BadBodyError` or `InvalidContentError`.
    """
    file = BytesIO(body)
    try:
        version = npy_format.read_magic(file)
        length_type, read_header = NPY_HEADERS[version]
        (length,) = struct.unpack_from(length_type, body, file.tell())
    except Exception as error:  # numpy's parser raises a dozen types for damaged headers
        raise BadBodyError(
            f"the body is not an .npy file, or its header is damaged{stripped_hint(body)}"
        ) from error
    if length > MAX_NPY_HEADER_BYTES:  # checked here because numpy reads the header before it does
        raise BadBodyError(
            f"the .npy header has {length:,} bytes > maximum {MAX_NPY_HEADER_BYTES:,}"
            f"{stripped_hint(body)}"
        )
    try:
        shape, fortran_order, dtype = read_header(file, MAX_NPY_HEADER_BYTES)
    except Exception as error:
        raise BadBodyError(
            f"the header of the .npy file is damaged{stripped_hint(body)}"
        ) from error
    if dtype.name not in NPY_TYPES:
        raise InvalidContentError(
            f"the array has dtype {dtype.name}, expected {', '.join(NPY_TYPES)}", ("body",)
        )
    data_bytes = len(body) - file.tell()
    valid_sizes = all(type(size) is int and size >= 0 for size in shape)
    if not valid_sizes or math.prod(shape) * dtype.itemsize != data_bytes:
        text = ", ".join(map(str, shape))[:128]
        raise BadBodyError(
            f"the .npy header announces shape ({text}) of {dtype.name}, but {data_bytes:,} bytes "
            f"follow it{stripped_hint(body)}"
        )
    if not data_bytes:
        raise InvalidContentError(
            f"the array is empty: its shape is {str(list(shape))[:128]}", ("body",)
        )
    if len(shape) > MAX_NPY_DIMENSIONS:
        raise InvalidContentError(
            f"the array has {len(shape):,} dimensions > maximum {MAX_NPY_DIMENSIONS}", ("body",)
        )
    flat = np.frombuffer(body, dtype, offset=file.tell())
    array: NDArray[Any] = flat.reshape(shape, order="F" if fortran_order else "C")
    return array
