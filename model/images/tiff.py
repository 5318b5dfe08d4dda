"""The first page of a TIFF file: 8- and 16-bit grey and RGB, as microscopes and laboratories write.

A TIFF is a list of tags that point anywhere into the file, and libtiff follows them all. So the
tags that say how pixels are stored are read and checked here, and nothing else is. LZW and PackBits
are decompressed by libtiff, by way of Pillow, but it sees a new file of one page with nine tags,
whose rows are bytes; what the bytes mean is worked out here. BigTIFF is read in the same way.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

MAX_TAGS: Final = 1_024
"""Real files have about twenty; OME-TIFF's 16-bit files some more."""

MAX_SEGMENTS: Final = 16_384
"""Strips or tiles of one page. Each takes some microseconds. A page of the longest allowed side has
at most this many if each row is a strip."""

MAX_TILE_PIXELS: Final = 1 << 20
"""Tiles are padded to their full size. Real ones have 256×256 or 512×512 pixels."""

MAX_SAMPLES: Final = 16
"""Samples of a pixel."""

MAX_PIXEL_BYTES: Final = 8
"""Decoded bytes for each pixel of the limit on pixels, as 16-bit RGBA has. A page with more samples
may have fewer pixels."""

BAND_BYTES: Final = 1 << 20
"""Strips are decoded together up to this size, so that no second copy of a whole page is made."""

NONE, LZW, DEFLATE, ADOBE_DEFLATE, PACKBITS = 1, 5, 32946, 8, 32773

COMPRESSIONS: Final = {
    NONE: "none",
    LZW: "LZW",
    ADOBE_DEFLATE: "Deflate",
    DEFLATE: "Deflate",
    PACKBITS: "PackBits",
}

OTHER_COMPRESSIONS: Final = {
    2: "CCITT (fax)",
    3: "CCITT (fax)",
    4: "CCITT (fax)",
    6: "JPEG",
    7: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Names of compressions that are not read. Their decoders would be further ones to attack."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5

COLOURS: Final = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4}
"""Samples that make the colour, by PhotometricInterpretation."""

GREY_BITS: Final = frozenset({1, 2, 4, 8, 12, 16})

KNOWN_BITS: Final = {
    WHITE_IS_ZERO: GREY_BITS,
    BLACK_IS_ZERO: GREY_BITS,
    RGB: frozenset({8, 16}),
    PALETTE: frozenset({1, 2, 4, 8}),
    CMYK: frozenset({8}),
}

OTHER_COLOURS: Final = {6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 4: "a mask"}

CFA: Final = (32803, 34892)
"""PhotometricInterpretation of raw photos."""

ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2

SAMPLE_FORMATS: Final = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}

# Tags (TIFF 6.0, DNG 1.7).
SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP = 266, 273, 274, 277, 278
STRIP_BYTES, MAX_SAMPLE, PLANAR, PREDICTOR, COLOUR_MAP = 279, 281, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SUB_IFDS = 322, 323, 324, 325, 330
EXTRA_SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 338, 339, 50706

LIMITS: Final = {
    **dict.fromkeys((SUBFILE_TYPE, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, FILL_ORDER), 1),
    **dict.fromkeys((ORIENTATION, SAMPLES, ROWS_PER_STRIP, PLANAR, PREDICTOR), 1),
    **dict.fromkeys((TILE_WIDTH, TILE_HEIGHT, SUB_IFDS, DNG_VERSION), 1),
    **dict.fromkeys((BITS, MAX_SAMPLE, EXTRA_SAMPLES, SAMPLE_FORMAT), MAX_SAMPLES),
    **dict.fromkeys((STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES), MAX_SEGMENTS),
    COLOUR_MAP: 3 * 256,
}
"""The tags that are read, and how many of their values are, at most."""

TYPES: Final = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""numpy's names of the types of whole numbers, by their numbers in the file."""

TYPE_BYTES: Final = {**{kind: int(name[1]) for kind, name in TYPES.items()}, 2: 1, 5: 8, 6: 1, 7: 1}


class TiffError(ValueError):
    """A damaged file, or one of a kind that is not read."""


