"""The header of a safetensors file, checked before any tensor is read.

The format: eight little-endian bytes hold the length of the header, which is a JSON object with the
type, shape and position of each tensor; the tensors follow. Source:
https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

LENGTH_BYTES: Final = 8

MAX_HEADER_BYTES: Final = 1 << 20
"""The header of a bundle has less than 4 kB."""


class TensorHeader(NamedTuple):
    """Type and shape of one tensor; the type as the format names it, such as `F32`."""

    dtype: str
    shape: tuple[int, ...]


class HeaderError(ValueError):
    """The file has no valid header. The message names the value and the limit."""


def read_tensor_headers(path: Path) -> dict[str, TensorHeader]:
    """Type and shape of each tensor in a file, by name. Reads the header only.

    Raises `HeaderError` or `OSError`.
    """
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            raise HeaderError(f"its header has {length:,} bytes > maximum {MAX_HEADER_BYTES:,}")
        text = file.read(length)
    if len(start) + len(text) < LENGTH_BYTES + length:
        raise HeaderError(f"it ends within its header of {length:,} bytes")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise HeaderError("its header is not JSON") from error
    if not isinstance(header, dict):
        raise HeaderError("its header holds no JSON object")
    header.pop("__metadata__", None)
    return {name: _tensor_header(name, entry) for name, entry in header.items()}


def _tensor_header(name: str, entry: object) -> TensorHeader:
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    shape = entry.get("shape") if isinstance(entry, dict) else None
    sized = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(dtype, str) or not isinstance(shape, list) or not sized:
        raise HeaderError(f"its header has no dtype and shape for {name[:64]!r}")
    return TensorHeader(dtype, tuple(shape))
