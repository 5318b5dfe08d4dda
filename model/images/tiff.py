"""The first page of a TIFF file: its header is checked here, and Pillow and libtiff decode it.

A TIFF is a list of tags that point anywhere into the file, and decoders follow them all. So only
the tags that describe the first page's pixels are left in the file before Pillow sees it. That
leaves no further pages, no EXIF, no profiles, and no more strips than the page needs.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Final, NamedTuple

from PIL.TiffImagePlugin import COMPRESSION_INFO, MAX_SAMPLESPERPIXEL, TiffImageFile

from model.images.pixel_parts import PartsError

MAX_TAGS: Final = 1_024
"""Real files have about twenty; OME-TIFF's 16-bit files some more."""

MAX_SEGMENTS: Final = 16_384
"""Strips or tiles of a page. Each takes some microseconds. A page of the longest allowed side has
at most this many if each row is a strip."""

MAX_TILE_PIXELS: Final = 1 << 20
"""Tiles are decoded at their full size. Real ones have 256×256 or 512×512 pixels."""

COMPRESSIONS: Final = (1, 5, 8, 32946, 32773)
"""None, LZW, Deflate and PackBits. Other decoders would be further ones to attack."""

GREY, RGB, PALETTE, CMYK = 1, 2, 3, 5
COLOURS: Final = {0: "grey, 0 is white", GREY: "grey", RGB: "RGB", PALETTE: "palette", CMYK: "CMYK"}
"""By PhotometricInterpretation."""

OTHER_COLOURS: Final = {6: "YCbCr", 8: "CIELab"}
RAW_PHOTOS: Final = (32803, 34892)
SAMPLE_FORMATS: Final = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}

# Tags (TIFF 6.0, DNG 1.7).
SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP = 266, 273, 274, 277, 278
STRIP_BYTES, MAX_SAMPLE, PLANAR, PREDICTOR, COLOUR_MAP = 279, 281, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SUB_IFDS = 322, 323, 324, 325, 330
EXTRA_SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 338, 339, 50706

PIXEL_TAGS: Final = {
    **dict.fromkeys((WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES), 1),
    **dict.fromkeys((ROWS_PER_STRIP, PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT), 1),
    **dict.fromkeys((BITS, EXTRA_SAMPLES, SAMPLE_FORMAT), 16),
    **dict.fromkeys((STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES), MAX_SEGMENTS),
    COLOUR_MAP: 3 * 256,
}
"""The tags that Pillow sees, and how many values each may have."""

MAX_VALUES: Final = {**PIXEL_TAGS, SUBFILE_TYPE: 1, ORIENTATION: 1, MAX_SAMPLE: 16}
TYPES: Final = {3: "H", 4: "I", 16: "Q"}
"""`struct`'s names of the types of whole numbers, by their numbers in the file."""


class TiffError(ValueError):
    """A damaged file, or one of a kind that is not read."""


class TiffPage(NamedTuple):
    """`data` is the file with its first page's pixels alone, and `tags` are that page's values."""

    data: bytes
    tags: dict[int, list[int]]
    has_more_pages: bool

    def one(self, tag: int, default: int | None = None) -> int:
        """The first value of a tag. Raises `TiffError` if it is missing and has no default."""
        values = self.tags.get(tag) or ([] if default is None else [default])
        if not values:
            raise TiffError(f"it has no tag {tag}, which is needed")
        return values[0]

    @property
    def bits(self) -> int:
        """Of a sample."""
        return self.one(BITS, 1)

    @property
    def significant_bits(self) -> int | None:
        """12 if the samples are packed so, and what MaxSampleValue says of 16-bit samples.

        TIFF allows any MaxSampleValue as a statistic, so only those of 2ⁿ − 1 count.
        """
        largest = 4_095 if self.bits == 12 else max(self.tags.get(MAX_SAMPLE, [0]))
        is_full = 255 < largest < 65_535 and largest & (largest + 1) == 0
        return largest.bit_length() if self.bits > 8 and is_full else None


