"""Decompression bombs against the running service, and what each of them costs.

`python -m benchmarks.reliability.bombs` starts the service and sends each bomb several times. It
prints the answers, and the peak memory of the process above its memory before the first bomb.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import struct
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.reliability.harness import service
from benchmarks.reliability.running import Running

MAX_BODY: Final = 32 << 20
"""The service's limit on the size of a body, and so on the size of a bomb."""

CLAIMED: Final = (40_000, 40_000)
TIMES: Final = 5

MAX_EXTRA_MIB: Final = 64
"""A refused body of 32 MB is in memory once, and a part of it twice."""

MAX_DECODED_MIB: Final = {
    "PNG, 25 megapixels of grey": MAX_EXTRA_MIB,
    "PNG, 25 megapixels of 16 bits": 128,
    "PNG, 25 megapixels with alpha": 192,
    "JPEG, 25 megapixels": 192,
    "JPEG, 25 megapixels, progressive": 384,
    "WebP, 25 megapixels": 512,
    "TIFF, 25 megapixels of 16 bits": 192,
    "TIFF, 25 megapixels of 16-bit colour": 512,
    "TIFF, 25 megapixels, LZW": 384,
}
"""Limits for images of the largest accepted size. Pillow uses four bytes for each pixel of a colour
image, 95 MiB in all, so `MAX_EXTRA_MIB` cannot be met. A grey copy makes it 120 MiB. For a
progressive image, libjpeg also holds the coefficients. For a WebP, libwebp and Pillow hold the
pixels four times. Some 30 MiB more are memory that the process keeps from earlier bombs."""

TIMEOUT_S: Final = 60

LARGEST: Final = (5_000, 5_000)
"""The largest image the service accepts."""

JPEG_END, PNG_MAGIC = b"\xff\xd9", b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Bomb:
    """A request, and the statuses that are correct answers to it."""

    body: bytes
    headers: Mapping[str, str]
    statuses: tuple[int, ...] = (400, 413, 422)
    max_extra_mib: int = MAX_EXTRA_MIB


@dataclass(frozen=True)
class Found:
    """The outcome of a bomb: its last answer, the peak memory above the memory at the start, and
    the longest latency of the requests sent meanwhile."""

    bomb: str
    sent_bytes: int
    status: int
    detail: str
    extra_mib: float
    seconds: float
    others_s: float
    max_extra_mib: int


