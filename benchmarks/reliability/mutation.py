"""Valid bodies, and ways to damage them."""

from __future__ import annotations

import gzip
import json
import random
import struct
import textwrap
from base64 import b64encode
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

SIDE: Final = 28
LATENTS: Final = 10

MAX_BYTES: Final = 20_000
"""Limit on a damaged body. Duplicated parts make bodies grow, and larger ones find nothing new."""

INTERESTING: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
"""Integers at which signs and sizes wrap."""

TEXTS: Final = (
    *(b"null", b"NaN", b"-1", b"1e999", b"1e-999", b"18446744073709551616", b"[]", b"{}", b'"'),
    *(b"\\ud800", b"\xff", b"\0", b"\r\n", b"true", b"[[[[[[[[", b'"images":', b'"dtype":'),
)
"""Texts that break JSON and headers."""


class Seed(NamedTuple):
    """A valid body, its type, and the other headers it needs."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


def file_of(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def npy_of(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def form_of(*parts: bytes) -> bytes:
    head = b'--xyz\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    return b"".join(head + part + b"\r\n" for part in parts) + b"--xyz--\r\n"


def image_files() -> dict[str, bytes]:
    """Image files in several modes and encodings, by name."""
    numbers = np.random.default_rng(0)
    grey = Image.fromarray(numbers.integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
    colour = Image.fromarray(numbers.integers(0, 256, (9, 7, 4), dtype=np.uint8))
    deep = Image.fromarray(numbers.integers(0, 4_096, (SIDE, SIDE), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "png": file_of(grey, "PNG"),
        "png, colour": file_of(colour, "PNG", exif=exif.tobytes()),
        "png, 16 bits": file_of(deep, "PNG"),
        "png, palette": file_of(grey.quantize(7), "PNG", transparency=1),
        "png, moving": file_of(grey, "PNG", save_all=True, append_images=[grey.rotate(90)]),
        "jpeg": file_of(grey, "JPEG", exif=exif.tobytes(), comment=b"a"),
        "jpeg, progressive": file_of(colour.convert("RGB"), "JPEG", progressive=True),
        "jpeg, cmyk": file_of(colour.convert("CMYK"), "JPEG"),
        "webp": file_of(grey.convert("RGB"), "WEBP", exif=exif.tobytes()),
        "webp, moving": file_of(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)]),
        "bmp": file_of(grey, "BMP"),
        "bmp, one bit": file_of(grey.convert("1"), "BMP"),
        "tiff": file_of(grey, "TIFF"),
        "tiff, 16 bits": file_of(deep, "TIFF", tiffinfo={278: 5}),
        "tiff, lzw": file_of(colour, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
        "tiff, deflate": file_of(grey.quantize(7), "TIFF", compression="tiff_adobe_deflate"),
        "tiff, packbits": file_of(grey.convert("1"), "TIFF", compression="packbits"),
        "tiff, pages": file_of(grey, "TIFF", save_all=True, append_images=[grey.rotate(90)]),
    }


def image_seeds() -> list[Seed]:
    """Bodies for the routes that take images."""
    numbers = np.random.default_rng(1)
    pixels = numbers.integers(0, 256, (2, 1, SIDE, SIDE), dtype=np.uint8)
    files = image_files()
    base64 = json.dumps({"images": [b64encode(files[kind]).decode() for kind in ("png", "jpeg")]})
    wrapped = "\n  ".join(textwrap.wrap(b64encode(files["png"]).decode(), 24))
    data_uri = json.dumps({"images": [f"data:image/png;base64,{wrapped} \t\n"]})
    bytes_as_numbers = json.dumps({"images": pixels[:, 0].tolist(), "dtype": "uint8"})
    floats = json.dumps({"images": (pixels[:1].reshape(1, -1) / 255).round(2).tolist()})
    types = {kind: f"image/{kind.partition(',')[0]}" for kind in files}
    return [
        *(Seed(data, types[kind]) for kind, data in files.items()),
        *(
            Seed(text.encode(), "application/json")
            for text in (base64, data_uri, bytes_as_numbers, floats)
        ),
        Seed(npy_of(pixels), "application/x-npy"),
        Seed(npy_of(np.asfortranarray(pixels[:, 0] / np.float32(255))), "application/x-npy"),
        Seed(pixels.tobytes(), "application/octet-stream"),
        Seed(form_of(files["png"], files["bmp, one bit"]), "multipart/form-data; boundary=xyz"),
    ]


def latent_seeds() -> list[Seed]:
    """Bodies for `/decode`."""
    z = np.random.default_rng(2).standard_normal((2, LATENTS)).astype(np.float32)
    return [
        Seed(json.dumps({"z": z.round(3).tolist()}).encode(), "application/json"),
        Seed(b'{"n": 3, "seed": 7}', "application/json"),
        Seed(npy_of(z), "application/x-npy"),
        Seed(z.tobytes(), "application/octet-stream"),
    ]


def infer_seeds(latents: bool) -> list[Seed]:
    """Bodies of the Open Inference Protocol, JSON and binary."""
    shape = [1, LATENTS] if latents else [1, SIDE * SIDE]
    array = np.random.default_rng(3).random(shape, np.float32)
    tensor = {"name": "z" if latents else "images", "datatype": "FP32", "shape": shape}
    plain = {"id": "a", "inputs": [tensor | {"data": array.round(2).reshape(-1).tolist()}]}
    sized = {"parameters": {"binary_data_size": array.nbytes}}
    options = {"parameters": {"binary_data_output": True, "timeout": 10_000_000}}
    head = json.dumps({"inputs": [tensor | sized]} | options).encode()
    length = (("Inference-Header-Content-Length", str(len(head))),)
    return [
        Seed(json.dumps(plain | options).encode(), "application/json"),
        Seed(head + array.tobytes(), "application/octet-stream", length),
    ]


def packed(seed: Seed) -> Seed:
    """The same body, compressed, so that damage hits the compressed bytes."""
    headers = (*seed.headers, ("Content-Encoding", "gzip"))
    return Seed(gzip.compress(seed.body, 1, mtime=0), seed.content_type, headers)


def mutate(numbers: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """`data` after one to four changes: flips, cuts, splices, integers, texts, duplicates."""
    changed = bytearray(data)
    for _ in range(numbers.randint(1, 4)):
        at = numbers.randrange(len(changed) + 1)
        until = min(len(changed), at + numbers.choice((1, 2, 4, 16, 256)))
        match numbers.randrange(8):
            case 0 | 1 if at < len(changed):
                changed[at] ^= 1 << numbers.randrange(8)
            case 2:
                del changed[at:until]
            case 3:
                del changed[at:]
            case 4:
                other = numbers.choice(others)
                changed[at:] = other[numbers.randrange(len(other) + 1) :]
            case 5:
                value, size = numbers.choice(INTERESTING), numbers.choice("BHI")
                bits = 8 * struct.calcsize(size)
                number = struct.pack(numbers.choice("<>") + size, value & ((1 << bits) - 1))
                changed[at : at + len(number)] = number
            case 6:
                changed[at:at] = numbers.choice(TEXTS)
            case 7:
                changed[until:until] = changed[at:until] * numbers.choice((1, 2, 50))
    return bytes(changed[:MAX_BYTES])
