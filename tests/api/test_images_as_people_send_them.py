"""Image files from canvases, microscopes and phones, and other files in their place."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from io import BytesIO
from typing import Any, Literal

import numpy as np
import orjson
import pytest
from httpx import AsyncClient
from PIL import Image

from tests.api.bodies import npy
from tests.api.helpers import IMAGE_ROUTES, image_file, png_pixels, problem
from tests.api.image_makers import (
    CARRIERS,
    Pixels,
    chunk,
    file_of,
    jpeg,
    of_pixels,
    seen,
    send,
)
from tests.tiff_files import DEFLATE, LZW, NONE, PACKBITS, tiff_file

pytestmark = pytest.mark.anyio

READ = "; PNG, JPEG, WebP, BMP and TIFF are read"


async def score(
    client: AsyncClient, content: bytes, query: str = "", content_type: str = ""
) -> dict[str, Any]:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await client.post(f"/anomaly-score{query}", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# Transparency


def black_ink(digit: Pixels, mode: str = "RGBA") -> bytes:
    """Black ink whose opacity is the digit, as a browser's canvas saves it."""
    ink = Image.new("RGBA", (28, 28), "black")
    ink.putalpha(Image.fromarray(digit))
    return file_of(ink.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
async def test_black_ink_on_transparent_paper_is_read_when_inverted(
    client: AsyncClient, digit: Pixels, mode: str
) -> None:
    expected = await of_pixels(client, digit)
    for carrier in CARRIERS:
        answer = await send(client, black_ink(digit, mode), carrier, "?invert=true")
        assert np.array(answer.json()["mu"]) == pytest.approx(expected, abs=0.05)
        assert "warnings" not in answer.json()


async def test_every_kind_of_transparency_lies_on_white_when_inverted(
    client: AsyncClient, digit: Pixels
) -> None:
    mask = digit > 127
    paper = Image.fromarray(np.where(mask, 0, 1).astype(np.uint8), "L")
    paper.putpalette([0, 0, 0, 90, 90, 90])
    webp = file_of(Image.open(BytesIO(black_ink(digit))), "WEBP", lossless=True, exact=True)
    deep = np.where(mask, 0, 700).astype(np.uint16)
    height, width = mask.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    keyed = b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"tRNS", struct.pack(">H", 700)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )
    rgba = np.dstack([np.zeros((28, 28, 3), np.uint8), digit])
    for file, greys in [
        (file_of(paper, transparency=1), mask * 255),
        (keyed, mask * 255),
        (webp, digit),
        (tiff_file(rgba, extra=[2]), digit),
        (tiff_file(rgba, extra=[1]), digit),
    ]:
        answer = await client.post("/encode?invert=true", content=file)
        expected = await of_pixels(client, greys)
        assert np.array(answer.json()["mu"]) == pytest.approx(expected, abs=0.05)


async def test_ink_that_cannot_be_seen_is_warned_of(client: AsyncClient, digit: Pixels) -> None:
    found = await score(client, black_ink(digit))
    assert "?invert=true" in found["warnings"][0]
    white = Image.new("RGBA", (28, 28), "white")
    white.putalpha(Image.fromarray(digit))
    assert "warnings" not in await score(client, file_of(white))
    (warning,) = (await score(client, file_of(white), "?invert=true"))["warnings"]
    assert "invert" not in warning
    opaque = Image.new("RGBA", (28, 28), "black")
    assert "warnings" not in await score(client, file_of(opaque)), "it is black, and looks black"


async def test_what_is_hidden_by_transparency_is_found_in_any_strip(client: AsyncClient) -> None:
    """Large files are looked at in strips."""
    for at, is_warned in ((None, False), (0, True), (-1, True)):
        pixels = np.zeros((600, 600, 4), np.uint8)
        if at is not None:
            pixels[at, at, 3] = 255
        found = await score(client, file_of(Image.fromarray(pixels)))
        assert ("warnings" in found) is is_warned
    striped = np.full((600, 600, 4), 255, np.uint8)
    striped[:300, :, :3] = 0  # each strip is of one colour, and the image of two
    striped[300:, :, 3] = 254
    assert "warnings" not in await score(client, file_of(Image.fromarray(striped)))


