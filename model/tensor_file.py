"""What a safetensors file says that is in it, read before any of that is.

The format: eight bytes, little-endian, are the length of the header that follows, which is a JSON
object with the type, shape and place of each tensor; then come the tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

LENGTH_BYTES: Final = 8

MAX_HEADER_BYTES: Final = 1 << 20
"""Room for names and shapes; a real header here has under 4 kB."""


class Stored(NamedTuple):
    """A tensor as the header tells of it; its type in the format's word, `F32`."""

    dtype: str
    shape: tuple[int, ...]


class HeaderError(ValueError):
    """This is no such header. The message names the value and the limit."""


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Name, type and shape of each tensor in a file, of which only the header is read.

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
        raise HeaderError("its header is no JSON object")
    header.pop("__metadata__", None)
    return {name: _stored(name, entry) for name, entry in header.items()}


def _stored(name: str, entry: object) -> Stored:
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    shape = entry.get("shape") if isinstance(entry, dict) else None
    sized = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(dtype, str) or not isinstance(shape, list) or not sized:
        raise HeaderError(f"its header has no dtype and shape of {name[:64]!r}")
    return Stored(dtype, tuple(shape))
