"""Image files stripped of everything but pixels: the same pixels, and nothing to decompress."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from benchmarks.reliability.bombs import (
    bmp_claim,
    bmp_of_runs,
    canvas,
    chunk,
    digit,
    exif_bomb,
    jpeg,
    jpeg_claim,
    png,
    png_of_zeros,
    riff_chunk,
    table,
    webp,
)
from model.images.pixel_parts import (
    MAX_PARTS,
    MAX_RUN_LENGTHS,
    MAX_SCANS,
    MAX_TABLES,
    PartsError,
    orientation,
    pixel_parts,
)
from model.images.preprocessing import MAX_SIDE, ImageTooLargeError, image_to_array, open_image
from tests.unit.samples import assert_one_line, damaged, encoded

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))
TEXT = b"something that is no pixel" * 10
EXIF = Image.Exif()
EXIF[0x0112] = 6


def with_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", TEXT.decode())
    text.add_itxt("b", TEXT.decode(), zip=True)
    return encoded(NOISE, pnginfo=text, exif=EXIF.tobytes(), icc_profile=TEXT, dpi=(72, 72))


FILES = {
    "png": with_text(),
    "transparent": encoded(NOISE, transparency=(1, 2, 3), icc_profile=TEXT),
    "palette": encoded(NOISE.quantize(16), transparency=5, icc_profile=TEXT),
    "16-bit": encoded(Image.new("I;16", (28, 28), 999), icc_profile=TEXT),
    "animation": encoded(NOISE, save_all=True, append_images=[NOISE.rotate(90)]),
    "jpeg": encoded(NOISE, "JPEG", exif=EXIF.tobytes(), comment=TEXT, icc_profile=TEXT * 999),
    "progressive": encoded(NOISE, "JPEG", progressive=True, comment=TEXT, exif=EXIF.tobytes()),
    "cmyk": encoded(NOISE.convert("CMYK"), "JPEG", comment=TEXT),
    "restarts": encoded(NOISE, "JPEG", restart_marker_blocks=1, comment=TEXT),
    "phone": encoded(NOISE, "MPO", save_all=True, append_images=[NOISE], exif=EXIF.tobytes()),
    "webp": encoded(NOISE, "WEBP", exif=EXIF.tobytes(), icc_profile=TEXT, xmp=TEXT),
    "bmp": encoded(NOISE, "BMP"),
}
kinds = pytest.mark.parametrize("kind", FILES)


def as_pillow_reads(data: bytes) -> Any:
    with Image.open(BytesIO(data)) as image:
        image.load()
        return np.asarray(image.convert("RGBA"))


@kinds
def test_the_pixels_are_the_same_and_the_rest_is_gone(kind: str) -> None:
    parts = pixel_parts(FILES[kind])
    assert np.array_equal(as_pillow_reads(parts.data), as_pillow_reads(FILES[kind]))
    assert parts.size == (28, 28)
    if kind not in ("webp", "bmp", "animation"):
        assert len(parts.data) < len(FILES[kind])
        for name in (TEXT[:20], b"eXIf", b"Exif", b"iCCP", b"MPF"):
            assert name not in parts.data


@kinds
def test_the_orientation_is_kept(kind: str) -> None:
    turned = 6 if kind in ("png", "jpeg", "progressive", "phone", "webp") else 1
    assert orientation(pixel_parts(FILES[kind]).exif) == turned
    assert open_image(FILES[kind], max_pixels=784).info["orientation"] == turned


def test_a_file_with_nothing_to_leave_out_is_not_copied() -> None:
    for file_format in ("PNG", "JPEG", "WEBP", "BMP"):
        data = digit(file_format)
        assert pixel_parts(data).data is data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["H", "I"])
@pytest.mark.parametrize(("value", "expected"), [(0, 1), (1, 1), (6, 6), (8, 8), (9, 1)])
def test_orientation_in_either_byte_order(order: str, kind: str, value: int, expected: int) -> None:
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    other = struct.pack(f"{order}HHII", 0x0110, 2, 9999, 9999)
    entry = struct.pack(f"{order}HHI{kind}", 0x0112, 3 if kind == "H" else 4, 1, value)
    exif = start + struct.pack(f"{order}H", 2) + other + entry
    assert orientation(exif) == orientation(b"Exif\0\0" + exif) == expected
    for cut in range(len(exif)):
        assert orientation(exif[:cut]) in (1, expected)


@given(st.binary(max_size=100), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_exif_has_an_orientation(exif: bytes, start: bytes) -> None:
    assert 1 <= orientation(start + exif) <= 8


@kinds
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damage_is_left_to_the_decoder(kind: str, data: st.DataObject) -> None:
    pixel_parts(data.draw(damaged(FILES[kind])))
    whole = FILES[kind]
    cut = data.draw(st.integers(0, len(whole)))
    assert len(pixel_parts(whole[:cut]).data) <= cut


MANY: dict[str, tuple[Callable[[int], bytes], int]] = {
    "16,384 chunks": (lambda n: png(chunk(b"prVt") * (n - 3)), MAX_PARTS),
    "16,384 segments": (lambda n: jpeg(b"\xff\xfe\0\2" * (n - jpeg_segments())), MAX_PARTS),
    "64 scans": (lambda n: jpeg_of_scans(n), MAX_SCANS),
}


def jpeg_segments() -> int:
    """Those of a whole JPEG, and its end."""
    return sum(
        digit("JPEG").count(bytes([0xFF, kind]))
        for kind in (*range(0xC0, 0xD0), *range(0xD9, 0xFF))
    )


def jpeg_of_scans(n: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    file = encoded(Image.new("L", (28, 28), 99), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:-2] + file[last:-2] * (n - file.count(b"\xff\xda")) + file[-2:]


@pytest.mark.parametrize("limit", MANY)
def test_pixel_parts_are_counted(limit: str) -> None:
    make, most = MANY[limit]
    assert image_to_array(open_image(make(most), max_pixels=784), (1, 28, 28)).shape == (1, 28, 28)
    with pytest.raises(ImageTooLargeError, match=f"more than {limit}, the maximum") as raised:
        open_image(make(most + 1), max_pixels=784)
    assert_one_line(raised.value)


def test_chunks_of_a_webp_are_counted() -> None:
    for n, refused in ((MAX_PARTS - 10, False), (MAX_PARTS, True)):
        data = webp(riff_chunk(b"abcd") * n)
        if refused:
            with pytest.raises(PartsError, match="more than 16,384 chunks"):
                pixel_parts(data)
        else:
            pixel_parts(data)


def test_tables_of_a_jpeg_are_counted() -> None:
    pixel_parts(jpeg(table() * 3))
    with pytest.raises(PartsError, match=r"[\d,]+ bytes of tables > maximum 262,144"):
        pixel_parts(jpeg(table() * 5))
    assert 3 * len(table()) < MAX_TABLES < 5 * len(table())


def test_run_lengths_are_limited() -> None:
    """By bytes and by pixels: either costs Python's time."""
    file = bytearray(bmp_of_runs())
    with pytest.raises(PartsError, match=r"20,\d+,\d+ bytes for 20,000,000 pixels.*1,048,576"):
        pixel_parts(bytes(file))
    with pytest.raises(PartsError, match="20,000,000 pixels"):
        pixel_parts(bytes(file[:2_000]))
    few = bmp_claim(1024, 1024, bytes(file[:2_000]))
    assert pixel_parts(few).size == (1024, 1024)
    assert MAX_RUN_LENGTHS == 1024**2
    with pytest.raises(PartsError):
        pixel_parts(few + bytes(MAX_RUN_LENGTHS))


