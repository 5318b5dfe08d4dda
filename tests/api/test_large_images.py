"""Photographs, and small files of many pixels: other requests are answered meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from PIL import Image

from model.images.preprocessing import image_to_array
from tests.api.helpers import image_file, problem
from tests.api.image_makers import (
    CARRIERS,
    JPEG_NOISE,
    Pixels,
    chunk,
    file_of,
    jpeg,
    of_pixels,
    png_of_zeros,
    send,
)

HELD_S = 2.0
"""A decoder that is held waits so long at most, and fails then."""

PHOTOGRAPH = (4000, 3000)


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
