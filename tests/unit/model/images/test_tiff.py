"""TIFF files of microscopes and laboratories: their first page, in every layout."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model.images import tiff
from model.images.preprocessing import (
    TURNS,
    ImageBitsError,
    ImageError,
    ImageTooLargeError,
    MalformedImageError,
    Note,
    image_to_array,
    open_image,
)
from tests.tiff_files import DEFLATE, LZW, NONE, PACKBITS, tiff_file
from tests.unit.samples import assert_one_line, damaged

HEIGHT, WIDTH = 37, 50
NUMBERS = np.random.default_rng(5)
DEEP = NUMBERS.integers(0, 65_536, (HEIGHT, WIDTH, 4), dtype=np.uint16)
EIGHT = (DEEP >> 8).astype(np.uint8)
SIDES = {256: [WIDTH], 257: [HEIGHT]}


def read(
    data: bytes, channels: int = 1, bits: int | None = None
) -> tuple[NDArray[np.uint8], list[Note]]:
    """The pixels, (H, W) or (H, W, 3), and the notes."""
    notes: list[Note] = []
    image = open_image(data, max_pixels=1_000_000)
    assert image.format == "TIFF"
    shape = (channels, HEIGHT, WIDTH)
    pixels = image_to_array(image, shape, resize=False, bits=bits, notes=notes)
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0), notes


PACKED = [(NONE, False), (LZW, False), (LZW, True), (DEFLATE, False), (DEFLATE, True)]
PACKED += [(PACKBITS, False)]
PIECES: list[dict[str, Any]] = [{}, {"rows": 5}, {"tile": (16, 32)}]
HEADS: list[dict[str, Any]] = [{"order": "<"}, {"order": ">"}, {"order": "<", "big": True}]
LAYOUTS: list[dict[str, Any]] = [
    {**head, "compression": compression, "predictor": predictor, **pieces}
    for head, (compression, predictor), pieces in product(HEADS, PACKED, PIECES)
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_gives_the_same_pixels(layout: dict[str, Any]) -> None:
    for samples in (EIGHT, DEEP):
        for planar in (False, True):  # which makes no difference with one sample
            file = tiff_file(samples[..., 0], planar=planar, **layout)
            assert np.array_equal(read(file)[0], EIGHT[..., 0])
        found, _ = read(tiff_file(samples[..., :3], **layout), 3)
        assert np.array_equal(found, EIGHT[..., :3])
        opaque = np.dstack([samples[..., :3], ~np.zeros_like(samples[..., 3])])
        found, _ = read(tiff_file(opaque, extra=[2], **layout), 3)
        assert np.array_equal(found, EIGHT[..., :3])
    found, _ = read(tiff_file(EIGHT[..., :3], planar=True, **layout), 3)
    assert np.array_equal(found, EIGHT[..., :3])
    eight = np.dstack([EIGHT[..., :3], np.full_like(EIGHT[..., 3], 255)])
    found, _ = read(tiff_file(eight, planar=True, extra=[2], **layout), 3)
    assert np.array_equal(found, EIGHT[..., :3])


def test_white_may_be_zero() -> None:
    for compression in (NONE, LZW):
        file = tiff_file(EIGHT[..., 0], photometric=0, compression=compression)
        assert np.array_equal(read(file)[0], 255 - EIGHT[..., 0])


def test_cmyk() -> None:
    ink = EIGHT.copy()
    ink[..., 3] = 0
    for compression in (NONE, LZW):
        found, _ = read(tiff_file(ink, photometric=5, compression=compression), 3)
        assert np.array_equal(found, 255 - EIGHT[..., :3])


@pytest.mark.parametrize("samples", [EIGHT, DEEP], ids=["8", "16"])
def test_alpha_is_composited(samples: NDArray[Any]) -> None:
    opacity = EIGHT[..., 3:] / 255
    found, _ = read(tiff_file(samples, extra=[2]), 3)
    np.testing.assert_allclose(found, EIGHT[..., :3] * opacity, rtol=0, atol=1)
    image = open_image(tiff_file(samples, extra=[2]), max_pixels=10_000)
    inverted = image_to_array(image, (3, HEIGHT, WIDTH), invert=True).transpose(1, 2, 0)
    on_white = EIGHT[..., :3] * opacity + 255 * (1 - opacity)
    np.testing.assert_allclose(inverted, 255 - on_white, rtol=0, atol=1.5)


def test_alpha_may_be_multiplied_in_already() -> None:
    premultiplied = EIGHT.copy()
    premultiplied[..., :3] = EIGHT[..., :3] * (EIGHT[..., 3:] / 255)
    found, _ = read(tiff_file(premultiplied, extra=[1]), 3)
    np.testing.assert_allclose(found, premultiplied[..., :3], rtol=0, atol=2)


def test_grey_with_alpha() -> None:
    seen = (EIGHT[..., 2] * (EIGHT[..., 3] / 255)).round().astype(np.uint8)
    multiplied = np.dstack([seen, EIGHT[..., 3]])
    for samples, extra in ((EIGHT[..., 2:], 2), (multiplied, 1)):
        file = tiff_file(samples, extra=[extra], photometric=1)
        np.testing.assert_allclose(read(file)[0], seen, rtol=0, atol=1)
        image = open_image(file, max_pixels=10_000)
        (inverted,) = image_to_array(image, (1, HEIGHT, WIDTH), invert=True)
        np.testing.assert_allclose(inverted, EIGHT[..., 3] - seen, rtol=0, atol=2)


def test_channels_that_are_not_read_are_noted() -> None:
    for samples in (EIGHT, DEEP):
        found, notes = read(tiff_file(samples, extra=[0]), 3)
        assert np.array_equal(found, EIGHT[..., :3])
        assert notes == [Note.CHANNELS]
    found, notes = read(tiff_file(EIGHT[..., :2], photometric=1, extra=[0]))
    assert np.array_equal(found, EIGHT[..., 0])
    assert notes == [Note.CHANNELS]


def test_only_the_first_page_is_read_and_that_is_noted() -> None:
    for big in (False, True):
        assert read(tiff_file(EIGHT[..., 0], big=big))[1] == []
        found, notes = read(tiff_file(EIGHT[..., 0], big=big, pages=3))
        assert np.array_equal(found, EIGHT[..., 0])
        assert notes == [Note.FIRST_PAGE]


def test_pages_in_a_circle_have_an_end() -> None:
    file = bytearray(tiff_file(EIGHT[..., 0]))
    (start,) = struct.unpack_from("<I", file, 4)
    (count,) = struct.unpack_from("<H", file, start)
    end = start + 2 + 12 * count
    file[end : end + 4] = file[4:8]
    found, notes = read(bytes(file))
    assert np.array_equal(found, EIGHT[..., 0])
    assert notes == [Note.FIRST_PAGE]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_its_tag_says(orientation: int) -> None:
    file = tiff_file(EIGHT[..., 0], tags={274: [orientation]})
    image = open_image(file, max_pixels=10_000)
    assert image.info["orientation"] == orientation
    turned = Image.fromarray(EIGHT[..., 0])
    if orientation > 1:
        turned = turned.transpose(TURNS[orientation])
    (found,) = image_to_array(image, (1, turned.height, turned.width), resize=False)
    assert np.array_equal(found, np.asarray(turned))


# Fewer bits than 16

TWELVE = DEEP >> 4


def test_twelve_bits_in_sixteen_are_noted_or_read_as_twelve() -> None:
    grey, notes = read(tiff_file(TWELVE[..., 0]))
    assert grey.max() < 16
    assert notes == [Note.DARK]
    for bits, head, compression, channels in product((None, 12), HEADS, (NONE, DEFLATE), (1, 3)):
        tags = {281: [4_095]} if bits is None else {}
        file = tiff_file(TWELVE[..., :channels], tags=tags, compression=compression, **head)
        found, notes = read(file, channels, bits)
        assert np.array_equal(found, EIGHT[..., :3] if channels == 3 else EIGHT[..., 0])
        assert notes == []
    assert read(tiff_file(TWELVE[..., 0]), bits=16)[1] == []


def test_another_largest_value_is_only_a_statistic() -> None:
    grey, notes = read(tiff_file(DEEP[..., 0], tags={281: [4_000]}))
    assert np.array_equal(grey, EIGHT[..., 0])
    assert notes == []
    # A file that says 12 bits and has more is taken as 16.
    assert np.array_equal(read(tiff_file(DEEP[..., 0], tags={281: [4_095]}))[0], EIGHT[..., 0])


def test_larger_values_than_the_bits_hold_are_refused() -> None:
    file = tiff_file(np.full((HEIGHT, WIDTH), 4_096, np.uint16))
    with pytest.raises(ImageBitsError, match="4,096, and 12 bits hold 4,095"):
        read(file, bits=12)
    grey, notes = read(tiff_file(EIGHT[..., 0]), bits=12)
    assert np.array_equal(grey, EIGHT[..., 0])
    assert notes == [Note.NOT_DEEP]


def test_low_values_of_a_file_that_says_twelve_bits_are_those_of_twelve_bits() -> None:
    """PNG scales samples up to 16 bits, and TIFF does not: multiples of 16 are no sign of it."""
    multiples = TWELVE[..., 0] & 0xFF0
    found, _ = read(tiff_file(multiples, tags={281: [4_095]}))
    assert np.array_equal(found, multiples >> 4)


@pytest.mark.parametrize("compression", [NONE, LZW])
@pytest.mark.parametrize("width", [WIDTH, WIDTH - 1])
def test_twelve_bits_that_are_packed(compression: int, width: int) -> None:
    rows = []
    for row in TWELVE[:, :width, 0].tolist():
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows.append(list(int(bits, 2).to_bytes(len(bits) // 8, "big")))
    tags = {256: [width], 257: [HEIGHT], 258: [12]}
    file = tiff_file(np.array(rows, np.uint8), tags=tags, compression=compression)
    image = open_image(file, max_pixels=10_000)
    (found,) = image_to_array(image, (1, HEIGHT, width), resize=False)
    assert np.array_equal(found, EIGHT[:, :width, 0])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fewer_than_eight_bits(bits: int) -> None:
    values = EIGHT[..., 0] >> (8 - bits)
    padded = np.pad(values, ((0, 0), (0, -WIDTH % 8)))
    places = 1 << np.arange(8 - bits, -1, -bits)
    rows = (padded.reshape(HEIGHT, -1, 8 // bits) * places).sum(axis=2).astype(np.uint8)
    rows = rows[:, : -(-WIDTH * bits // 8)]
    found, _ = read(tiff_file(rows, tags=SIDES | {258: [bits]}))
    assert np.array_equal(found, values * (255 // ((1 << bits) - 1)))
    colours = [(i * 37) % 256 * 257 for i in range(3 << bits)]
    found, _ = read(tiff_file(rows, photometric=3, tags=SIDES | {258: [bits], 320: colours}), 3)
    table = np.array(colours).reshape(3, -1).T >> 8
    assert np.array_equal(found, table[values])


# What is not read, and is named


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({339: [3], 258: [32]}, "floating-point numbers of 32 bits"),
        ({339: [2]}, "signed numbers of 8 bits"),
        ({258: [32]}, "unsigned numbers of 32 bits; unsigned ones of 8 and 16 bits are read"),
        ({258: [64]}, "64 bits"),
        ({259: [7]}, "compression is JPEG; none, LZW, Deflate and PackBits are read"),
        ({259: [50000]}, "compression is ZSTD"),
        ({259: [4]}, "compression is GROUP4"),
        ({259: [999]}, "compression is of type 999"),
        ({262: [6], 277: [3]}, "YCbCr"),
        ({262: [8]}, "CIELab"),
        ({262: [32803]}, "a raw photo"),
        ({50706: [1]}, "a raw photo"),
        ({254: [1], 330: [8]}, "a raw photo"),
        ({277: [17]}, "17 × 8 bits"),
        ({277: [0]}, "0 × 8 bits"),
        ({256: [0]}, "no pixels"),
        ({278: [0]}, "50 × 0 pixels"),
        ({273: [8, 8]}, "2 strips or tiles and 1 sizes, expected 1"),
        ({324: [8], 325: [8]}, "both strips and tiles"),
        ({262: [0], 258: [16]}, r"1 × 16 bits a pixel \(grey, 0 is white\), which is not read"),
        ({262: [3]}, "its colour map has 1 values up to 0, expected 768 of 16 bits"),
        ({262: [3], 320: [255] * 768}, "768 values up to 255"),
        ({262: [3], 320: [0] * 300}, "300 values"),
    ],
)
def test_a_kind_that_is_not_read_is_named(
    tags: dict[int, Sequence[int]], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(MalformedImageError, match=words):
        read(tiff_file(EIGHT[..., 0], tags=tags))
    assert not caplog.records, "Pillow logs some of these as errors"


@pytest.mark.parametrize("compression", [NONE, LZW])
@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        (DEEP[..., :3], {"planar": True}, r"3 × 16 bits a pixel \(RGB, in planes\), which is not"),
        (DEEP[..., 0], {"photometric": 0}, r"\(grey, 0 is white\)"),
        (DEEP, {"extra": [1]}, r"4 × 16 bits a pixel \(RGB, further samples \[1\]\)"),
        (DEEP[..., :2], {"extra": [2], "photometric": 1}, "2 × 16 bits a pixel"),
        (DEEP, {"photometric": 5}, r"4 × 16 bits a pixel \(CMYK\)"),
        (EIGHT, {"planar": True, "extra": [1]}, "in planes"),
        (EIGHT, {"planar": True, "extra": [0]}, "in planes"),
        (EIGHT, {"planar": True, "photometric": 5}, "CMYK, in planes"),
        (EIGHT, {"photometric": 1, "extra": [0, 0, 0]}, "4 × 8 bits a pixel"),
        (EIGHT[..., 0], {"order": ">", "big": True}, "big-endian BigTIFF"),
        (EIGHT[..., 0], {"tile": (16, 8)}, "have 8 × 16 pixels"),
    ],
)
def test_a_layout_that_pillow_gets_wrong_or_does_not_know_is_named(
    samples: NDArray[Any], options: dict[str, Any], words: str, compression: int
) -> None:
    with pytest.raises(MalformedImageError, match=words):
        read(tiff_file(samples, compression=compression, **options))


@pytest.mark.parametrize("compression", [NONE, LZW, DEFLATE, PACKBITS])
@pytest.mark.parametrize("pieces", [{}, {"rows": 5}, {"tile": (16, 16)}], ids=str)
def test_a_file_cut_short(compression: int, pieces: dict[str, Any]) -> None:
    whole = tiff_file(EIGHT[..., 0], compression=compression, **pieces)
    for length in range(0, len(whole) - 1, max(1, len(whole) // 50)):
        with pytest.raises(MalformedImageError):
            read(whole[:length])


# Bombs


def test_more_strips_than_any_real_file_has() -> None:
    rows = tiff.MAX_SEGMENTS - 1
    column = np.full((rows, 1), 99, np.uint8)
    image = open_image(tiff_file(column, rows=1), max_pixels=1_000_000)
    assert (image_to_array(image, (1, 8, 8)) == 99).all()
    for tags in ({273: [8] * (rows + 2)}, {258: [8] * 17}, {320: [0] * 3_000}, {256: [9, 9]}):
        with pytest.raises(ImageTooLargeError, match=r"has [\d,]+ values > maximum"):
            open_image(tiff_file(EIGHT[..., 0], tags=tags), max_pixels=1_000_000)


def test_more_tags_than_any_real_file_has() -> None:
    tags = {number: [0] for number in range(40_000, 40_000 + tiff.MAX_TAGS)}
    with pytest.raises(ImageTooLargeError, match="tags > maximum 1,024"):
        read(tiff_file(EIGHT[..., 0], tags=tags))


def test_tiles_far_larger_than_the_image() -> None:
    tags = {322: [16_384], 323: [16_384]}
    with pytest.raises(ImageTooLargeError, match="1 tiles of 16384 × 16384"):
        read(tiff_file(EIGHT[..., 0], tile=(16, 16), tags=tags))
    column = {256: [1], 257: [16_000], 322: [1_024], 323: [1_024]}
    with pytest.raises(ImageTooLargeError, match="16 tiles of 1024 × 1024"):
        read(tiff_file(EIGHT[..., 0], tile=(16, 16), tags=column))


def test_strips_that_are_all_the_same_bytes() -> None:
    file = tiff_file(EIGHT[..., 0], compression=LZW, rows=1)
    with pytest.raises(MalformedImageError, match="overlap"):
        read(tiff_file(EIGHT[..., 0], compression=LZW, rows=1, tags=same_strips(len(file))))


def same_strips(size: int) -> dict[int, Sequence[int]]:
    return {273: [8] * HEIGHT, 279: [size // 2] * HEIGHT}


def test_values_that_lie_over_the_tags() -> None:
    """Only the tags of the pixels stay in the file: what lies there would change its meaning."""
    file = bytearray(tiff_file(EIGHT[..., :3]))
    (start,) = struct.unpack_from("<I", file, 4)
    at = file.index(struct.pack("<HHI", 258, 4, 3), start)
    struct.pack_into("<I", file, at + 8, start)
    with pytest.raises(MalformedImageError, match="its tags overlap"):
        read(bytes(file))


def test_tags_that_lie_over_the_header_or_each_other() -> None:
    with pytest.raises(MalformedImageError, match="its tags overlap"):
        read(b"II*\0\4\0\0\0" + bytes(60))
    file = bytearray(tiff_file(np.zeros((1_000, 1), np.uint8), rows=1))
    (start,) = struct.unpack_from("<I", file, 4)
    offsets, sizes = (file.index(struct.pack("<HHI", tag, 4, 1_000), start) for tag in (273, 279))
    file[sizes + 8 : sizes + 12] = file[offsets + 8 : offsets + 12]
    with pytest.raises(MalformedImageError, match="its tags overlap"):
        read(bytes(file[:-4_000]))


def test_types_of_tags() -> None:
    file = tiff_file(EIGHT[..., 0], tags={281: [200]})
    largest, bits = struct.pack("<HHI", 281, 4, 1), struct.pack("<HHI", 258, 4, 1)
    assert np.array_equal(
        read(file.replace(largest, largest[:2] + b"\2" + largest[3:]))[0], EIGHT[..., 0]
    )
    with pytest.raises(MalformedImageError, match="tag 258 has 1 values of type 2, not whole"):
        read(file.replace(bits, bits[:2] + b"\2" + bits[3:]))


def test_what_pixels_do_not_need_is_not_read() -> None:
    """EXIF that never ends, a profile that lies outside the file."""
    file = tiff_file(EIGHT[..., 0], tags={34_665: [8], 34_675: [0, 1], 700: [1, 2]})
    file = file.replace(struct.pack("<HHI", 34_675, 4, 2), struct.pack("<HHI", 34_675, 4, 2**31))
    assert np.array_equal(read(file)[0], EIGHT[..., 0])


def test_a_large_image_is_refused_by_its_header() -> None:
    tags = {256: [5_000], 257: [4_000]}
    with pytest.raises(ImageTooLargeError, match="5000 × 4000 = 20,000,000 pixels"):
        read(tiff_file(EIGHT[..., 0], tags=tags))
    with pytest.raises(ImageTooLargeError, match="its longer side > maximum 16,383"):
        read(tiff_file(EIGHT[..., 0], tags={256: [20_000], 257: [1]}))


DAMAGED = [
    tiff_file(samples, **layout)
    for layout in LAYOUTS[::5]
    for samples in (EIGHT[..., 0], DEEP[..., :3], EIGHT)
]


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
@settings(max_examples=1_000, deadline=None)
@given(st.data(), st.integers(0, len(DAMAGED) - 1))
def test_damage_is_an_image_error_or_an_image(data: st.DataObject, index: int) -> None:
    try:
        found, _ = read(data.draw(damaged(DAMAGED[index])))
    except ImageError as error:
        assert_one_line(error)
    else:
        assert found.shape == (HEIGHT, WIDTH)