# TIFF


@pytest.mark.parametrize("compression", [NONE, LZW, DEFLATE, PACKBITS])
@pytest.mark.parametrize("order", ["<", ">"])
async def test_a_tiff_shows_what_its_pixels_are(
    client: AsyncClient, digit: Pixels, compression: int, order: Literal["<", ">"]
) -> None:
    expected = await of_pixels(client, digit)
    deep = digit.astype(np.uint16) * 257
    for samples in (digit, deep, np.dstack([digit] * 3), np.dstack([deep] * 3)):
        for layout in ({}, {"rows": 3}, {"tile": (16, 16)}):
            file = tiff_file(samples, compression=compression, order=order, **layout)
            assert await seen(client, file) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("content_type", ["image/tiff", "image/tif", "image/x-tiff", ""])
@pytest.mark.parametrize("route", IMAGE_ROUTES)
async def test_a_tiff_is_a_body(
    client: AsyncClient, digit: Pixels, route: str, content_type: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    by_tiff = await client.post(route, content=tiff_file(digit), headers=headers)
    by_png = await client.post(route, content=image_file(digit))
    assert by_tiff.json() == by_png.json()


async def test_further_pages_and_channels_are_warned_of(client: AsyncClient, digit: Pixels) -> None:
    found = await score(client, tiff_file(digit, pages=2))
    assert found["warnings"] == ["the file has several pages, of which the first is read"]
    channels = tiff_file(np.dstack([digit] * 4), extra=[0])
    assert "further channels" in (await score(client, channels))["warnings"][0]


async def test_a_tiff_s_limits_are_those_of_other_files(small_client: AsyncClient) -> None:
    large = np.zeros((400, 300), np.uint8)
    answer = await small_client.post("/encode", content=tiff_file(large, compression=DEFLATE))
    problem(answer, 413, "300 × 400 = 120,000 pixels > maximum 100,000")


# Files of 16 bits with fewer


async def test_twelve_bits_in_sixteen(client: AsyncClient, digit: Pixels) -> None:
    twelve = digit.astype(np.uint16) * 16 + digit // 16
    expected = await of_pixels(client, digit)
    png, tiff = file_of(Image.fromarray(twelve)), tiff_file(twelve)
    colour = tiff_file(np.dstack([twelve] * 3))
    tagged = png[:33] + chunk(b"sBIT", b"\x0c") + png[33:]
    for file in (png, tiff, colour):
        (warning,) = (await score(client, file))["warnings"]
        assert "below 4,096" in warning
        assert "?bits=12" in warning
        answer = await client.post("/encode?bits=12", content=file)
        assert np.array(answer.json()["mu"]) == pytest.approx(expected, abs=1e-5)
        assert "warnings" not in answer.json()
        assert "warnings" not in await score(client, file, "?bits=16")
    for file in (tagged, tiff_file(twelve, tags={281: [4_095]})):
        answer = await client.post("/encode", content=file)
        assert np.array(answer.json()["mu"]) == pytest.approx(expected, abs=1e-5)
        assert "warnings" not in answer.json()


async def test_bits_that_a_file_does_not_have(client: AsyncClient, digit: Pixels) -> None:
    deep = file_of(Image.fromarray(digit.astype(np.uint16) * 257))
    answer = await client.post("/encode?bits=12", content=deep)
    assert problem(answer, 422, "12 bits hold 4,095")["errors"][0]["loc"] == ["body"]
    for eight in (image_file(digit), tiff_file(digit), file_of(Image.fromarray(digit > 127))):
        (warning,) = (await score(client, eight, "?bits=12"))["warnings"]
        assert warning.endswith("this is not one: bits is ignored")
        assert "warnings" not in await score(client, eight, "?bits=8")
    for bits in ("7", "17", "x"):
        problem(await client.post(f"/encode?bits={bits}", content=deep), 422, "bits")


async def test_each_type_of_answer_has_the_warnings(client: AsyncClient, digit: Pixels) -> None:
    files = [image_file(digit), tiff_file(digit, pages=2)]
    form = [("images", ("a", file)) for file in files]
    warning = "images[1]: the file has several pages, of which the first is read"
    for route in IMAGE_ROUTES:
        assert (await client.post(route, files=form)).json()["warnings"] == [warning]
        for accept in ("application/x-npy", "application/octet-stream"):
            answer = await client.post(route, files=form, headers={"Accept": accept})
            assert orjson.loads(answer.headers["x-warnings"]) == [warning]
            plain = await client.post(route, files=form[:1], headers={"Accept": accept})
            assert "x-warnings" not in plain.headers
    for query in ("/reconstruct", "/anomaly-score?map=true"):
        answer = await client.post(query, files=form, headers={"Accept": "image/png"})
        assert png_pixels(answer).size
        assert orjson.loads(answer.headers["x-warnings"]) == [warning]


async def test_a_thousand_files_do_not_get_a_thousand_warnings(
    client: AsyncClient, digit: Pixels
) -> None:
    text = b64encode(tiff_file(digit, pages=2)).decode()
    answer = await client.post("/encode", json={"images": [text] * 1_000})
    warnings = answer.json()["warnings"]
    assert len(warnings) == 16
    assert warnings[14].startswith("images[14]: ")
    assert "more warnings" in warnings[15]


# Types and formats


@pytest.mark.parametrize(
    ("content_type", "file_format"),
    [
        ("image/jpg", "JPEG"),
        ("image/pjpeg", "JPEG"),
        ("IMAGE/JPG; q=1", "JPEG"),
        ("image/x-png", "PNG"),
        ("image/apng", "PNG"),
        ("image/x-ms-bmp", "BMP"),
        ("image/tif", "TIFF"),
    ],
)
async def test_other_names_of_a_type(
    client: AsyncClient, digit: Pixels, content_type: str, file_format: str
) -> None:
    file = image_file(digit, file_format)
    by_alias = await score(client, file, content_type=content_type)
    assert by_alias == await score(client, file)
    other = image_file(digit, "BMP" if file_format == "PNG" else "PNG")
    answer = await client.post("/encode", content=other, headers={"Content-Type": content_type})
    problem(answer, 400, " file, not ", "as its type says")


def heif(brand: bytes, *others: bytes) -> bytes:
    brands = brand + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(100)


UNREAD = {
    "a HEIC file": [heif(b"heic"), heif(b"mif1", b"mif1", b"heic"), heif(b"heix")],
    "an AVIF file": [heif(b"avif"), heif(b"mif1", b"avif", b"miaf"), heif(b"avis")],
    "a GIF file": [b"GIF87a" + bytes(50), b"GIF89a" + bytes(50)],
    "a PDF file": [b"%PDF-1.7\n" + bytes(50)],
    "an SVG file": [
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a -->\n<svg width="28"></svg>',
    ],
    "a JPEG XL file": [b"\xff\x0a" + bytes(50), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50)],
    "a JPEG 2000 file": [b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), b"\xff\x4f\xff\x51" + bytes(50)],
    "an ICO file": [b"\0\0\x01\0\1\0" + bytes(50)],
    "a Photoshop file": [b"8BPS\0\1" + bytes(50)],
    "a raw photo (CR2)": [b"II*\0\x10\0\0\0CR\2\0" + bytes(50)],
    "a raw photo (CR3)": [heif(b"crx ")],
    "a raw photo (RAF)": [b"FUJIFILMCCD-RAW 0201" + bytes(50)],
    "a raw photo (ORF)": [b"IIRO\x08\0\0\0" + bytes(50)],
    "a raw photo (RW2)": [b"IIU\0\x18\0\0\0" + bytes(50)],
    "a DICOM file": [bytes(128) + b"DICM" + bytes(50)],
    "a Netpbm file": [b"P5\n28 28\n255\n" + bytes(784)],
    "an OpenEXR file": [b"v/1\1\2\0\0\0" + bytes(50)],
    "a FITS file": [b"SIMPLE  =                    T" + bytes(50)],
    "a web page": [b"<!DOCTYPE html><html><body>not found</body></html>"],
    "a ZIP archive": [b"PK\3\4" + bytes(50)],
    "a gzip file": [b"\x1f\x8b\x08" + bytes(50)],
    "a video": [heif(b"isom"), b"\x1aE\xdf\xa3" + bytes(50)],
    "a Git LFS pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"],
}


