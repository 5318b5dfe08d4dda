"""Image files of every kind, through the service: what they show is what is scored."""

from __future__ import annotations

import asyncio
import re
import struct
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient, Response
from numpy.typing import NDArray
from PIL import Image

from model.images.preprocessing import image_to_array
from tests.api.helpers import image_file, png_pixels, problem
from tests.conftest import Server

Pixels = NDArray[np.uint8]

JPEG_NOISE = 0.3
"""How far a JPEG may move μ, a few of whose units part one digit from another."""

HELD_S = 2.0
"""A decoder that is held waits so long at most, and fails then."""

PHOTOGRAPH = (4000, 3000)


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


@pytest.fixture(scope="module")
def digit(four: Pixels) -> Pixels:
    """(28, 28)."""
    found: Pixels = four[2, 0]
    return found


def palette(greys: list[int]) -> list[int]:
    return [part for grey in greys for part in (grey, grey, grey)]


def one_bit(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(Image.fromarray(digit > 127)), (digit > 127) * 255


def palette_of_greys(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """Colour 0 is the lightest."""
    image = Image.fromarray(255 - digit, "L")
    image.putpalette(palette(list(range(255, -1, -1))))
    assert image.mode == "P"
    return file_of(image), digit


def palette_with_a_hole(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """White is transparent: where it was, there is black."""
    image = Image.fromarray(np.where(digit > 127, 1, 0).astype(np.uint8), "L")
    image.putpalette(palette([200, 255]))
    return file_of(image, transparency=1), np.where(digit > 127, 0, 200)


def palette_with_alphas(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    image = Image.fromarray(digit // 64, "L")
    image.putpalette(palette([255, 255, 255, 255]))
    alphas = np.array([0, 51, 102, 255])
    return file_of(image, transparency=bytes(alphas.tolist())), alphas[digit // 64]


def sixteen_bits(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(Image.fromarray(digit.astype(np.uint16) * 257)), digit


def sixteen_bits_just_below(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """The low byte is cut off, not rounded: 65,535 must not become 256."""
    return file_of(Image.fromarray(digit.astype(np.uint16) * 256 + 255)), digit


def grey_and_alpha(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(
        Image.merge("LA", [Image.new("L", (28, 28), 255), Image.fromarray(digit)])
    ), digit


def colour_and_alpha(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    white = Image.new("L", (28, 28), 255)
    return file_of(Image.merge("RGBA", [white] * 3 + [Image.fromarray(digit)])), digit


def webp_with_alpha(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    white = Image.new("L", (28, 28), 255)
    image = Image.merge("RGBA", [white] * 3 + [Image.fromarray(digit)])
    return file_of(image, "WEBP", lossless=True, exact=True), digit


def invisible(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    ink = Image.fromarray(digit)
    return file_of(Image.merge("LA", [ink, Image.new("L", (28, 28), 0)])), digit * 0


def animated_webp(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    others = [Image.new("L", (28, 28), grey).convert("RGB") for grey in (255, 0)]
    first = Image.fromarray(digit).convert("RGB")
    file = file_of(first, "WEBP", save_all=True, append_images=others, lossless=True)
    assert b"ANMF" in file
    return file, digit


def animated_png(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    others = [Image.new("L", (28, 28), grey) for grey in (255, 0)]
    file = file_of(Image.fromarray(digit), save_all=True, append_images=others)
    assert b"acTL" in file
    return file, digit


def grey_bmp_of_a_palette(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    return file_of(Image.fromarray(digit), "BMP"), digit


def colour(digit: Pixels) -> tuple[bytes, NDArray[Any]]:
    """ITU-R 601: what Pillow, and the network's training, mean by grey."""
    red, green, blue = digit, np.roll(digit, 3), 255 - digit
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).round()
    return file_of(Image.fromarray(np.dstack([red, green, blue]))), luma


EXACT = [
    one_bit,
    palette_of_greys,
    palette_with_a_hole,
    palette_with_alphas,
    sixteen_bits,
    sixteen_bits_just_below,
    grey_and_alpha,
    colour_and_alpha,
    webp_with_alpha,
    invisible,
    animated_webp,
    animated_png,
    grey_bmp_of_a_palette,
    colour,
]


@pytest.mark.anyio
@pytest.mark.parametrize("make", EXACT, ids=lambda make: make.__name__)
async def test_a_file_shows_these_greys(
    client: AsyncClient, digit: Pixels, make: Callable[[Pixels], tuple[bytes, NDArray[Any]]]
) -> None:
    file, greys = make(digit)
    # Rounding may be one grey off for colours and alphas.
    tolerance = 0.05 if make in (colour, palette_with_alphas) else 1e-5
    expected = await of_pixels(client, greys)
    assert await seen(client, file) == pytest.approx(expected, abs=tolerance)


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


@pytest.mark.anyio
@pytest.mark.parametrize(
    "make", [jpeg, progressive_jpeg, cmyk_jpeg, phone_jpeg, lossy_webp], ids=lambda f: f.__name__
)
async def test_a_lossy_file_shows_the_digit(
    client: AsyncClient, digit: Pixels, make: Callable[[Pixels], bytes]
) -> None:
    expected = await of_pixels(client, digit)
    assert await seen(client, make(digit)) == pytest.approx(expected, abs=JPEG_NOISE)


TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x, 2).T,
    8: lambda x: np.rot90(x, -1),
}
"""How a camera held so stores what it sees (Exif 2.3, tag 0x0112)."""


@pytest.mark.anyio
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_a_file_is_turned_as_its_exif_says(
    client: AsyncClient, digit: Pixels, file_format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(TURNS[orientation](digit))
    file = image_file(stored, file_format, exif=exif, quality=98)
    tolerance = JPEG_NOISE if file_format == "JPEG" else 1e-5
    expected = await of_pixels(client, digit)
    assert await seen(client, file) == pytest.approx(expected, abs=tolerance)


@pytest.mark.anyio
@pytest.mark.parametrize("grey", [0, 77, 255])
async def test_one_pixel(client: AsyncClient, grey: int) -> None:
    file = image_file(np.full((1, 1), grey, np.uint8))
    expected = await of_pixels(client, np.full((28, 28), grey))
    assert await seen(client, file) == pytest.approx(expected, abs=1e-5)
    for carrier in CARRIERS:
        answer = await send(client, file, carrier, "?resize=false")
        problem(answer, 422, "1 × 1", "28 × 28")


@pytest.mark.anyio
@pytest.mark.parametrize("size", [(1, 16_383), (16_383, 1), (28, 1), (3_000, 3)])
async def test_a_shape_far_from_square(client: AsyncClient, size: tuple[int, int]) -> None:
    expected = await of_pixels(client, np.full((28, 28), 99))
    assert await seen(client, file_of(Image.new("L", size, 99))) == pytest.approx(
        expected, abs=1e-5
    )


# Photographs


@pytest.fixture(scope="module")
def photograph(digit: Pixels) -> bytes:
    """The digit, large, on grainy paper, in a warm light."""
    grain = np.random.default_rng(1).integers(-8, 9, (300, 400))
    large = np.asarray(Image.fromarray(digit).resize((400, 300), Image.Resampling.BICUBIC))
    grainy = np.clip(large + grain, 0, 255).astype(np.uint8)
    image = Image.fromarray(grainy).resize(PHOTOGRAPH, Image.Resampling.BILINEAR)
    return file_of(Image.merge("RGB", [image, image, image]), "JPEG", quality=90)


@pytest.mark.anyio
async def test_a_photograph(client: AsyncClient, digit: Pixels, photograph: bytes) -> None:
    assert len(photograph) > 500_000
    expected = await of_pixels(client, digit)
    answer = await send(client, photograph, "body")
    assert np.array(answer.json()["mu"]) == pytest.approx(expected, abs=2 * JPEG_NOISE)
    problem(await send(client, photograph, "body", "?resize=false"), 422, "4000 × 3000")


@pytest.fixture(scope="module")
def snapshot(photograph: bytes) -> bytes:
    """Three megapixels in no more bytes than a few images have as JSON numbers."""
    with Image.open(BytesIO(photograph)) as image:
        file = file_of(image.resize((2000, 1500)), "JPEG", quality=60)
    assert 50_000 < len(file) < 190_000
    return file


def little_file_of_many_pixels(file_format: str) -> bytes:
    """24 megapixels in some hundred bytes, or a few thousand."""
    size = (6_000, 4_000)
    if file_format == "WEBP":
        return file_of(Image.new("RGB", size), "WEBP", lossless=True, method=0, quality=0)
    return png_of_zeros(*size)


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


class Held:
    """A function that waits until the test lets it go."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self._run = run

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.begun.set()
        if not self.gate.wait(HELD_S):
            raise TimeoutError("nobody else got a word in")
        return self._run(*arguments, **options)


async def check_others_are_answered(
    client: AsyncClient, held: Held, file: bytes, carrier: str
) -> None:
    answer = asyncio.create_task(send(client, file, carrier))
    assert await asyncio.to_thread(held.begun.wait, HELD_S)
    for _ in range(3):
        assert (await client.get("/livez")).status_code == 200
    assert not answer.done()
    held.gate.set()
    assert (await answer).status_code == 200, "it was let go in time"


@pytest.mark.anyio
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", ["photograph", "snapshot", "PNG", "WEBP"])
async def test_others_are_answered_while_a_large_image_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    client: AsyncClient,
    carrier: str,
    kind: str,
) -> None:
    file = little_file_of_many_pixels(kind) if kind.isupper() else request.getfixturevalue(kind)
    held = Held(image_to_array)
    monkeypatch.setattr("service.codecs.image_files.image_to_array", held)
    await check_others_are_answered(client, held, file, carrier)


def png_of_many_chunks(digit: Pixels) -> bytes:
    """As many as there may be."""
    file = image_file(digit)
    start = file.index(b"IDAT") - 4
    return file[:start] + chunk(b"prVt", b"") * 16_000 + file[start:]


def jpeg_of_many_segments(digit: Pixels) -> bytes:
    file = jpeg(digit)
    return file[:2] + b"\xff\xe5\0\2" * 16_000 + file[2:]


@pytest.mark.anyio
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    "make", [png_of_many_chunks, jpeg_of_many_segments], ids=lambda make: make.__name__
)
async def test_others_are_answered_while_a_long_file_is_opened(
    monkeypatch: pytest.MonkeyPatch,
    client: AsyncClient,
    digit: Pixels,
    carrier: str,
    make: Callable[[Pixels], bytes],
) -> None:
    """Pillow reads all that comes before the pixels, piece by piece, to tell how many there are."""
    file = make(digit)
    held = Held(Image.open)
    monkeypatch.setattr("PIL.Image.open", held)
    await check_others_are_answered(client, held, file, carrier)


# Files that claim too much


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


CLAIMS = {
    "PNG": png_of_zeros,
    "BMP": bmp_that_claims,
    "JPEG": jpeg_that_claims,
    "WEBP": webp_that_claims,
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
@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "ICO", "PPM", "JPEG2000"])
async def test_a_format_that_is_not_read(
    client: AsyncClient, digit: Pixels, file_format: str
) -> None:
    file = image_file(digit, file_format)
    headers = {"Content-Type": "image/png"}
    answer = await client.post("/encode", content=file, headers=headers)
    problem(answer, 400, "PNG, JPEG, WEBP, BMP")


@pytest.mark.anyio
async def test_what_the_service_draws_it_reads(client: AsyncClient) -> None:
    sample = await client.get("/sample?n=1&seed=21")
    drawn = png_pixels(sample)
    expected = await of_pixels(client, drawn)
    assert (await seen(client, sample.content) == expected).all()
