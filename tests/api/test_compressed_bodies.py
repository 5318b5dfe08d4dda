"""Content-Encoding."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import numpy as np
import orjson
import pytest
from httpx import AsyncClient

from tests.api.bodies import FORM, JSON, NPY, RAW, Array, Images, form, npy, post
from tests.api.helpers import SMALL, WORK_ROUTES, image_file, problem, uint8_body

pytestmark = pytest.mark.anyio


def packed(data: bytes) -> bytes:
    """By gzip, the same at any time: it becomes part of a test's id."""
    return gzip.compress(data, mtime=0)


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
    ],
)
async def test_compressed_bodies(
    client: AsyncClient, four: Images, mu_of_four: Array, encoding: str, pack: Callable[..., bytes]
) -> None:
    file = image_file(four[0])
    for body, content_type, rows in [
        (four.tobytes(), RAW, 4),
        (npy(four), NPY, 4),
        (npy(four), "", 4),
        (orjson.dumps(uint8_body(four)), JSON, 4),
        (form(file), FORM, 1),
        (file, "image/png", 1),
    ]:
        packed = pack(body)
        answer = await post(client, "/encode", packed, content_type, content_encoding=encoding)
        assert answer.status_code == 200, answer.text
        assert np.array(answer.json()["mu"]) == pytest.approx(mu_of_four[:rows], abs=1e-5)


async def test_a_compressed_body_that_comes_byte_by_byte(
    client: AsyncClient, four: Images, mu_of_four: Array
) -> None:
    packed = gzip.compress(npy(four))

    async def slowly() -> AsyncIterator[bytes]:
        for i in range(len(packed)):
            yield packed[i : i + 1]

    headers = {"Content-Type": NPY, "Content-Encoding": "gzip"}
    answer = await client.post("/encode", content=slowly(), headers=headers)
    assert (np.array(answer.json()["mu"]) == mu_of_four).all()


@pytest.mark.parametrize(
    ("body", "encoding", "status", "mentioned"),
    [
        (packed(bytes(784))[:-1], "gzip", 400, "cut short"),
        (packed(bytes(784))[:15], "gzip", 400, "cut short"),
        (zlib.compress(bytes(784))[:-1], "deflate", 400, "cut short"),
        (packed(bytes(784)) + b"more", "gzip", 400, "extra bytes"),
        (packed(bytes(784))[:-8] + bytes(8), "gzip", 400, "gzip"),
        (b"garbage", "gzip", 400, "gzip"),
        (b"garbage", "deflate", 400, "deflate"),
        (bytes(784), "gzip", 400, "gzip"),
        (raw_deflate(bytes(784)), "deflate", 400, "deflate"),
        (packed(b""), "gzip", 400, "empty"),
        (b"x", "br", 415, "'br'"),
        (b"x", "zstd", 415, "'zstd'"),
        (b"x", "compress", 415, "gzip, deflate"),
        (b"x", "gzip, gzip", 415, "'gzip, gzip'"),
        (b"x", "x" * 10_000, 415, "gzip, deflate"),
    ],
)
@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_a_compressed_body_that_is_wrong(
    client: AsyncClient, route: str, body: bytes, encoding: str, status: int, mentioned: str
) -> None:
    answer = await post(client, route, body, RAW, content_encoding=encoding)
    assert len(problem(answer, status, mentioned)["detail"]) < 300


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_bomb(client: AsyncClient, pack: Callable[..., bytes]) -> None:
    """Limited by what it unpacks to, of which no more than the limit is ever unpacked."""
    limit = 32 * 1024 * 1024
    for size, status in [(limit - limit % 784, 413), (limit + 1, 413), (8 * limit, 413)]:
        packed = pack(bytes(size), 1)
        assert len(packed) < 2_000_000
        encoding = "gzip" if pack is gzip.compress else "deflate"
        answer = await post(client, "/encode", packed, RAW, content_encoding=encoding)
        problem(answer, status, "8,192" if size < limit else f"{limit:,}")


async def test_a_bomb_is_not_unpacked_past_the_limit(small_client: AsyncClient) -> None:
    """However much is in its first chunk."""
    packed = gzip.compress(bytes(58_000_000), 9)
    assert len(packed) < SMALL.max_body_bytes < 58_000_000
    tracemalloc.start()
    try:
        answer = await post(small_client, "/encode", packed, RAW, content_encoding="gzip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    problem(answer, 413, "decompresses", f"{SMALL.max_body_bytes:,}")
    assert peak < 5_000_000
