"""16-bit PNG files whose samples use fewer bits."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.images import bit_depth
from model.images.preprocessing import ImageBitsError, Note, image_to_array, open_image

NUMBERS = np.random.default_rng(6)
DEEP = NUMBERS.integers(0, 65_536, (28, 30, 4), dtype=np.uint16)
EIGHT = (DEEP >> 8).astype(np.uint8)
TWELVE = DEEP >> 4
KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's colour types by channels."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: NDArray[Any], sbit: int | bytes | None = None, trns: bytes = b"") -> bytes:
    """A 16-bit PNG of (H, W, channels)."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, KINDS[channels], 0, 0, 0)
    sbits = bytes([sbit] * channels) if isinstance(sbit, int) else sbit
    extra = b"" if sbits is None else chunk(b"sBIT", sbits)
    extra += chunk(b"tRNS", trns) if trns else b""
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def read(
    data: bytes, channels: int = 3, bits: int | None = None
) -> tuple[NDArray[np.uint8], list[Note]]:
    notes: list[Note] = []
    image = open_image(data, max_pixels=10_000)
    pixels = image_to_array(image, (channels, 28, 30), bits=bits, notes=notes)
    return pixels.transpose(1, 2, 0), notes


def expected(channels: int) -> NDArray[Any]:
    """The upper 8 bits of the samples, on black, as RGB."""
    colours = 3 if channels > 2 else 1
    shown = EIGHT[..., :colours].astype(float)
    if channels in (2, 4):
        shown = shown * (EIGHT[..., colours : colours + 1] / 255)
    return np.broadcast_to(shown, (28, 30, 3))


@pytest.mark.parametrize("channels", KINDS)
def test_sixteen_bits_keep_their_upper_eight(channels: int) -> None:
    for bits in (None, 16):
        found, notes = read(png(DEEP[..., :channels]), bits=bits)
        np.testing.assert_allclose(found, expected(channels), rtol=0, atol=channels in (2, 4))
        assert notes == []


@pytest.mark.parametrize("channels", KINDS)
def test_twelve_bits_by_request_or_by_tag(channels: int) -> None:
    samples = TWELVE[..., :channels]
    for sbit, bits in ((None, 12), (12, None), (12, 12), (8, 12)):
        found, notes = read(png(samples, sbit), bits=bits)
        np.testing.assert_allclose(found, expected(channels), rtol=0, atol=channels in (2, 4))
        assert notes == []


@pytest.mark.parametrize("channels", [2, 4])
def test_the_significant_bits_of_alpha_are_not_those_of_the_colours(channels: int) -> None:
    samples = TWELVE[..., :channels].copy()
    samples[..., -1] = DEEP[..., channels - 1]
    sbit = bytes([*[12] * (channels - 1), 16])
    found, notes = read(png(samples, sbit))
    np.testing.assert_allclose(found, expected(channels), rtol=0, atol=1)
    assert notes == []


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_may_use_all_bits_where_the_colours_do_not(channels: int) -> None:
    samples = TWELVE[..., :channels].copy()
    samples[..., -1] = DEEP[..., channels - 1]
    found, _ = read(png(samples), bits=12)
    np.testing.assert_allclose(found, expected(channels), rtol=0, atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_dark_files_are_noted(channels: int) -> None:
    assert read(png(TWELVE[..., :channels]))[1] == [Note.DARK]
    assert read(png(TWELVE[..., :channels]), bits=16)[1] == []
    assert read(png(np.minimum(DEEP[..., :channels], 4_096)))[1] == []
    assert read(png(DEEP[..., :channels] * 0))[1] == [], "black all over is black"


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_that_are_scaled_as_png_demands_stay_so(channels: int) -> None:
    """sBIT then says only which bits mean something, and a dark image is dark."""
    dark = TWELVE[..., :channels] >> 4
    for scaled in (dark << 4, dark << 4 | dark >> 8):
        found, _ = read(png(scaled, sbit=12))
        assert np.array_equal(found, np.broadcast_to(scaled >> 8, (28, 30, 3)))


def test_larger_values_than_the_bits_hold_are_refused() -> None:
    for channels in (1, 3):
        with pytest.raises(ImageBitsError, match="and 12 bits hold 4,095 at most"):
            read(png(DEEP[..., :channels]), bits=12)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_value_of_sixteen_bits(channels: int) -> None:
    samples = DEEP[..., :channels].copy()
    key = samples[3, 4].copy()
    samples[5, 6] = key + 1  # the same high byte, unless it overflows
    file = png(samples, trns=key.astype(">u2").tobytes())
    found, _ = read(file)
    assert (found[3, 4] == 0).all()
    assert np.array_equal(found[5, 6], np.broadcast_to(samples[5, 6] >> 8, 3))


def test_strips_make_what_the_whole_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [png(TWELVE[..., :channels], sbit=12) for channels in KINDS]
    whole = [read(file)[0] for file in files]
    monkeypatch.setattr(bit_depth, "STRIP_SAMPLES", 70)
    for file, pixels in zip(files, whole, strict=True):
        assert np.array_equal(read(file)[0], pixels)
