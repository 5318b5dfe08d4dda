"""The bytes of a body."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message, Scope

from service.errors import BadBodyError, TooLargeError, UnsupportedTypeError
from service.http.body import DECOMPRESS_BYTES, read_body
from service.http.lifecycle import headers_of
from service.limits.byte_budget import ByteBudget
from service.request import RequestContext

PACKED = gzip.compress(b"x", mtime=0)
"""The same at any time: it becomes part of a test's id."""


def request_of(*chunks: bytes, **headers: str) -> Request:
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)}
        for i, chunk in enumerate(chunks)
    ]

    async def receive() -> Message:
        return messages.pop(0)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {"type": "http", "headers": raw}
    context = RequestContext(
        request_id="x",
        model_version="1",
        budget=ByteBudget(1 << 30),
        check_queue_capacity=lambda images, n_bytes: None,
        timeout_s=30,
        started=perf_counter(),
        headers=headers_of(scope),
    )
    scope["state"] = {"context": context}
    return Request(scope, receive)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10), st.integers(0, 100))
def test_a_body_is_read_whole_or_refused(chunks: list[bytes], max_bytes: int) -> None:
    whole = b"".join(chunks)
    request = request_of(*chunks)
    if len(whole) <= max_bytes:
        assert asyncio.run(read_body(request, max_bytes)) == whole
    else:
        with pytest.raises(TooLargeError, match=str(max_bytes)):
            asyncio.run(read_body(request, max_bytes))


def test_an_announced_size_is_believed_only_if_it_is_too_large() -> None:
    with pytest.raises(TooLargeError, match="11 bytes > maximum 10"):
        asyncio.run(read_body(request_of(content_length="11"), 10))
    for size in ("1", "-5", "x"):
        request = request_of(b"x" * 11, content_length=size)
        with pytest.raises(TooLargeError):
            asyncio.run(read_body(request, 10))


@given(st.binary(max_size=200), st.integers(1, 50), st.sampled_from(["gzip", "deflate"]))
def test_a_compressed_body_is_limited_by_what_it_unpacks_to(
    data: bytes, cut: int, encoding: str
) -> None:
    packed = gzip.compress(data) if encoding == "gzip" else zlib.compress(data)
    chunks = [packed[i : i + cut] for i in range(0, len(packed), cut)]
    for max_bytes in (len(data), len(data) + 1, 1000):
        request = request_of(*chunks, content_encoding=encoding)
        assert asyncio.run(read_body(request, max(max_bytes, len(packed)))) == data
    if len(data) > len(packed):
        request = request_of(*chunks, content_encoding=encoding)
        with pytest.raises(TooLargeError, match=f"{len(data) - 1:,}"):
            asyncio.run(read_body(request, len(data) - 1))


def test_a_bomb_is_not_unpacked_past_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(
        TooLargeError, match="decompresses to more bytes than the maximum of 1,000,000"
    ):
        asyncio.run(read_body(request_of(bomb, content_encoding="gzip"), 1_000_000))


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_of_whole_steps_is_unpacked_whole(extra: int, encoding: str) -> None:
    data = bytes(3 * DECOMPRESS_BYTES + extra)
    packed = gzip.compress(data) if encoding == "gzip" else zlib.compress(data)
    request = request_of(
        *(packed[i : i + 1] for i in range(len(packed))), content_encoding=encoding
    )
    assert asyncio.run(read_body(request, len(data))) == data


def test_the_event_loop_runs_while_a_body_is_decompressed() -> None:
    """A few kilobytes that become thirty megabytes are in one chunk, which others wait for."""
    steps = 30
    bomb = gzip.compress(bytes(steps * DECOMPRESS_BYTES))

    async def turns_beside() -> int:
        request = request_of(bomb, content_encoding="gzip")
        reading = asyncio.create_task(read_body(request, steps * DECOMPRESS_BYTES))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(await reading) == steps * DECOMPRESS_BYTES
        return turns

    assert asyncio.run(turns_beside()) >= steps


def test_a_bomb_takes_no_more_than_the_limit_and_a_step() -> None:
    bomb = gzip.compress(bytes(100 * DECOMPRESS_BYTES))
    limit = 8 * DECOMPRESS_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            asyncio.run(read_body(request_of(bomb, content_encoding="gzip"), limit))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * limit + 2 * DECOMPRESS_BYTES, "an eighth is room to grow"


def test_a_body_in_many_pieces_is_in_memory_once() -> None:
    piece, pieces = bytes(1 << 16), 256

    async def receive() -> Message:
        nonlocal pieces
        pieces -= 1
        return {"type": "http.request", "body": piece, "more_body": pieces > 0}

    size = len(piece) * pieces
    request = request_of(b"")
    request._receive = receive

    async def length() -> int:
        return len(await read_body(request, size))

    tracemalloc.start()
    try:
        assert asyncio.run(length()) == size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * size, "an eighth is room to grow"


@pytest.mark.parametrize("body", [b"x", PACKED[:-1], PACKED + b"y", b""])
def test_a_damaged_compressed_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadBodyError, match="gzip"):
        asyncio.run(read_body(request_of(body, content_encoding="gzip"), 1_000))


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError, match=r"'br'.*gzip, deflate"):
        asyncio.run(read_body(request_of(b"x", content_encoding="br"), 1_000))