@pytest.mark.parametrize("name", UNREAD)
async def test_a_format_that_is_recognised_is_named(client: AsyncClient, name: str) -> None:
    for file in UNREAD[name]:
        for carrier in CARRIERS:
            answer = await send(client, file, carrier)
            status = 415 if carrier == "body" and not name.startswith("a raw photo (CR2") else 400
            problem(answer, status, name, READ)
        for content_type in ("image/png", "image/heic", "image/*"):
            headers = {"Content-Type": content_type}
            answer = await client.post("/encode", content=file, headers=headers)
            problem(answer, 400 if content_type == "image/png" else 415, name, READ)


async def test_a_type_that_is_not_read_gets_a_whole_sentence(client: AsyncClient) -> None:
    headers = {"Content-Type": "image/avif"}
    answer = await client.post("/encode", content=heif(b"avif"), headers=headers)
    detail = problem(answer, 415)["detail"]
    assert detail.startswith("Content-Type is 'image/avif', this route reads application/json, ")
    assert detail.endswith("; by the body's bytes it is an AVIF file" + READ)


async def test_raw_photos_that_are_tiff_files_are_named(client: AsyncClient, digit: Pixels) -> None:
    for tags in ({50706: [1]}, {254: [1], 330: [8]}, {262: [32803]}):
        answer = await client.post("/encode", content=tiff_file(digit, tags=tags))
        problem(answer, 400, "a raw photo (DNG, NEF, ARW or the like)")


