"""TIFF files of every layout, written without the library that reads them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["<", ">"]

NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
GREY, RGB = 1, 2
LITERALS: Final = 200
"""Bytes between two clear codes of LZW, so that all codes have nine bits."""


def lzw(data: bytes) -> bytes:
    codes: list[int] = []
    for start in range(0, len(data), LITERALS):
        codes += [256, *data[start : start + LITERALS]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def packbits(data: bytes) -> bytes:
    parts = (data[start : start + 128] for start in range(0, len(data), 128))
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


COMPRESS: Final[Mapping[int, Callable[[bytes], bytes]]] = {
    NONE: bytes,
    LZW: lzw,
    DEFLATE: zlib.compress,
    PACKBITS: packbits,
}


def tiff_file(
    samples: NDArray[Any],
    *,
    order: Order = "<",
    big: bool = False,
    compression: int = NONE,
    predictor: bool = False,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    planar: bool = False,
    photometric: int | None = None,
    extra: Sequence[int] = (),
    tags: Mapping[int, Sequence[int]] | None = None,
    pages: int = 1,
) -> bytes:
    """Samples, (H, W) or (H, W, S), uint8 or uint16, as a TIFF or BigTIFF.

    `tile` is a height and width; otherwise there are strips of `rows`. `tags` are added, or replace
    those that follow from the samples. Each page is the same.
    """
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width, n = samples.shape
    planes = [samples[..., i : i + 1] for i in range(n)] if planar else [samples]
    pieces = [
        COMPRESS[compression](_bytes(piece, order, predictor))
        for plane in planes
        for piece in _pieces(plane, tile, rows or height)
    ]
    named: dict[int, Sequence[int]] = {
        256: [width],
        257: [height],
        258: [samples.itemsize * 8] * n,
        259: [compression],
        262: [photometric if photometric is not None else RGB if n > 2 else GREY],
        277: [n],
        284: [2 if planar else 1],
        317: [2 if predictor else 1],
        **({338: extra} if extra else {}),
        **({322: [tile[1]], 323: [tile[0]]} if tile else {278: [rows or height]}),
        **(tags or {}),
    }
    data = b"".join(pieces)
    head = 16 if big else 8
    starts = [head, *(np.cumsum([len(piece) for piece in pieces]) + head).tolist()][:-1]
    places, sizes = (324, 325) if tile else (273, 279)
    named = {places: starts, sizes: [len(piece) for piece in pieces]} | named
    file = bytearray(_head(order, big, head + len(data)) + data)
    for page in range(pages):
        file += _directory(named, order, big, len(file), is_last=page == pages - 1)
    return bytes(file)


def _pieces(plane: NDArray[Any], tile: tuple[int, int] | None, rows: int) -> Iterable[NDArray[Any]]:
    height, width = plane.shape[:2]
    if tile is None:
        return [plane[top : top + rows] for top in range(0, height, rows)]
    below, beside = -height % tile[0], -width % tile[1]
    padded = np.pad(plane, ((0, below), (0, beside), (0, 0)), constant_values=77)
    return [
        padded[top : top + tile[0], left : left + tile[1]]
        for top in range(0, height, tile[0])
        for left in range(0, width, tile[1])
    ]


def _bytes(piece: NDArray[Any], order: Order, predictor: bool) -> bytes:
    if predictor:
        piece = np.concatenate([piece[:, :1], np.diff(piece, axis=1)], axis=1)
    return piece.astype(piece.dtype.newbyteorder(order)).tobytes()


def _head(order: str, big: bool, start: int) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    if big:
        return mark + struct.pack(f"{order}HHHQ", 43, 8, 0, start)
    return mark + struct.pack(f"{order}HI", 42, start)


def _directory(
    tags: Mapping[int, Sequence[int]], order: str, big: bool, start: int, *, is_last: bool
) -> bytes:
    count, entry, offset = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    inline = struct.calcsize(offset)
    entry_size = struct.calcsize(f"{order}{entry}") + inline
    at = start + struct.calcsize(count) + entry_size * len(tags) + inline
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > inline:
            field = struct.pack(f"{order}{offset}", at + len(values))
            values += packed
        else:
            field = packed.ljust(inline, b"\0")
        entries += struct.pack(f"{order}{entry}", tag, 4, len(numbers)) + field
    following = 0 if is_last else at + len(values)
    return (
        struct.pack(f"{order}{count}", len(tags))
        + entries
        + struct.pack(f"{order}{offset}", following)
        + values
    )