def claimed_webp(width: int, height: int) -> bytes:
    return webp(size=(width, height))


@pytest.mark.parametrize("across", [True, False])
def test_the_longer_side_is_limited(across: bool) -> None:
    def size(side: int) -> tuple[int, int]:
        return (side, 1) if across else (1, side)

    makers: tuple[Callable[[int, int], bytes], ...] = (
        png_of_zeros,
        jpeg_claim,
        bmp_claim,
        claimed_webp,
    )
    allowed = encoded(Image.new("RGB", size(MAX_SIDE)), "WEBP")
    assert max(open_image(allowed, max_pixels=MAX_SIDE).size) == MAX_SIDE
    for make in makers:
        if make is not claimed_webp:
            open_image(make(*size(MAX_SIDE)), max_pixels=MAX_SIDE)
        with pytest.raises(ImageTooLargeError) as raised:
            open_image(make(*size(MAX_SIDE + 1)), max_pixels=10**9)
        assert_one_line(raised.value, "16384", "maximum 16,383")


def test_a_claim_is_refused_before_a_decoder_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    files = [
        png_of_zeros(2_000, 2_000),
        jpeg_claim(2_000, 2_000),
        bmp_claim(2_000, -2_000),
        webp(size=(2_000, 2_000)),
        encoded_without_canvas(lossless=True),
        encoded_without_canvas(lossless=False),
    ]
    for data in files:
        with pytest.raises(ImageTooLargeError, match="2000 × 2000 = 4,000,000 pixels > maximum"):
            open_image(data, max_pixels=3_999_999)


def encoded_without_canvas(*, lossless: bool) -> bytes:
    return encoded(Image.new("RGB", (2_000, 2_000)), "WEBP", lossless=lossless, method=0)


def test_metadata_is_never_decompressed() -> None:
    """Pillow would refuse the first for its text, and warn of each entry of the EXIF."""
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 22)))
    exif = exif_bomb(65_000)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif
    for data in (png(text), png(chunk(b"eXIf", exif)), jpeg(segment)):
        array = image_to_array(open_image(data, max_pixels=784), (1, 28, 28))
        assert abs(array.astype(int) - 99).max() <= 1
    assert canvas(28, 28) in webp(riff_chunk(b"EXIF", exif))
    assert orientation(pixel_parts(webp(riff_chunk(b"EXIF", exif))).exif) == 1
