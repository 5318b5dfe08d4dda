"""Image files of every kind become the pixels that a person sees, or an ImageError."""

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
from numpy.typing import NDArray
from PIL import Image

from model.images import preprocessing
from model.images.preprocessing import (
    ImageError,
    ImageSizeError,
    ImageTooLargeError,
    MalformedImageError,
    Note,
    image_to_array,
    open_image,
)
from tests.unit.samples import assert_one_line, damaged, encoded

Bytes = NDArray[np.uint8]
GREY = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
MAX_PIXELS = 1_000_000


def pixels(
    data: bytes, shape: tuple[int, int, int] = (1, 28, 28), *, resize: bool = False
) -> Bytes:
    """Read an image file that has the right size already."""
    return image_to_array(open_image(data, max_pixels=MAX_PIXELS), shape, resize=resize)


def grey_of(colour: NDArray[Any]) -> NDArray[np.float64]:
    """Luma of (…, 3), by ITU-R 601-2."""
    luma: NDArray[np.float64] = colour @ np.array([0.299, 0.587, 0.114])
    return luma


def assert_close(actual: Bytes, expected: NDArray[np.floating] | Bytes, by: float = 1) -> None:
    np.testing.assert_allclose(actual.astype(float), expected, rtol=0, atol=by)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
def test_grey_of_the_right_size_stays_as_it_is(file_format: str, options: dict[str, bool]) -> None:
    data = encoded(Image.fromarray(GREY), file_format, **options)
    assert np.array_equal(pixels(data), GREY[None])


def test_a_jpeg_is_nearly_as_it_was() -> None:
    smooth = np.add.outer(np.arange(28), np.arange(28)).astype(np.uint8) * 4
    assert_close(pixels(encoded(Image.fromarray(smooth), "JPEG", quality=95)), smooth[None], by=6)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_colour_for_a_colour_network(file_format: str) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (28, 20, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(colour), file_format)
    assert np.array_equal(pixels(data, (3, 28, 20)), colour.transpose(2, 0, 1))


def test_colour_for_a_grey_network() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    assert_close(pixels(encoded(Image.fromarray(colour)))[0], grey_of(colour))


def test_grey_for_a_colour_network() -> None:
    data = encoded(Image.fromarray(GREY))
    assert np.array_equal(pixels(data, (3, 28, 28)), np.stack([GREY] * 3))


def test_one_bit() -> None:
    black_or_white = GREY > 127
    data = encoded(Image.fromarray(black_or_white))
    assert open_image(data, max_pixels=MAX_PIXELS).mode == "1"
    assert np.array_equal(pixels(data), black_or_white[None] * np.uint8(255))