class TiffPartsError(ValueError):
    """A file with more parts than any real one. The message names the number and the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TiffPage:
    """How the first page is stored, checked against the length of the file."""

    data: bytes
    order: str
    """Of bytes: `<` or `>`."""
    width: int
    height: int
    bits: int
    """Of a sample: 1, 2, 4, 8, 12 or 16."""
    samples: int
    """Of a pixel, with alpha and what is not read."""
    photometric: int
    alpha: int | None
    """`ASSOCIATED_ALPHA`, `UNASSOCIATED_ALPHA`, or None."""
    compression: int
    predictor: bool
    planes: int
    """`samples` if each has a plane of its own, else 1."""
    tile_width: int
    """That of the page if it is stored in strips."""
    tile_height: int
    """Of a tile or strip."""
    is_tiled: bool
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    colour_map: tuple[int, ...]
    orientation: int
    """1 to 8, as in EXIF."""
    significant_bits: int | None
    """Fewer than 16 if the file itself says that its 16-bit samples are to be read so."""
    has_more_pages: bool

    @property
    def colours(self) -> int:
        """Samples that make the colour, without alpha."""
        return COLOURS[self.photometric]

    @property
    def unread_samples(self) -> int:
        """Samples of each pixel that are neither colour nor alpha."""
        return self.samples - self.colours - (self.alpha is not None)

    @property
    def is_deep(self) -> bool:
        """Whether samples have more than 8 bits."""
        return self.bits > 8

    @property
    def mode(self) -> str:
        """Pillow's, of what `TiffImage` becomes."""
        if self.photometric == PALETTE:
            return "RGBA" if self.alpha else "RGB"
        if self.photometric == CMYK:
            return "CMYK"
        if self.photometric == RGB:
            return "RGBA" if self.alpha else "RGB"
        if self.alpha:
            return "LA"
        return "I;16" if self.is_deep else "L"

    @property
    def across(self) -> int:
        """Tiles beside each other."""
        return -(-self.width // self.tile_width)

    @property
    def down(self) -> int:
        """Tiles or strips below each other."""
        return -(-self.height // self.tile_height)

    @property
    def tile_samples(self) -> int:
        """Samples of a pixel that are stored together."""
        return self.samples // self.planes

    @property
    def tile_row_bytes(self) -> int:
        """Bytes of a row of a tile or strip."""
        return (self.tile_width * self.tile_samples * self.bits + 7) // 8


def is_tiff(data: bytes) -> bool:
    """Whether a file starts as TIFF or BigTIFF."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_page(data: bytes) -> TiffPage:
    """How the first page of a TIFF is stored. Decodes nothing.

    Raises `TiffError` or `TiffPartsError`.
    """
    order = "<" if data[:1] == b"I" else ">"
    try:
        tags, has_more_pages = _read_tags(data, order)
        return _page(data, order, tags, has_more_pages)
    except (struct.error, OverflowError) as error:  # offsets of BigTIFF have 64 bits
        raise TiffError("it is cut short within its tags") from error


def _read_tags(data: bytes, order: str) -> tuple[dict[int, list[int]], bool]:
    """The values of the tags in `LIMITS`, and whether there is a second page."""
    is_big = data[3 if order == ">" else 2] == 43
    if is_big:
        (start,) = struct.unpack_from(f"{order}Q", data, 8)
        (count,) = struct.unpack_from(f"{order}Q", data, start)
        at, size, entry, next_page = start + 8, 20, f"{order}HHQ", f"{order}Q"
    else:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        at, size, entry, next_page = start + 2, 12, f"{order}HHI", f"{order}I"
    if count > MAX_TAGS:
        raise TiffPartsError(f"the TIFF file has {count:,} tags > maximum {MAX_TAGS:,}")
    inline_bytes = size - struct.calcsize(entry)
    tags: dict[int, list[int]] = {}
    for number in range(count):
        position = at + size * number
        tag, kind, n = struct.unpack_from(entry, data, position)
        limit = LIMITS.get(tag)
        if limit is None or kind not in TYPES or tag in tags:
            continue
        if n > limit:
            if limit == MAX_SEGMENTS:
                raise TiffPartsError(
                    f"the TIFF file has {n:,} strips or tiles > maximum {MAX_SEGMENTS:,}"
                )
            if tag == COLOUR_MAP:
                raise TiffError(f"its colour map has {n:,} values")
            n = limit
        where = position + size - inline_bytes
        if n * TYPE_BYTES[kind] > inline_bytes:
            (where,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, where)
        if where + n * TYPE_BYTES[kind] > len(data):
            raise TiffError("it is cut short within its tags")
        tags[tag] = np.frombuffer(data, order + TYPES[kind], n, where).tolist()
    end = at + size * count
    has_next = end + struct.calcsize(next_page) <= len(data)
    return tags, bool(has_next and struct.unpack_from(next_page, data, end)[0])


def _page(data: bytes, order: str, tags: dict[int, list[int]], has_more_pages: bool) -> TiffPage:
    def one(tag: int, default: int | None = None) -> int:
        values = tags.get(tag) or ([] if default is None else [default])
        if not values:
            raise TiffError(f"it has no tag {tag}, which is needed")
        return values[0]

    photometric = one(PHOTOMETRIC, BLACK_IS_ZERO)
    if photometric in CFA or DNG_VERSION in tags or (one(SUBFILE_TYPE, 0) & 1 and SUB_IFDS in tags):
        raise TiffError("it is a raw photo (DNG, NEF, ARW or the like)")
    width, height = one(WIDTH), one(HEIGHT)
    if not width or not height:
        raise TiffError("it has no pixels")
    samples = one(SAMPLES, 1)
    _check_samples(tags, samples, photometric)
    bits = one(BITS, 1)
    compression = one(COMPRESSION, NONE)
    if compression not in COMPRESSIONS:
        name = OTHER_COMPRESSIONS.get(compression, f"of type {compression}")
        raise TiffError(f"its compression is {name}; none, LZW, Deflate and PackBits are read")
    predictor = one(PREDICTOR, 1) if compression in (LZW, DEFLATE, ADOBE_DEFLATE) else 1
    if predictor not in (1, 2) or (predictor == 2 and bits not in (8, 16)):
        raise TiffError(f"its predictor is {predictor} for {bits} bits, which is not read")
    if one(FILL_ORDER, 1) != 1 and (bits < 8 or compression != NONE):
        raise TiffError("its bits are stored in reverse order (FillOrder 2), which is not read")
    is_tiled = TILE_OFFSETS in tags
    tile_width = one(TILE_WIDTH) if is_tiled else width
    tile_height = one(TILE_HEIGHT) if is_tiled else min(one(ROWS_PER_STRIP, height), height)
    if not tile_width or not tile_height:
        raise TiffError("its tiles or strips have no pixels")
    if is_tiled and tile_width * tile_height > MAX_TILE_PIXELS:
        raise TiffPartsError(
            f"the TIFF file has tiles of {tile_width} × {tile_height} pixels > maximum "
            f"{MAX_TILE_PIXELS:,}"
        )
    colours = COLOURS[photometric]
    extra = tags.get(EXTRA_SAMPLES, [])[:1] if samples > colours else []
    alpha = extra[0] if extra and extra[0] in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA) else None
    orientation = one(ORIENTATION, 1)
    page = TiffPage(
        data=data,
        order=order,
        width=width,
        height=height,
        bits=bits,
        samples=samples,
        photometric=photometric,
        alpha=None if photometric == CMYK else alpha,
        compression=compression,
        predictor=predictor == 2,
        planes=samples if one(PLANAR, 1) == 2 else 1,
        tile_width=tile_width,
        tile_height=tile_height,
        is_tiled=is_tiled,
        offsets=tuple(tags.get(TILE_OFFSETS if is_tiled else STRIP_OFFSETS, [])),
        byte_counts=tuple(tags.get(TILE_BYTES if is_tiled else STRIP_BYTES, [])),
        colour_map=tuple(tags.get(COLOUR_MAP, [])),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        significant_bits=_significant_bits(bits, tags),
        has_more_pages=has_more_pages,
    )
    if photometric == PALETTE and len(page.colour_map) != 3 << bits:
        raise TiffError(f"its colour map has {len(page.colour_map):,} values, not {3 << bits}")
    return page


def _check_samples(tags: dict[int, list[int]], samples: int, photometric: int) -> None:
    if photometric not in COLOURS:
        name = OTHER_COLOURS.get(photometric, f"of type {photometric}")
        raise TiffError(f"its colours are {name}; grey, RGB, CMYK and palettes are read")
    if not COLOURS[photometric] <= samples <= MAX_SAMPLES:
        raise TiffError(
            f"it has {samples} samples a pixel, expected {COLOURS[photometric]} to {MAX_SAMPLES}"
        )
    bits = set(tags.get(BITS, [1]))
    kinds = set(tags.get(SAMPLE_FORMAT, [1])) - {1, 4}
    if kinds:
        name = SAMPLE_FORMATS.get(min(kinds), "other")
        raise TiffError(
            f"its samples are {name} numbers of {min(bits)} bits; unsigned ones of 8 and 16 bits "
            "are read"
        )
    if len(bits) != 1 or not bits <= KNOWN_BITS[photometric]:
        raise TiffError(
            f"its samples have {', '.join(map(str, sorted(bits)))} bits; 8 and 16 are read"
        )


def _significant_bits(bits: int, tags: dict[int, list[int]]) -> int | None:
    """What the file says of its samples: packed 12 bits, or MaxSampleValue 4095 for 16 bits.

    TIFF allows other values of MaxSampleValue as statistics, so only those of 2ⁿ − 1 count.
    """
    if bits == 12:
        return 12
    largest = max(tags.get(MAX_SAMPLE, [0]))
    is_full = largest > 255 and largest & (largest + 1) == 0
    return largest.bit_length() if bits == 16 and is_full and largest < 65_535 else None


def check_decoded_bytes(page: TiffPage, max_pixels: int) -> None:
    """Raise `TiffPartsError` if decoding takes more memory than `max_pixels` of 16-bit RGBA."""
    rows = page.down * page.tile_height if page.is_tiled else page.height
    decoded = rows * page.across * page.tile_row_bytes * page.planes
    limit = max(MAX_PIXEL_BYTES * max_pixels, 2 * MAX_TILE_PIXELS * page.samples)
    if decoded > limit:
        raise TiffPartsError(f"the TIFF file has {decoded:,} bytes of samples > maximum {limit:,}")


class TiffImage(Image.Image):
    """A first page that is decoded when it is loaded. 16-bit colour keeps its high bytes only."""

    format = "TIFF"
    format_description = "first page of a TIFF"

    def __init__(self, page: TiffPage) -> None:
        super().__init__()
        self.page = page
        self._mode = page.mode
        self._size = (page.width, page.height)
        self._is_decoded = False

    def load(self) -> Any:
        """Decode the page. Raises `TiffError`."""
        if not self._is_decoded:
            samples = decode(self.page)
            if self.page.is_deep and self.mode != "I;16":
                samples = (samples >> (self.page.bits - 8)).astype(np.uint8)
            self.im = to_image(self.page, samples).im
            self._is_decoded = True
        return super().load()


def to_image(page: TiffPage, samples: NDArray[Any]) -> Image.Image:
    """Samples, (H, W, colours and alpha), as an image: uint8, or uint16 for grey alone."""
    if page.alpha == ASSOCIATED_ALPHA:
        image = Image.fromarray(_with_four(samples))
        image = Image.frombuffer("RGBa", image.size, image.tobytes(), "raw", "RGBa", 0, 1)
        return image.convert("RGBA").convert(page.mode)
    if page.mode == "CMYK":
        size = (page.width, page.height)
        return Image.frombuffer("CMYK", size, samples.tobytes(), "raw", "CMYK", 0, 1)
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def _with_four(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey and alpha as RGB and alpha."""
    return samples if samples.shape[2] == 4 else np.ascontiguousarray(samples[..., [0, 0, 0, 1]])


def decode(page: TiffPage) -> NDArray[Any]:
    """The samples of colour and alpha, (H, W, samples): uint8 up to 8 bits, uint16 above.

    Black is 0 and samples of fewer than 8 bits are scaled to 8. Raises `TiffError`.
    """
    kept = page.colours + (page.alpha is not None)
    dtype = np.uint16 if page.is_deep else np.uint8
    found = np.empty((page.height, page.width, kept), dtype)
    for plane in range(min(page.planes, kept)):
        for top, rows in _bands(page, plane):
            band = _samples(page, rows)[: page.height - top, : page.width]
            into = found[top : top + len(band)]
            if page.planes == 1:
                into[...] = band[..., :kept]
            else:
                into[..., plane] = band[..., 0]
    if page.photometric == PALETTE:
        return _coloured(page, found)
    if page.photometric == WHITE_IS_ZERO:
        np.subtract((1 << page.bits) - 1, found[..., 0], out=found[..., 0])
    if page.bits < 8:
        found *= np.uint8(255 // ((1 << page.bits) - 1))
    return found


def _coloured(page: TiffPage, found: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colours = np.array(page.colour_map, np.uint32).reshape(3, -1).T
    if colours.max() > 255:  # 16 bits, as specified; some writers put 8 there
        colours >>= 8
    coloured: NDArray[np.uint8] = colours.astype(np.uint8)[found[..., 0]]
    if page.alpha is None:
        return coloured
    alpha = found[..., 1:].astype(np.uint16) * 255 // ((1 << page.bits) - 1)
    return np.concatenate([coloured, alpha.astype(np.uint8)], axis=2)


def _samples(page: TiffPage, rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Decompressed rows of bytes, (rows, tiles, bytes), as (rows, columns, samples)."""
    n, samples = len(rows), page.tile_samples
    if page.bits == 16:
        values: NDArray[Any] = rows.reshape(-1).view(f"{page.order}u2")
        if page.predictor or page.order != "<":
            values = values.astype(np.uint16)
    elif page.bits == 8:
        values = rows
    else:
        values = _unpacked(rows, page.bits)[..., : page.tile_width * samples]
    values = values.reshape(n, page.across, page.tile_width, samples)
    if page.predictor:  # each sample is stored as its difference from that to its left
        values = np.add.accumulate(values, axis=2, dtype=values.dtype)
    return values.reshape(n, page.across * page.tile_width, samples)


def _unpacked(rows: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    """Samples of 1, 2, 4 or 12 bits that are packed from the highest bit on; rows are padded."""
    if bits == 12:
        padded = np.pad(rows, ((0, 0), (0, 0), (0, -rows.shape[2] % 3))).astype(np.uint16)
        a, b, c = (padded[..., i::3] for i in range(3))
        pairs = np.stack([a << 4 | b >> 4, (b & 15) << 8 | c], axis=-1)
        return pairs.reshape(*rows.shape[:2], -1)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    unpacked: NDArray[np.uint8] = rows[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return unpacked.reshape(*rows.shape[:2], -1)


def _bands(page: TiffPage, plane: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The rows of a plane, decompressed: the first row's number, and (rows, tiles, bytes)."""
    each = page.across * page.down
    first = plane * each
    offsets = page.offsets[first : first + each]
    counts = page.byte_counts[first : first + each]
    if len(offsets) != each:
        raise TiffError(
            f"it has {len(page.offsets):,} strips or tiles, expected {each * page.planes:,}"
        )
    row_bytes = page.tile_row_bytes
    height = page.tile_height
    if page.compression == NONE:
        counts = tuple(
            row_bytes * (height if page.is_tiled else min(height, page.height - height * i))
            for i in range(each)
        )
    elif len(counts) != each:
        if each > 1 or counts:
            raise TiffError("the sizes of its strips or tiles are missing")
        counts = (len(page.data) - offsets[0],)
    _check_segments(page, offsets, counts)
    together = max(1, BAND_BYTES // (row_bytes * page.across * height))
    step = max(1, BAND_BYTES // (row_bytes * page.across))
    for start in range(0, page.down, together):
        stop = min(start + together, page.down)
        top = start * height
        n = (stop - start) * height if page.is_tiled else min(stop * height, page.height) - top
        chosen = slice(start * page.across, stop * page.across)
        rows = _decompressed(page, offsets[chosen], counts[chosen], n)
        for row in range(0, n, step):  # one strip may be the whole page
            until = min(row + step, n)
            if isinstance(rows, Image.Image):
                part = np.asarray(rows.crop((0, row, rows.width, until)))
                yield top + row, part.reshape(until - row, page.across, row_bytes)
            else:
                yield top + row, rows[row:until]


def _check_segments(page: TiffPage, offsets: Sequence[int], counts: Sequence[int]) -> None:
    length = len(page.data)
    if any(offset + count > length for offset, count in zip(offsets, counts, strict=True)):
        raise TiffError("it is cut short")
    if page.compression != NONE and sum(counts) > length:
        # Otherwise thousands of strips could each be the whole file.
        raise TiffError("its strips or tiles overlap")


def _decompressed(
    page: TiffPage, offsets: Sequence[int], counts: Sequence[int], rows: int
) -> NDArray[np.uint8] | Image.Image:
    """Neighbouring segments, (rows, tiles, bytes), or a grey image of the same bytes."""
    across, height, row_bytes = page.across, page.tile_height, page.tile_row_bytes
    view = memoryview(page.data)
    stored = [view[start : start + n] for start, n in zip(offsets, counts, strict=True)]
    if page.compression in (LZW, PACKBITS):
        return _by_libtiff(page, stored, rows)
    if len(stored) == 1 and page.compression == NONE:
        return np.frombuffer(stored[0], np.uint8).reshape(rows, 1, row_bytes)
    found = np.empty((rows, across, row_bytes), np.uint8)
    for number, segment in enumerate(stored):
        top = number // across * height
        into = found[top : top + height, number % across]
        found_bytes = segment if page.compression == NONE else _inflated(segment, into.size)
        into[...] = np.frombuffer(found_bytes, np.uint8).reshape(into.shape)
    return found


def _inflated(stored: memoryview, size: int) -> bytes:
    try:
        found = zlib.decompressobj().decompress(stored, size)
    except zlib.error as error:
        raise TiffError("its Deflate data are damaged") from error
    if len(found) != size:
        raise TiffError("its Deflate data are cut short")
    return found


def _by_libtiff(page: TiffPage, stored: Sequence[memoryview], rows: int) -> Image.Image:
    """Segments of LZW or PackBits, decompressed as the rows of an 8-bit grey image."""
    across, row_bytes = page.across, page.tile_row_bytes
    width = across * row_bytes
    starts = np.cumsum([8, *map(len, stored)])
    tags = [
        (WIDTH, [width]),
        (HEIGHT, [rows]),
        (BITS, [8]),
        (COMPRESSION, [page.compression]),
        (PHOTOMETRIC, [BLACK_IS_ZERO]),
        *([] if page.is_tiled else [(STRIP_OFFSETS, starts[:-1].tolist())]),
        (SAMPLES, [1]),
        *([] if page.is_tiled else [(ROWS_PER_STRIP, [page.tile_height])]),
        *([] if page.is_tiled else [(STRIP_BYTES, list(map(len, stored)))]),
    ]
    if page.is_tiled:
        tags += [
            (TILE_WIDTH, [row_bytes]),
            (TILE_HEIGHT, [page.tile_height]),
            (TILE_OFFSETS, starts[:-1].tolist()),
            (TILE_BYTES, list(map(len, stored))),
        ]
    start = int(starts[-1]) + int(starts[-1]) % 2
    file = b"".join(
        [
            struct.pack("<2sHI", b"II", 42, start),
            *stored,
            bytes(start - int(starts[-1])),
            *_directory(tags, start),
        ]
    )
    try:
        # Not Image.open(), which counts these bytes as pixels and warns of a bomb.
        image = TiffImageFile(BytesIO(file))
        image.load()
    except Exception as error:  # Pillow raises a dozen types, all for bad data
        name = COMPRESSIONS[page.compression]
        raise TiffError(f"its {name} data are damaged: {error}") from error
    return image


def _directory(tags: Sequence[tuple[int, list[int]]], start: int) -> list[bytes]:
    """A page's tags as LONGs, and the values that do not fit into them."""
    entries, values = [], []
    at = start + 2 + 12 * len(tags) + 4
    for tag, numbers in tags:
        where = numbers[0] if len(numbers) == 1 else at
        entries.append(struct.pack("<HHII", tag, 4, len(numbers), where))
        if len(numbers) > 1:
            values.append(np.array(numbers, "<u4").tobytes())
            at += len(values[-1])
    return [struct.pack("<H", len(tags)), *entries, bytes(4), *values]
