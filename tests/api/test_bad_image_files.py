"""Image files that claim too much, are cut short, or are damaged."""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from httpx import AsyncClient
from PIL import Image

from tests.api.helpers import image_file, png_pixels, problem
from tests.api.image_makers import (
    CARRIERS,
    Pixels,
    animated_webp,
    cmyk_jpeg,
    file_of,
    lossy_webp,
    of_pixels,
    palette_with_alphas,
    phone_jpeg,
    png_of_zeros,
    progressive_jpeg,
    seen,
    send,
    sixteen_bits,
)
from tests.processes import Server


def bmp_that_claims(width: int, height: int) -> bytes:
    file = bytearray(image_file(np.zeros((28, 28), np.uint8), "BMP"))
    file[18:26] = struct.pack("<ii", width, height)
    return bytes(file)


def jpeg_that_claims(width: int, height: int) -> bytes:
    file = bytearray(image_file(np.zeros((28, 28), np.uint8), "JPEG"))
    start = file.index(b"\xff\xc0") + 5
    file[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(file)


def webp_that_claims(width: int, height: int) -> bytes:
    """An animation whose canvas is so large, and its one frame small."""
    frames = [Image.new("RGB", (28, 28), grey) for grey in ("white", "black")]
    file = bytearray(file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    start = file.index(b"VP8X") + 12
    file[start : start + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(file)


def tiff_that_claims(width: int, height: int) -> bytes:
    file = image_file(np.zeros((28, 28), np.uint8), "TIFF")
    for tag, side in ((256, width), (257, height)):
        entry = struct.pack("<HHI", tag, 4, 1)
        start = file.index(struct.pack("<H", tag) + b"\4\0\1\0\0\0")
        file = file[:start] + entry + struct.pack("<I", side) + file[start + 12 :]
    return file


CLAIMS = {
    "PNG": png_of_zeros,
    "BMP": bmp_that_claims,
    "JPEG": jpeg_that_claims,
    "WEBP": webp_that_claims,
    "TIFF": tiff_that_claims,
}


@pytest.mark.anyio
@pytest.mark.parametrize("file_format", CLAIMS)
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_file_that_claims_too_many_pixels(
    client: AsyncClient, file_format: str, carrier: str
) -> None:
    for width, height in [(6_000, 4_200), (9_600, 9_600), (16_000, 12_000)]:
        file = CLAIMS[file_format](width, height)
        answer = await send(client, file, carrier)
        problem(answer, 413, f"{width} × {height}", "25,000,000")


def peak_memory(server: Server) -> int:
    """The most that the process has held at once since `forget_peak_memory`, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def forget_peak_memory(server: Server) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def test_a_claim_is_refused_before_memory_is_spent(server: Server) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc")
    size = (14_000, 12_000)
    with server.client() as http:
        http.post("/encode", content=image_file(np.zeros((28, 28), np.uint8)))
        for make in CLAIMS.values():
            file = make(*size)
            assert len(file) < 200_000
            forget_peak_memory(server)
            before = peak_memory(server)
            assert http.post("/encode", content=file).status_code == 413
            packed = {"images": [b64encode(file).decode()] * 3}
            assert http.post("/encode", json=packed).status_code == 413
            assert peak_memory(server) - before < 30_000_000, "168 million pixels"


# Files that are cut short or spoilt


DAMAGED: dict[str, Callable[[Pixels], bytes]] = {
    "16-bit PNG": lambda digit: sixteen_bits(digit)[0],
    "palette PNG": lambda digit: palette_with_alphas(digit)[0],
    "CMYK JPEG": cmyk_jpeg,
    "progressive JPEG": progressive_jpeg,
    "phone's JPEG": phone_jpeg,
    "WebP": lossy_webp,
    "animated WebP": lambda digit: animated_webp(digit)[0],
    "BMP": lambda digit: image_file(digit, "BMP"),
    "TIFF": lambda digit: image_file(digit, "TIFF"),
    "LZW TIFF": lambda digit: image_file(digit, "TIFF", compression="tiff_lzw"),
    "Deflate TIFF": lambda digit: image_file(digit, "TIFF", compression="tiff_adobe_deflate"),
    "PackBits TIFF": lambda digit: image_file(digit, "TIFF", compression="packbits"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_file_cut_short(
    client: AsyncClient, digit: Pixels, kind: str, carrier: str
) -> None:
    file = DAMAGED[kind](digit)
    if kind == "phone's JPEG":
        file = file[: file.index(b"\xff\xd9") + 2]  # what lies behind the first picture is not read
    for part in (0.05, 0.3, 0.5, 0.8):
        answer = await send(client, file[: max(30, int(len(file) * part))], carrier)
        found = problem(answer, 400)
        assert ("images[0]" in found["detail"]) is (carrier != "body")


@pytest.mark.anyio
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_file_that_is_spoilt(client: AsyncClient, digit: Pixels, carrier: str) -> None:
    png = image_file(digit)
    wrong_sum = png.replace(b"IDAT", b"IDAX")
    middle = len(png) // 2
    for file in (
        wrong_sum,
        png[:middle] + bytes(20) + png[middle + 20 :],
        png[:33],
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff\xd8\xff" + bytes(100),
        b"RIFF\x64\0\0\0WEBPVP8 " + bytes(100),
        b"BM" + bytes(100),
        png_of_zeros(28, 28).replace(b"\0\0\0\x1c", b"\0\0\0\0"),
    ):
        problem(await send(client, file, carrier), 400)


@pytest.mark.anyio
@pytest.mark.parametrize("file_format", ["GIF", "ICO", "PPM", "JPEG2000"])
async def test_a_format_that_is_not_read(
    client: AsyncClient, digit: Pixels, file_format: str
) -> None:
    file = image_file(digit, file_format)
    headers = {"Content-Type": "image/png"}
    answer = await client.post("/encode", content=file, headers=headers)
    problem(answer, 400, " file", "; PNG, JPEG, WebP, BMP and TIFF are read")


@pytest.mark.anyio
async def test_the_service_reads_what_it_draws(client: AsyncClient) -> None:
    sample = await client.get("/sample?n=1&seed=21")
    drawn = png_pixels(sample)
    expected = await of_pixels(client, drawn)
    assert (await seen(client, sample.content) == expected).all()