def palette_image() -> tuple[Image.Image, Bytes]:
    """An image of 28 × 28 in sixteen colours, and its (28, 28, 3) colours."""
    colours = np.random.default_rng(2).integers(0, 256, (16, 3), dtype=np.uint8)
    image = Image.fromarray(GREY // 16)
    image.putpalette(colours.tobytes())
    return image, colours[GREY // 16]


def test_a_palette() -> None:
    image, colours = palette_image()
    assert open_image(encoded(image), max_pixels=MAX_PIXELS).mode == "P"
    assert np.array_equal(pixels(encoded(image), (3, 28, 28)), colours.transpose(2, 0, 1))
    assert_close(pixels(encoded(image))[0], grey_of(colours))


def test_a_palette_with_one_transparent_colour() -> None:
    image, colours = palette_image()
    data = encoded(image, transparency=5)
    assert_close(pixels(data)[0], np.where(GREY // 16 == 5, 0, grey_of(colours)))


def test_a_palette_with_an_alpha_for_each_colour() -> None:
    image, colours = palette_image()
    alphas = np.arange(16, dtype=np.uint8) * 17
    data = encoded(image, transparency=alphas.tobytes())
    expected = grey_of(colours) * alphas[GREY // 16] / 255
    assert_close(pixels(data)[0], expected, by=2)


def test_grey_with_one_transparent_value() -> None:
    data = encoded(Image.fromarray(GREY), transparency=int(GREY[3, 4]))
    assert np.array_equal(pixels(data)[0], np.where(np.equal(GREY, GREY[3, 4]), 0, GREY))


def test_grey_with_alpha_lies_on_black() -> None:
    alpha = GREY.T.copy()
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    assert_close(pixels(encoded(image))[0], GREY * (alpha / 255))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_colour_with_alpha_lies_on_black(file_format: str) -> None:
    rgba = np.random.default_rng(3).integers(0, 256, (28, 28, 4), dtype=np.uint8)
    data = encoded(Image.fromarray(rgba), file_format, lossless=True, exact=True)
    expected = rgba[..., :3] * (rgba[..., 3:] / 255)
    assert_close(pixels(data, (3, 28, 28)), expected.transpose(2, 0, 1))
    assert_close(pixels(data)[0], grey_of(expected), by=1.5)


def test_invisible_ink_is_not_seen() -> None:
    data = encoded(Image.new("RGBA", (28, 28), (255, 255, 255, 0)))
    assert pixels(data).max() == 0


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    deep = np.arange(784, dtype=np.uint16).reshape(28, 28) * 83
    data = encoded(Image.fromarray(deep))
    assert data[24] == 16  # bits, in the PNG's header
    assert_close(pixels(data)[0], deep / 257)
    assert_close(pixels(data, (3, 28, 28)), np.stack([deep / 257] * 3))
    white = np.full((28, 28), 65535, np.uint16)
    assert pixels(encoded(Image.fromarray(white))).min() == 255


@pytest.mark.parametrize("colour", [(200, 30, 60), (0, 0, 0), (255, 255, 255), (10, 200, 90)])
def test_a_cmyk_jpeg(colour: tuple[int, int, int]) -> None:
    cmyk = Image.new("RGB", (28, 28), colour).convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=95)
    assert open_image(data, max_pixels=MAX_PIXELS).mode == "CMYK"
    assert_close(pixels(data, (3, 28, 28)), np.full((28, 28, 3), colour).transpose(2, 0, 1), by=6)


SEEN: dict[int, Callable[[Bytes], Bytes]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: lambda stored: np.rot90(stored, 1),
}
"""How a viewer turns what is stored: Exif 2.32, tag 0x0112."""


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_it_is_turned_as_its_exif_says(file_format: str, orientation: int) -> None:
    stored = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50, np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if file_format == "JPEG" else {"lossless": True}
    data = encoded(Image.fromarray(stored), file_format, exif=exif.tobytes(), **options)
    seen = SEEN[orientation](stored)
    assert_close(pixels(data, (1, *seen.shape))[0], seen, by=3)


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_strips_make_the_pixels_that_the_whole_makes(
    monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    """A large image is never there as a whole in each step between."""
    noise = np.random.default_rng(4).integers(0, 256, (37, 50, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    see_through = {"L": 7, "P": bytes(range(256)), "RGB": (7, 7, 7)}.get(mode)
    options: dict[str, Any] = {} if see_through is None else {"transparency": see_through}
    data = encoded(image, exif=exif.tobytes(), **options)
    for shape in ((1, 20, 30), (3, 60, 28)):
        whole = pixels(data, shape, resize=True)
        for strip in (1, 300):
            with monkeypatch.context() as patch:
                patch.setattr(preprocessing, "STRIP_PIXELS", strip)
                assert np.array_equal(pixels(data, shape, resize=True), whole)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_transparent_image_is_never_converted_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, mode: str, channels: int
) -> None:
    """Four bytes a pixel would be needed, beside the image and its visible form."""
    side, converted = 1_200, []
    convert, split = Image.Image.convert, Image.Image.split

    def note_convert(image: Image.Image, *args: Any, **kwargs: Any) -> Image.Image:
        converted.append(image.width * image.height)
        return convert(image, *args, **kwargs)

    def note_split(image: Image.Image) -> tuple[Image.Image, ...]:
        converted.append(image.width * image.height)
        return split(image)

    ink = Image.new("RGBA", (side, side), "black")
    ink.putalpha(Image.linear_gradient("L").resize((side, side)))
    image = Image.new("P", (side, side)) if mode == "P" else ink.convert(mode)
    if mode == "P":
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (0, 0, side, side // 2))
    options: dict[str, Any] = {"transparency": b"\0\xff"} if mode == "P" else {}
    file = encoded(image, **options)
    monkeypatch.setattr(Image.Image, "convert", note_convert)
    monkeypatch.setattr(Image.Image, "split", note_split)
    notes: list[Note] = []
    opened = open_image(file, max_pixels=side * side)
    image_to_array(opened, (channels, 28, 28), notes=notes)
    assert notes == [Note.ONE_COLOUR]
    assert max(converted) <= preprocessing.STRIP_PIXELS


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"junk", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + bytes(30)]
)
def test_a_broken_exif_does_not_spoil_the_picture(file_format: str, exif: bytes) -> None:
    data = encoded(Image.new("L", (28, 28), 77), file_format, exif=b"Exif\0\0" + exif)
    assert_close(pixels(data), np.full((1, 28, 28), 77), by=2)


@pytest.mark.parametrize("file_format", ["GIF", "ICO", "PPM", "TGA", "PDF", "EPS"])
def test_other_formats_are_not_read(file_format: str) -> None:
    data = encoded(Image.fromarray(GREY), file_format)
    with pytest.raises(MalformedImageError) as raised:
        open_image(data, max_pixels=MAX_PIXELS)
    assert str(raised.value).endswith("; PNG, JPEG, WebP, BMP and TIFF are read")


def test_an_animated_gif_is_not_read() -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(MalformedImageError):
        open_image(data, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(file_format: str) -> None:
    frames = [Image.fromarray(frame).convert("RGB") for frame in (GREY, 255 - GREY, GREY.T)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    assert np.array_equal(pixels(data), GREY[None])


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_one_pixel(value: int) -> None:
    data = encoded(Image.new("L", (1, 1), value))
    assert np.array_equal(pixels(data, resize=True), np.full((1, 28, 28), value))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    invert=st.booleans(),
)
def test_any_size_and_mode_fits_the_network(
    size: tuple[int, int], shape: tuple[int, int, int], mode: str, invert: bool
) -> None:
    image = open_image(encoded(Image.new(mode, size)), max_pixels=MAX_PIXELS)
    array = image_to_array(image, shape, invert=invert)
    assert array.shape == shape
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    alpha = mode in {"LA", "RGBA"}  # their new images are transparent
    assert alpha or (array == (255 if invert else 0)).all()


def test_height_and_width_are_not_mixed_up() -> None:
    left_white = np.zeros((20, 60), np.uint8)
    left_white[:, :30] = 255
    array = pixels(encoded(Image.fromarray(left_white)), (1, 10, 6), resize=True)
    assert array[0, :, :2].min() > 250
    assert array[0, :, 4:].max() < 5


def test_making_it_smaller_averages() -> None:
    board = (np.indices((280, 280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert_close(pixels(encoded(Image.fromarray(board)), resize=True), np.full((1, 28, 28), 127.5))


def test_inverting() -> None:
    image = open_image(encoded(Image.fromarray(GREY)), max_pixels=MAX_PIXELS)
    assert np.array_equal(image_to_array(image, (1, 28, 28), invert=True), 255 - GREY[None])


@pytest.mark.parametrize("size", [(28, 27), (27, 28), (56, 56), (1, 1)])
def test_another_size_is_refused_on_request(size: tuple[int, int]) -> None:
    with pytest.raises(ImageSizeError, match=f"{size[0]} × {size[1]}.* 28 × 28"):
        pixels(encoded(Image.new("L", size)), resize=False)


def test_a_turned_image_is_measured_as_it_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("L", (20, 30)), exif=exif.tobytes())
    assert pixels(data, (1, 20, 30)).shape == (1, 20, 30)
    with pytest.raises(ImageSizeError, match="30 × 20"):
        pixels(data, (1, 30, 20))


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG, and no pixel."""
    header = b"IHDR" + struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    data = b"IDAT\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + b"\0\0\0\4" + data


def test_another_size_is_refused_before_it_is_decoded() -> None:
    """What is refused for its size, and so is free, takes no work."""
    data = png_header(30, 20)  # which has no pixels to decode
    with pytest.raises(ImageSizeError, match="30 × 20"):
        pixels(data, resize=False)
    with pytest.raises(MalformedImageError):
        pixels(data, resize=True)


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (1, 1)), "BMP"))
    data[18:26] = struct.pack("<2i", width, height)
    return bytes(data)


def jpeg_header(width: int, height: int) -> bytes:
    data = encoded(Image.new("L", (8, 8)), "JPEG")
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">2H", height, width) + data[start + 4 :]


def webp_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (8, 8)), "WEBP"))
    start = data.index(b"\x9d\x01\x2a") + 3
    data[start : start + 4] = struct.pack("<2H", width, height)
    return bytes(data)


@pytest.mark.parametrize("header", [png_header, bmp_header, jpeg_header, webp_header])
def test_too_large_an_image_is_refused_by_its_header(
    header: Callable[[int, int], bytes],
) -> None:
    with pytest.raises(ImageTooLargeError) as raised:
        open_image(header(5000, 4000), max_pixels=MAX_PIXELS)
    assert "5000 × 4000 = 20,000,000 pixels > maximum 1,000,000" in str(raised.value)


@pytest.mark.parametrize("side", [9_500, 10_000, 13_000, 14_000, 60_000, 2**31 - 1])
def test_far_too_large_an_image_is_refused_too(side: int) -> None:
    with pytest.raises(ImageTooLargeError, match="maximum 1,000,000"):
        open_image(png_header(side, side), max_pixels=MAX_PIXELS)


def test_the_limit_itself_is_allowed() -> None:
    data = encoded(Image.new("L", (30, 20)))
    assert open_image(data, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageTooLargeError, match="600 pixels > maximum 599"):
        open_image(data, max_pixels=599)


WHOLE = {
    "png": encoded(Image.fromarray(GREY)),
    "palette": encoded(palette_image()[0], transparency=5),
    "16-bit": encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
    "bmp": encoded(Image.fromarray(GREY), "BMP"),
    "tiff": encoded(Image.fromarray(GREY), "TIFF"),
    "tiff, 16-bit": encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "tiff, lzw": encoded(Image.fromarray(GREY), "TIFF", compression="tiff_lzw"),
    "tiff, deflate": encoded(palette_image()[0], "TIFF", compression="tiff_adobe_deflate"),
    "tiff, packbits": encoded(
        Image.fromarray(GREY).convert("RGBA"), "TIFF", compression="packbits", tiffinfo={278: 5}
    ),
    "jpeg": encoded(Image.fromarray(GREY), "JPEG"),
    "cmyk": encoded(Image.fromarray(GREY).convert("CMYK"), "JPEG"),
    "webp": encoded(Image.fromarray(GREY).convert("RGB"), "WEBP"),
    "animation": encoded(
        Image.fromarray(GREY), "PNG", save_all=True, append_images=[Image.fromarray(GREY.T)]
    ),
}
turned = Image.Exif()
turned[0x0112] = 6
WHOLE["turned"] = encoded(Image.fromarray(GREY), "JPEG", exif=turned.tobytes())
kinds = pytest.mark.parametrize("kind", WHOLE)


@kinds
def test_no_truncation_gives_half_a_picture(kind: str) -> None:
    data = WHOLE[kind]
    whole = pixels(data)
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 60)):
        try:
            array = pixels(data[:length])
        except MalformedImageError:
            refused += 1
        else:
            assert np.array_equal(array, whole)  # a trailer or a second frame was cut
    assert refused > 25


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM", b"II*\0\x08\0\0\0"]),
)
def test_garbage_is_no_image(garbage: bytes, magic: bytes) -> None:
    with pytest.raises((MalformedImageError, ImageTooLargeError)):  # it may claim any size
        pixels(magic + garbage)


@pytest.mark.filterwarnings("ignore")  # Pillow's
@kinds
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_an_image_error_or_an_image(kind: str, data: st.DataObject) -> None:
    try:
        array = pixels(data.draw(damaged(WHOLE[kind])), resize=True)
    except ImageError as error:
        assert_one_line(error)
    else:
        assert array.shape == (1, 28, 28)
        assert array.dtype == np.uint8


def test_all_errors_are_of_one_family() -> None:
    for kind in (MalformedImageError, ImageTooLargeError, ImageSizeError):
        assert issubclass(kind, ImageError)
    assert issubclass(ImageError, ValueError)