def file_of(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def digit(file_format: str) -> bytes:
    return file_of(Image.new("L", (28, 28), 99), file_format)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def fill(piece: bytes, around: int) -> bytes:
    """`piece`, repeated as often as fits into a body next to `around` other bytes."""
    return piece * ((MAX_BODY - around) // len(piece))


def png(*extra: bytes) -> bytes:
    """A valid image with chunks inserted before its pixels."""
    file = digit("PNG")
    start = file.index(b"IDAT") - 4
    return b"".join([file[:start], *extra, file[start:]])


def png_header(width: int, height: int, bits: int = 8, colour: int = 6) -> bytes:
    return PNG_MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png_of_zeros(width: int, height: int) -> bytes:
    """A valid PNG of one bit per pixel."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_header(width, height, 1, 0) + chunk(b"IDAT", data) + chunk(b"IEND")


def zeros_packed(size: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """`size` compressed zeros, a multiple of 1 MiB. The checksum is omitted: it is never read."""
    packer = zlib.compressobj(9, wbits=wbits)
    head, block = (
        packer.compress(bytes(n)) + packer.flush(zlib.Z_FULL_FLUSH) for n in (0, 1 << 20)
    )
    return head + block * (size >> 20)


def exif_bomb(size: int) -> bytes:
    """EXIF data with entries that each claim to span all `size` bytes."""
    count = min(65_535, (size - 14) // 12)
    entries = b"".join(struct.pack("<HHII", tag, 7, size, 0) for tag in range(count))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries).ljust(size, b"\0")


def jpeg(extra: bytes) -> bytes:
    """A valid image with segments inserted at its start."""
    file = digit("JPEG")
    return file[:2] + extra + file[2:]


def jpeg_of_scans() -> bytes:
    """A progressive JPEG whose last scan is repeated. Each scan covers five megapixels."""
    file = file_of(Image.new("L", (2_500, 2_000)), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:-2] + fill(file[last:-2], len(file))[: 1 << 20] + JPEG_END


def jpeg_claim(width: int, height: int) -> bytes:
    file = bytearray(digit("JPEG"))
    start = file.index(b"\xff\xc0") + 5
    file[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(file)


def riff(*chunks: bytes) -> bytes:
    data = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(data)) + data


def riff_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def canvas(width: int, height: int) -> bytes:
    """A WebP's VP8X chunk, with EXIF."""
    sizes = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    return riff_chunk(b"VP8X", b"\x08\0\0\0" + sizes)


def webp(*extra: bytes, size: tuple[int, int] = (28, 28)) -> bytes:
    return riff(canvas(*size), digit("WEBP")[12:], *extra)


def webp_lossless(width: int, height: int) -> bytes:
    """A complete WebP of one colour, without a VP8X chunk."""
    return file_of(Image.new("RGB", (width, height)), "WEBP", lossless=True, method=0, quality=0)


def webp_lossless_claim(width: int, height: int) -> bytes:
    file = bytearray(webp_lossless(28, 28))
    file[21:25] = struct.pack("<I", width - 1 | height - 1 << 14)
    return bytes(file)


def bmp_claim(width: int, height: int, file: bytes = b"") -> bytes:
    changed = bytearray(file or digit("BMP"))
    changed[18:26] = struct.pack("<ii", width, height)
    return bytes(changed)


def bmp_of_runs() -> bytes:
    """A run-length encoded BMP with one pixel in each run."""
    header = bytearray(bmp_claim(5_000, 4_000))
    header[30:34] = struct.pack("<I", 1)
    return bytes(header[:1078]) + b"\x01\x00" * 10_000_000


def npy(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def npy_of(shape: str, descr: str = "<f4") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return npy(header.encode(), bytes(3136))


def npz() -> bytes:
    """The output of `numpy.savez_compressed` for 200 MB of zeros."""
    file = BytesIO()
    np.savez_compressed(file, images=np.zeros((1 << 18, 28, 28), np.uint8))
    return file.getvalue()


def form(*parts: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    return b"".join(head + part + b"\r\n" for part in parts) + b"--x--\r\n"


def headers_of_a_part() -> bytes:
    line = b"a: " + b"b" * 4_000 + b"\r\n"
    part = b"--x\r\n" + line * 7 + b'Content-Disposition: form-data; name="images"\r\n\r\n\r\n'
    return fill(part, 100) + b"--x--\r\n"


def files() -> Iterator[tuple[str, bytes]]:
    """Image files that must be refused."""
    yield "PNG, 1,600 megapixels of zeros", png_of_zeros(*CLAIMED)
    yield "PNG, header of 2³¹ × 2³¹", png_header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT")
    yield "PNG, 50,000 × 1", png_of_zeros(50_000, 1)
    yield "PNG, 1 × 50,000", png_of_zeros(1, 50_000)
    yield "PNG, 2.7 million private chunks", png(fill(chunk(b"prVt"), 200))
    yield "PNG, 2.7 million empty IDATs", png(fill(chunk(b"IDAT"), 200))
    yield "JPEG, 65,000 × 65,000", jpeg_claim(65_000, 65_000)
    yield "JPEG, 50,000 × 1", jpeg_claim(50_000, 1)
    yield "JPEG, 8 million segments", jpeg(fill(b"\xff\xe5\0\2", 1_000))
    yield "JPEG, 480 MB of tables", jpeg(fill(table(), 1_000))
    yield "JPEG, scans without end", jpeg_of_scans()
    yield "WebP, canvas of 2²⁴ × 2²⁴", webp(size=(1 << 24, 1 << 24))
    yield "WebP, canvas of 16,383 × 16,383", webp(size=(16_383, 16_383))
    yield "WebP, lossless of 268 megapixels", webp_lossless_claim(16_383, 16_383)
    yield "WebP, 50,000 × 1", webp(size=(50_000, 1))
    yield "WebP, 4 million chunks", webp(fill(riff_chunk(b"abcd"), 1_000))
    yield "BMP, 2³¹ × 2³¹", bmp_claim(2**31 - 1, 2**31 - 1)
    yield "BMP, 50,000 × 1", bmp_claim(50_000, 1)
    yield "BMP, 20 million runs", bmp_of_runs()
    yield "TIFF, 2³² × 2³²", tiff([(256, [2**32 - 1]), (257, [2**32 - 1]), (262, [1])])
    yield "TIFF, 50,000 × 1", tiff([(256, [50_000]), (257, [1]), (262, [1])])
    yield "TIFF, 65,535 tags", tiff([(40_000, [0])] * 65_535)
    yield "TIFF, 2 million strips", tiff([*SIDES, (273, [8] * 2_000_000)])
    yield "TIFF, tiles of 2³¹", tiff([*SIDES, (322, [1 << 16]), (323, [1 << 15]), (324, [8])])
    yield "TIFF, 1,000 tiles of a megapixel for 16,000 pixels", column_of_tiles()
    yield "TIFF, 16,384 strips that are the whole file", overlapping()
    yield "TIFF, pages in a circle", circle()


SIDES: Final = ((256, [28]), (257, [28]), (262, [1]))


def tiff(tags: Sequence[tuple[int, Sequence[int]]], data: bytes = b"") -> bytes:
    """A TIFF of one page with these tags, in LONGs, and with `data` from its eighth byte on."""
    start = 8 + len(data) + len(data) % 2
    at = start + 2 + 12 * len(tags) + 4
    entries, values = [], []
    for tag, numbers in tags:
        inline = numbers[0] if len(numbers) == 1 else at
        entries.append(struct.pack("<HHII", tag, 4, len(numbers), inline))
        if len(numbers) > 1:
            values.append(np.array(numbers, "<u4").tobytes())
            at += len(values[-1])
    head = b"II*\0" + struct.pack("<I", start) + data.ljust(start - 8, b"\0")
    return b"".join([head, struct.pack("<H", len(tags)), *entries, bytes(4), *values])


def overlapping() -> bytes:
    """LZW strips of one row, each of which claims the same 20 MB."""
    data, n = bytes(20 << 20), 16_000
    grey = ((258, [8]), (259, [5]), (262, [1]), (277, [1]), (278, [1]))
    sides, strips = ((256, [1_000]), (257, [n])), ((273, [8] * n), (279, [len(data)] * n))
    return tiff([*sides, *grey, *strips], data)


def column_of_tiles() -> bytes:
    """Deflated tiles of a megapixel, of which the image has one column each."""
    tile, n = zlib.compress(bytes(1 << 20), 9), 1_000
    sides = ((256, [1]), (257, [16 * n]), (322, [1 << 16]), (323, [16]))
    grey = ((258, [8]), (259, [8]), (262, [1]), (277, [1]))
    tiles = ((324, [8 + len(tile) * i for i in range(n)]), (325, [len(tile)] * n))
    return tiff([*sides, *grey, *tiles], tile * n)


def deep_colour() -> bytes:
    """One strip of 25 megapixels of 16-bit RGB."""
    strip = zlib.compress(bytes(6 * LARGEST[0] * LARGEST[1]), 1)
    sides = ((256, [LARGEST[0]]), (257, [LARGEST[1]]))
    kind = ((258, [16] * 3), (259, [8]), (262, [2]), (273, [8]), (277, [3]), (279, [len(strip)]))
    return tiff([*sides, *kind], strip)


def circle() -> bytes:
    """Pages whose next one is the first, and which have too many pixels."""
    file = bytearray(tiff([(256, [40_000]), (257, [40_000]), (262, [1])]))
    file[-4:] = file[4:8]
    return bytes(file)


def table() -> bytes:
    """A JPEG segment of 1,008 quantisation tables."""
    data = (b"\0" + b"\1" * 64) * 1_008
    return b"\xff\xdb" + struct.pack(">H", len(data) + 2) + data


def defused() -> Iterator[tuple[str, bytes]]:
    """Files whose bomb lies outside the pixel data, so it is never decompressed."""
    text = chunk(b"zTXt", b"a\0\0" + zeros_packed(1 << 30))
    profile = chunk(b"iCCP", b"a\0\0" + zeros_packed(1 << 30))
    mebibyte = chunk(b"zTXt", b"a\0\0" + zeros_packed(1 << 20))
    yield "PNG, a text of 1 GiB", png(text)
    yield "PNG, 60 texts of 1 MiB", png(mebibyte * 60)
    yield "PNG, a profile of 1 GiB", png(profile)
    yield "PNG, EXIF of 65,535 × 1 MB", png(chunk(b"eXIf", exif_bomb(1 << 20)))
    exif = b"Exif\0\0" + exif_bomb(65_000)
    yield "JPEG, EXIF of 5,415 × 65 kB", jpeg(b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    index = b"MPF\0" + exif_bomb(65_000)
    yield "JPEG, index of 350 MB", jpeg(b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index)
    yield "WebP, EXIF of 65,535 × 1 MB", webp(riff_chunk(b"EXIF", exif_bomb(1 << 20)))


def largest() -> Iterator[tuple[str, bytes]]:
    """The largest accepted images of each format."""
    for what, mode in (("of grey", "L"), ("of 16 bits", "I;16"), ("with alpha", "RGBA")):
        yield f"PNG, 25 megapixels {what}", file_of(Image.new(mode, LARGEST), "PNG")
    image = Image.new("RGB", LARGEST)
    yield "JPEG, 25 megapixels", file_of(image, "JPEG", subsampling=0)
    progressive = file_of(image, "JPEG", subsampling=0, progressive=True)
    yield "JPEG, 25 megapixels, progressive", progressive
    yield "WebP, 25 megapixels", webp_lossless(*LARGEST)
    deep = Image.new("I;16", LARGEST, 4_095)
    strips = {278: 1_000}  # of as many rows
    yield (
        "TIFF, 25 megapixels of 16 bits",
        file_of(deep, "TIFF", compression="tiff_adobe_deflate", tiffinfo=strips),
    )
    yield "TIFF, 25 megapixels of 16-bit colour", deep_colour()
    yield "TIFF, 25 megapixels, LZW", file_of(image, "TIFF", compression="tiff_lzw")


def bombs() -> Iterator[tuple[str, Bomb]]:
    """All bombs, generated one at a time."""
    for name, file in files():
        yield name, Bomb(file, {})
    small = png_of_zeros(*CLAIMED)
    body = json.dumps({"images": [b64encode(small).decode()] * 8}).encode()
    yield "JSON, base64 of the first", Bomb(body, {"Content-Type": "application/json"})
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    yield "form, the first eight times", Bomb(form(*[small] * 8), multipart)
    yield "form, 32 MB of headers", Bomb(headers_of_a_part(), multipart)
    yield "form, 400,000 parts", Bomb(fill(form(b"")[:-7], 100) + b"--x--\r\n", multipart)
    for name, file in defused():
        yield name, Bomb(file, {}, (200,))
    for encoding, wbits in (("gzip", 16 + zlib.MAX_WBITS), ("deflate", zlib.MAX_WBITS)):
        raw = {"Content-Type": "application/octet-stream", "Content-Encoding": encoding}
        yield f"{encoding}, 10 GiB of zeros", Bomb(zeros_packed(10 << 30, wbits), raw)
        yield f"{encoding}, a byte too many", Bomb(zeros_packed(33 << 20, wbits), raw)
    nested = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
    yield "gzip, the first PNG", Bomb(gzip.compress(small), nested)
    array = {"Content-Type": "application/x-npy"}
    yield "npy, a zip of 200 MB", Bomb(npz(), array)
    yield "npy, a header of 4 GiB", Bomb(b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(3136), array)
    yield "npy, a header of 32 MB", Bomb(npy(b" " * (MAX_BODY - 100), version=2), array)
    yield "npy, header of brackets", Bomb(npy(b"(" * 4_000), array)
    for shape in ("(1099511627776, 28, 28)", "(1, 4294967296, 4294967296, 784)", "(-1, 784)"):
        yield f"npy, shape {shape}", Bomb(npy_of(shape), array)
    yield "npy, objects", Bomb(npy_of("(1, 784)", "|O"), array)
    yield "npy, an item of 2 GiB", Bomb(npy_of("(1,)", "|S2147483647"), array)
    for name, file in largest():  # last, as the allocator may keep some of their memory
        yield name, Bomb(file, {}, (200,), MAX_DECODED_MIB[name])


def send(live: Running, bomb: Bomb) -> tuple[int, str]:
    connection = http.client.HTTPConnection(live.host, live.port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/encode", bomb.body, dict(bomb.headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Others:
    """Sends small requests one after the other while the block runs."""

    def __init__(self, live: Running) -> None:
        self.longest_s = 0.0
        self._live = live
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        live = self._live
        connection = http.client.HTTPConnection(live.host, live.port, timeout=TIMEOUT_S)
        while not self._over.is_set():
            begun = time.perf_counter()
            connection.request("GET", "/livez")
            connection.getresponse().read()
            self.longest_s = max(self.longest_s, time.perf_counter() - begun)
            time.sleep(0.001)
        connection.close()


def try_bombs(
    live: Running,
    chosen: Callable[[], Iterator[tuple[str, Bomb]]] = bombs,
    times: int = TIMES,
) -> list[Found]:
    """Measure the cost of each bomb. Raises `AssertionError` for a wrong answer."""
    good = Bomb(digit("PNG"), {})
    for _ in range(20):
        assert send(live, good)[0] == 200
    before = live.resident_mib()
    found = []
    for name, bomb in chosen():
        live.forget_peak()
        begun = time.perf_counter()
        with Others(live) as others:
            for _ in range(times):
                status, text = send(live, bomb)
                assert status in bomb.statuses, f"{name}: {status} {text[:300]}"
        seconds = (time.perf_counter() - begun) / times
        found.append(
            Found(
                bomb=name,
                sent_bytes=len(bomb.body),
                status=status,
                detail=json.loads(text).get("detail", ""),
                extra_mib=round(live.peak_mib() - before, 1),
                seconds=round(seconds, 3),
                others_s=round(others.longest_s, 3),
                max_extra_mib=bomb.max_extra_mib,
            )
        )
        assert send(live, good)[0] == 200
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=TIMES, help="how often to send each bomb")
    arguments = parser.parse_args()
    with service() as live:
        found = try_bombs(live, times=arguments.times)
    for item in found:
        print(
            f"{item.extra_mib:7.1f} MiB {item.seconds:7.3f} s, others {item.others_s:.3f} s  "
            f"{item.status}  {item.bomb}"
        )
    small = [item for item in found if item.max_extra_mib == MAX_EXTRA_MIB]
    worst = max(small, key=lambda item: item.extra_mib)
    figures = {
        "bombs": len(small),
        "times": arguments.times,
        "worst_extra_mib": worst.extra_mib,
        "worst_bomb": worst.bomb,
        "worst_seconds": max(item.seconds for item in found),
        "worst_others_s": max(item.others_s for item in found),
        "largest_extra_mib": max(item.extra_mib for item in found),
        "found": [asdict(item) for item in found],
    }
    print(json.dumps(figures, ensure_ascii=False))
    return 0 if all(item.extra_mib < item.max_extra_mib for item in found) else 1


if __name__ == "__main__":
    sys.exit(main())