async def test_kinds_of_tiff_that_are_not_read_are_named(
    client: AsyncClient, digit: Pixels
) -> None:
    floats = file_of(Image.fromarray(digit.astype(np.float32)), "TIFF")
    problem(await client.post("/encode", content=floats), 400, "floating-point", "8 and 16 bits")
    packed = file_of(Image.fromarray(digit), "TIFF", compression="jpeg")
    problem(await client.post("/encode", content=packed), 400, "compression is JPEG", "LZW")
    planes = tiff_file(np.dstack([digit.astype(np.uint16)] * 3), planar=True)
    problem(await client.post("/encode", content=planes), 400, "3 × 16 bits", "in planes")


async def test_a_body_of_another_type_than_declared_is_named(
    client: AsyncClient, digit: Pixels
) -> None:
    json, png = b'{"images": []}', image_file(digit)
    for content_type, body, words in [
        ("text/plain", json, "application/json"),
        ("image/svg+xml", png, "a PNG file"),
        ("image/jpeg", png, "a PNG file, not a JPEG file, as its type says"),
        ("image/tiff", png, "a PNG file, not a TIFF file, as its type says"),
        ("application/octet-stream", png, "it is a PNG file"),
        ("application/octet-stream", b"GIF89a", "it is a GIF file"),
    ]:
        answer = await client.post("/encode", content=body, headers={"Content-Type": content_type})
        problem(answer, answer.status_code, words)


# curl


CURL = {"Content-Type": "application/x-www-form-urlencoded"}


