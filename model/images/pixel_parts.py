"""The parts of an image file that hold pixels, found and counted before a decoder sees the file.

Decoders read more than pixels: texts that decompress to a thousand times their size, EXIF entries
that all point at one block (older decoders copy it for each, newer ones warn about each), millions
of empty chunks. All of that is removed here without being decompressed, so that it can do no harm.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

MAX_PARTS: Final = 16_384
"""Chunks of a PNG or WebP, or segments of a JPEG. Each takes a few microseconds, and this many
50 ms. A PNG of 32 MB in libpng's chunks of 8 KiB has 4,096."""

MAX_SCANS: Final = 64
"""Scans of a JPEG. Each covers the whole image, and may take only a few bytes; a progressive file
has 10."""

MAX_TABLES: Final = 1 << 18
"""Bytes that are kept before a JPEG's first scan. Real tables have 2 kB; Pillow spends 10 µs on a
table of 65 bytes."""

MAX_RUN_LENGTHS: Final = 1 << 20
"""Bytes, and pixels, of a run-length encoded BMP: Pillow's decoder for those is written in Python
and takes up to a microsecond for each."""

BMP_HEADERS: Final = (12, 40, 52, 56, 64, 108, 124)
"""Lengths of a BMP's header, by version. Only the first has 16-bit sizes."""

JPEG_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The start of a segment. In pixel data, ff is followed by 00 or by a restart marker's number."""

ORIENTATION: Final = 0x0112
"""The EXIF tag (Exif 2.32, section 4.6.4)."""

WITH_ALPHA: Final = (4, 6)
"""A PNG's colour types that have an alpha channel: grey and RGB."""

EXIF_PREFIX: Final = b"Exif\0\0"


class PartsError(ValueError):
    """A file has more parts than any real one. The message names the number and the limit."""


class PixelParts(NamedTuple):
    """`data` is the file without the parts that hold no pixels; a damaged file stays damaged.

    `size` is the width and height in its header, None if there is none. `exif` is unchecked.
    `scans` are a JPEG's; with more than one, libjpeg holds all coefficients until the last is read.
    `sample_bits` are a PNG's, and `significant_bits` what its sBIT chunk says.
    """

    data: bytes
    size: tuple[int, int] | None = None
    exif: bytes = b""
    scans: int = 0
    sample_bits: int = 8
    significant_bits: int | None = None


def pixel_parts(data: bytes) -> PixelParts:
    """The parts of a PNG, JPEG, WebP or BMP; anything else is returned unchanged.

    Raises `PartsError`.
    """
    for magic, take_apart in TAKE_APART.items():
        if data.startswith(magic):
            try:
                return take_apart(data)
            except struct.error:  # truncated within its header
                break
    return PixelParts(data)


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, if the data have none.

    Reads the values in the entries only, never what entries point to.
    """
    exif = exif.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, at)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(order + {4: "I"}.get(kind, "H"), exif, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # truncated
        pass
    return 1


def _png(data: bytes) -> PixelParts:
    """Drop ancillary chunks (texts, profiles, later frames), except transparency."""
    width, height, sample_bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    view, kept = memoryview(data), []
    exif, significant_bits = b"", None
    at = kept_from = 8
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind[0] & 0x20 and kind != b"tRNS" and kind.isalpha():
            kept.append(view[kept_from:at])
            kept_from = end
            if kind == b"eXIf":
                exif = exif or data[at + 8 : end - 4]
            elif kind == b"sBIT" and 0 < length <= 4:
                colours = length - (colour_type in WITH_ALPHA)  # alpha's bits come last
                significant_bits = max(data[at + 8 : at + 8 + colours], default=0)
        at = end
        if kind == b"IEND":
            break
    else:
        raise PartsError(f"the PNG file has more than {MAX_PARTS:,} chunks, the maximum")
    if kept:
        data = b"".join([data[:8], *kept, view[kept_from:at]])
    if not 8 <= (significant_bits or 0) < sample_bits:
        significant_bits = None
    return PixelParts(data, (width, height), exif, 0, sample_bits, significant_bits)


def _jpeg(data: bytes) -> PixelParts:
    """Drop comments and application segments, except JFIF's and Adobe's, which define colours."""
    view = memoryview(data)
    kept = [view[:2]]
    size, exif = None, b""
    at, tables, scans_from, scans = 2, 0, 0, 0
    for _ in range(MAX_PARTS):
        marker = JPEG_MARKER.search(data, at)
        if marker is None:
            at = len(data)
            break
        start, kind = marker.start(), data[marker.end() - 1]
        if kind < 0xC0 or kind in (0xD8, 0xD9):  # markers without a length; 0xD9 ends the image
            at = marker.end()
            break
        if start + 4 > len(data):
            at = len(data)
            break
        (length,) = struct.unpack_from(">H", data, start + 2)
        at = start + 2 + max(2, length)
        if kind == 0xDA:
            scans += 1
            scans_from = scans_from or start
            if scans > MAX_SCANS:
                raise PartsError(f"the JPEG file has more than {MAX_SCANS} scans, the maximum")
        elif scans:
            continue
        elif 0xE1 <= kind <= 0xED or kind in (0xEF, 0xFE):
            if kind == 0xE1 and not exif and data.startswith(EXIF_PREFIX, start + 4):
                exif = data[start + 4 : at]
        else:
            if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and size is None:
                height, width = struct.unpack_from(">HH", data, start + 5)
                size = (width, height)
            tables += at - start
            if tables > MAX_TABLES:
                raise PartsError(
                    f"the JPEG file has {tables:,} bytes of tables > maximum {MAX_TABLES:,}"
                )
            kept.append(view[start:at])
    else:
        raise PartsError(f"the JPEG file has more than {MAX_PARTS:,} segments, the maximum")
    if scans_from != sum(map(len, kept)) or at < len(data):
        data = b"".join([*kept, view[scans_from or at : at]])
    return PixelParts(data, size, exif, scans)


def _webp(data: bytes) -> PixelParts:
    """Keep everything: the decoder stores a few bytes per chunk, and decodes one frame."""
    if data[8:12] != b"WEBP":
        return PixelParts(data)
    first, size = data[12:16], None
    if first == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        size = (width + 1, height + 1)
    elif first == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif first == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        size = (width & 0x3FFF, height & 0x3FFF)
    exif = b""
    at = 12
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return PixelParts(data, size, exif)
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            exif = exif or data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    raise PartsError(f"the WebP file has more than {MAX_PARTS:,} chunks, the maximum")


def _bmp(data: bytes) -> PixelParts:
    """Keep everything: a BMP has nothing but pixels."""
    (header,) = struct.unpack_from("<I", data, 14)
    if header not in BMP_HEADERS:
        return PixelParts(data)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return PixelParts(data, (width, height))
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    pixels = width * height
    if compression in (1, 2) and max(len(data), pixels) > MAX_RUN_LENGTHS:
        raise PartsError(
            f"the BMP file is run-length encoded and has {len(data):,} bytes for {pixels:,} "
            f"pixels; the maximum is {MAX_RUN_LENGTHS:,} of either"
        )
    return PixelParts(data, (width, height))


TAKE_APART: Final[dict[bytes, Callable[[bytes], PixelParts]]] = {
    b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR": _png,
    b"\xff\xd8\xff": _jpeg,
    b"RIFF": _webp,
    b"BM": _bmp,
}