def is_tiff(data: bytes) -> bool:
    """Whether a file starts as TIFF or BigTIFF."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_page(data: bytes) -> TiffPage:
    """The tags of the first page of a TIFF. Raises `TiffError` or `PartsError`."""
    try:
        page = _read_tags(data)
    except (struct.error, OverflowError) as error:  # offsets of BigTIFF have 64 bits
        raise TiffError("it is cut short within its tags") from error
    if not page.one(WIDTH) or not page.one(HEIGHT):
        raise TiffError("it has no pixels")
    _check_kind(page)
    return page


def _read_tags(data: bytes) -> TiffPage:
    order, is_big = "<" if data[:1] == b"I" else ">", 43 in data[2:4]
    if is_big and order == ">":
        raise TiffError("it is a big-endian BigTIFF, which is not read")
    codes = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    count, entry, offset = (order + code for code in codes)
    (start,) = struct.unpack_from(offset, data, 8 if is_big else 4)
    (n,) = struct.unpack_from(count, data, start)
    if n > MAX_TAGS:
        raise PartsError(f"the TIFF file has {n:,} tags > maximum {MAX_TAGS:,}")
    size, inline = struct.calcsize(entry), struct.calcsize(offset)
    first = start + struct.calcsize(count)
    end = first + n * size
    tags: dict[int, list[int]] = {}
    kept: dict[int, bytes] = {}
    outside = 0
    for at in range(first, end, size):
        tag, kind, length, _ = struct.unpack_from(entry, data, at)
        if tag in (DNG_VERSION, SUB_IFDS):  # it only counts that they are there
            tags[tag] = []
        is_other_type = kind not in TYPES or not length
        if tag in tags or tag not in MAX_VALUES or (is_other_type and tag not in PIXEL_TAGS):
            continue
        if length > MAX_VALUES[tag]:
            raise PartsError(
                f"the TIFF file's tag {tag} has {length:,} values > maximum {MAX_VALUES[tag]:,}"
            )
        if is_other_type:
            raise TiffError(f"its tag {tag} has {length} values of type {kind}, not whole numbers")
        values, where = f"{order}{length}{TYPES[kind]}", at + size - inline
        if struct.calcsize(values) > inline:
            (where,) = struct.unpack_from(offset, data, where)
            outside += struct.calcsize(values)
            if start < where + struct.calcsize(values) and where < end:
                raise TiffError("its tags overlap")
        tags[tag] = list(struct.unpack_from(values, data, where))
        if tag in PIXEL_TAGS:
            kept[tag] = data[at : at + size]
    if start < 2 * inline or outside > len(data):
        raise TiffError("its tags overlap")
    if tags.get(SAMPLES, [1]) == [1]:  # planes of one sample are the same as none
        kept.pop(PLANAR, None)
    directory = struct.pack(count, len(kept)) + b"".join(kept.values()) + bytes(inline)
    view = memoryview(data)
    file = b"".join([view[:start], directory, view[start + len(directory) :]])
    return TiffPage(file, tags, has_more_pages=any(data[end : end + inline]))


def _check_kind(page: TiffPage) -> None:
    tags, compression, colours = page.tags, page.one(COMPRESSION, 1), page.one(PHOTOMETRIC)
    is_preview = page.one(SUBFILE_TYPE, 0) & 1 and SUB_IFDS in tags
    if is_preview or DNG_VERSION in tags or colours in RAW_PHOTOS:
        raise TiffError("it is a raw photo (DNG, NEF, ARW or the like)")
    if compression not in COMPRESSIONS:
        name = COMPRESSION_INFO.get(compression, "").removeprefix("tiff_").upper()
        name = name or f"of type {compression}"
        raise TiffError(f"its compression is {name}; none, LZW, Deflate and PackBits are read")
    if colours not in COLOURS:
        name = OTHER_COLOURS.get(colours, f"of type {colours}")
        raise TiffError(f"its colours are {name}; grey, RGB, CMYK and palettes are read")
    formats, bits = set(tags.get(SAMPLE_FORMAT, [1])) - {1}, sorted(set(tags.get(BITS, [1])))
    if formats or len(bits) > 1 or bits[0] not in (1, 2, 4, 8, 12, 16):
        name = SAMPLE_FORMATS.get(max(formats), "other") if formats else "unsigned"
        raise TiffError(
            f"its samples are {name} numbers of {', '.join(map(str, bits))} bits; unsigned ones of "
            "8 and 16 bits are read"
        )


def open_page(page: TiffPage, max_pixels: int) -> TiffImageFile:
    """Have Pillow open a page whose size is known to be allowed. Nothing is decoded yet.

    Raises `TiffError` or `PartsError`.
    """
    _check_segments(page, max_pixels)
    colours, samples, bits = page.one(PHOTOMETRIC), page.one(SAMPLES, 1), page.bits
    extra, is_planar = page.tags.get(EXTRA_SAMPLES, []), page.one(PLANAR, 1) == 2 and samples > 1
    table = page.tags.get(COLOUR_MAP, [0])
    if colours == PALETTE and (len(table) != 3 << bits or not 255 < max(table) < 65_536):
        raise TiffError(
            f"its colour map has {len(table):,} values up to {max(table):,}, "
            f"expected {3 << bits:,} of 16 bits"
        )
    # Pillow opens some of these, and gets their pixels, or the low bytes of those, wrong.
    is_known = bits <= 8 or (colours in (GREY, RGB) and extra[:1] != [1])
    if is_planar:
        is_known = bits == 8 and colours == RGB and extra in ([], [2])
    reason = None
    if is_known and samples <= MAX_SAMPLESPERPIXEL:  # with more, Pillow logs an error
        try:
            return TiffImageFile(BytesIO(page.data))
        except Exception as error:  # Pillow raises several types
            reason = error
    raise TiffError(
        f"it has {samples} × {bits} bits a pixel ({COLOURS[colours]}"
        f"{f', further samples {extra}' if extra else ''}{', in planes' if is_planar else ''}), "
        "which is not read"
    ) from reason


def _check_segments(page: TiffPage, max_pixels: int) -> None:
    """Whether strips or tiles are as many as the page needs. Otherwise decoders may run long."""
    one, tags, is_tiled = page.one, page.tags, TILE_OFFSETS in page.tags
    if is_tiled and STRIP_OFFSETS in tags:
        raise TiffError("it has both strips and tiles")
    width = one(TILE_WIDTH) if is_tiled else one(WIDTH)
    height = one(TILE_HEIGHT) if is_tiled else min(one(ROWS_PER_STRIP, one(HEIGHT)), one(HEIGHT))
    if not width or not height or (is_tiled and width % 16):
        raise TiffError(f"its strips or tiles have {width} × {height} pixels")
    n = -(-one(WIDTH) // width) * -(-one(HEIGHT) // height)
    decoded = n * width * height
    if is_tiled and (
        width * height > MAX_TILE_PIXELS or decoded > 2 * max_pixels + MAX_TILE_PIXELS
    ):
        raise PartsError(
            f"the TIFF file has {n:,} tiles of {width} × {height} pixels; the maximum is "
            f"{MAX_TILE_PIXELS:,} pixels for one, and twice an image's for all"
        )
    n *= one(SAMPLES, 1) if one(PLANAR, 1) == 2 else 1
    found = len(tags.get(TILE_OFFSETS if is_tiled else STRIP_OFFSETS, []))
    counts = tags.get(TILE_BYTES if is_tiled else STRIP_BYTES, [])
    if found != n or (one(COMPRESSION, 1) != 1 and len(counts) != n):
        raise TiffError(
            f"it has {found:,} strips or tiles and {len(counts):,} sizes, expected {n:,}"
        )
    if one(COMPRESSION, 1) != 1 and sum(counts) > len(page.data):
        raise TiffError("its strips or tiles overlap")