def without_line_breaks(file: bytes, zeros: bool) -> bytes:
    """What `curl -d @file` makes of a file."""
    return file.translate(None, b"\r\n\0" if zeros else b"\r\n")


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "TIFF, big-endian", "BMP", "npy"])
async def test_curl_s_d_gets_a_hint(
    client: AsyncClient, digit: Pixels, kind: str, zeros: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    makers = {"npy": lambda: npy(noise), "TIFF, big-endian": lambda: tiff_file(noise, order=">")}
    whole = makers[kind]() if kind in makers else image_file(noise, kind)
    answer = await client.post("/encode", content=without_line_breaks(whole, zeros), headers=CURL)
    problem(answer, answer.status_code, "--data-binary")


@pytest.mark.parametrize("zeros", [False, True])
async def test_curl_s_d_with_a_type_gets_a_hint(
    client: AsyncClient, digit: Pixels, zeros: bool
) -> None:
    for content_type, file in [("image/png", image_file(digit)), ("image/jpeg", jpeg(digit))]:
        answer = await client.post(
            "/encode",
            content=without_line_breaks(file, zeros),
            headers={"Content-Type": content_type},
        )
        problem(answer, 400, "curl's -d", "--data-binary")
    raw = np.tile(np.arange(256, dtype=np.uint8), 49).tobytes()
    headers = {"Content-Type": "application/octet-stream"}
    answer = await client.post("/encode", content=without_line_breaks(raw, zeros), headers=headers)
    problem(answer, 422, "--data-binary")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("digit.png", "--data-binary @FILE"),
        ("@scans/a b/digit.tiff", "not recognized"),
        ("@scans/digit.tiff", "--data-binary @FILE"),
        ("images=@digit.png", "-F"),
    ],
)
async def test_a_file_s_name_in_place_of_the_file(
    client: AsyncClient, text: str, words: str
) -> None:
    answer = await client.post("/encode", content=text.encode(), headers=CURL)
    problem(answer, 415, words)


async def test_base64_without_json(client: AsyncClient, digit: Pixels) -> None:
    text = b64encode(image_file(digit))
    for body in (text, b"data:image/png;base64," + text):
        problem(await client.post("/encode", content=body, headers=CURL), 415, '{"images": ["…"]}')


async def test_base64_where_the_file_belongs(client: AsyncClient, digit: Pixels) -> None:
    for file_format, name in (("PNG", "PNG"), ("JPEG", "JPEG"), ("WEBP", "WebP")):
        text = b64encode(image_file(digit, file_format))
        for carrier in ("JSON", "form"):  # in JSON, it is encoded twice
            answer = await send(client, text, carrier)
            problem(answer, 400, f"images[0]: the base64 of a {name} file")


async def test_a_damaged_file_with_line_breaks_gets_no_such_hint(
    client: AsyncClient, digit: Pixels
) -> None:
    for file_format in ("PNG", "TIFF"):
        file = image_file(digit, file_format) if file_format == "PNG" else tiff_file(digit)
        cut = file[: len(file) // 2] + b"\n"
        answer = await client.post("/encode", content=cut, headers=CURL)
        assert "--data-binary" not in problem(answer, 400)["detail"]


async def test_the_page_says_what_becomes_of_files(client: AsyncClient) -> None:
    page = (await client.get("/openapi.json")).json()
    for route in IMAGE_ROUTES:
        body = page["paths"][route]["post"]["requestBody"]["description"]
        for words in ("black", "white with ?invert=true", "squashed", "TIFF", "first", "?bits"):
            assert words in body


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_file_that_was_turned_into_text_is_named(
    client: AsyncClient, digit: Pixels, kind: str, carrier: str
) -> None:
    """As `fetch` sends a binary string, and as it sends a file that was read as UTF-8."""
    data = BytesIO()
    Image.fromarray(digit).save(data, kind)
    for text in (data.getvalue().decode("latin-1"), data.getvalue().decode(errors="replace")):
        answer = await send(client, text.encode(), carrier)
        problem(answer, 415 if carrier == "body" else 400, "file that was turned into text")
