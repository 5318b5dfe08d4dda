"""Image files of every kind, made from one digit."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from httpx import AsyncClient, Response
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

JPEG_NOISE = 0.3
"""How far a JPEG may move μ, a few of whose units part one digit from another."""


def file_of(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


async def send(client: AsyncClient, file: bytes, carrier: str, query: str = "") -> Response:
    """A file as the body, in JSON, or in a form."""
    url = f"/encode{query}"
    if carrier == "body":
        return await client.post(url, content=file)
    if carrier == "JSON":
        return await client.post(url, json={"images": [b64encode(file).decode()]})
    return await client.post(url, files=[("images", ("a", file))])


CARRIERS = ("body", "JSON", "form")


async def seen(client: AsyncClient, file: bytes) -> NDArray[np.float64]:
    """The file's μ, the same from each carrier."""
    found = []
    for carrier in CARRIERS:
        answer = await send(client, file, carrier)
        assert answer.status_code == 200, answer.text[:500]
        found.append(answer.json()["mu"])
    assert found[0] == found[1] == found[2]
    return np.array(found[0])


async def of_pixels(client: AsyncClient, pixels: NDArray[Any]) -> NDArray[np.float64]:
    """μ of 28×28 greys, 0..255."""
    raw = np.asarray(pixels).astype(np.uint8).tobytes()
    headers = {"Content-Type": "application/octet-stream"}
    answer = await client.post("/encode", content=raw, headers=headers)
    return np.array(answer.json()["mu"])


def palette(greys: list[int]) -> list[int]:
    return [part for grey in greys for part in (grey, grey, grey)]


def palette_with_alphas(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    image = Image.fromarray(digit // 64, "L")
    image.putpalette(palette([255, 255, 255, 255]))
    alphas = np.array([0, 51, 102, 255])
    return file_of(image, transparency=bytes(alphas.tolist())), alphas[digit // 64]


def sixteen_bits(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(Image.fromarray(digit.astype(np.uint16) * 257)), digit


def animated_webp(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    others = [Image.new("L", (28, 28), grey).convert("RGB") for grey in (255, 0)]
    first = Image.fromarray(digit).convert("RGB")
    file = file_of(first, "WEBP", save_all=True, append_images=others, lossless=True)
    assert b"ANMF" in file
    return file, digit


def jpeg(digit: Pixels) -> bytes:
    return file_of(Image.fromarray(digit), "JPEG", quality=98)


def progressive_jpeg(digit: Pixels) -> bytes:
    return file_of(Image.fromarray(digit), "JPEG", quality=98, progressive=True)


def cmyk_jpeg(digit: Pixels) -> bytes:
    file = file_of(Image.fromarray(digit).convert("RGB").convert("CMYK"), "JPEG", quality=98)
    assert b"Adobe" in file
    return file


def phone_jpeg(digit: Pixels) -> bytes:
    """With a second, small picture behind the first, as phones write them."""
    small = Image.new("RGB", (8, 8), "white")
    first = Image.fromarray(digit).convert("RGB")
    file = file_of(first, "MPO", save_all=True, append_images=[small], quality=98, subsampling=0)
    assert file.startswith(b"\xff\xd8\xff")
    return file


def lossy_webp(digit: Pixels) -> bytes:
    return file_of(Image.fromarray(digit).convert("RGB"), "WEBP", quality=100)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int) -> bytes:
    """1 bit a pixel, whole and sound, made without that many pixels in memory."""

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )
