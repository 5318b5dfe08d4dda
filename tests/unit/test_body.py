"""The bytes of a body."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message, Scope

from service.body import read_body
from service.context import RequestContext, headers_of
from service.deadlines import Deadlines
from service.errors import BadBodyError, TooLargeError, UnsupportedTypeError


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
        request_id="x", timeout_s=30, started=perf_counter(), headers=headers_of(scope)
    )
    scope["state"] = {"context": context}
    return Request(scope, receive)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10), st.integers(0, 100))
def test_a_body_is_read_whole_or_refused(chunks: list[bytes], max_bytes: int) -> None:
    whole = b"".join(chunks)
    request = request_of(*chunks)
    if len(whole) <= max_bytes:
        assert asyncio.run(read_body(request, max_bytes, Deadlines())) == whole
    else:
        with pytest.raises(TooLargeError, match=str(max_bytes)):
            asyncio.run(read_body(request, max_bytes, Deadlines()))


def test_an_announced_size_is_believed_only_if_it_is_too_large() -> None:
    with pytest.raises(TooLargeError, match="11 bytes > maximum 10"):
        asyncio.run(read_body(request_of(content_length="11"), 10, Deadlines()))
    for size in ("1", "-5", "x"):
        request = request_of(b"x" * 11, content_length=size)
        with pytest.raises(TooLargeError):
            asyncio.run(read_body(request, 10, Deadlines()))


@given(st.binary(max_size=200), st.integers(1, 50), st.sampled_from(["gzip", "deflate"]))
def test_a_compressed_body_is_limited_by_what_it_unpacks_to(
    data: bytes, cut: int, encoding: str
) -> None:
    packed = gzip.compress(data) if encoding == "gzip" else zlib.compress(data)
    chunks = [packed[i : i + cut] for i in range(0, len(packed), cut)]
    for max_bytes in (len(data), len(data) + 1, 1000):
        request = request_of(*chunks, content_encoding=encoding)
        assert asyncio.run(read_body(request, max(max_bytes, len(packed)), Deadlines())) == data
    if len(data) > len(packed):
        request = request_of(*chunks, content_encoding=encoding)
        with pytest.raises(TooLargeError, match=f"{len(data) - 1:,}"):
            asyncio.run(read_body(request, len(data) - 1, Deadlines()))


def test_a_bomb_is_not_unpacked_past_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(TooLargeError, match="unpacks to more bytes than the maximum 1,000,000"):
        asyncio.run(read_body(request_of(bomb, content_encoding="gzip"), 1_000_000, Deadlines()))


@pytest.mark.parametrize("body", [b"x", gzip.compress(b"x")[:-1], gzip.compress(b"x") + b"y", b""])
def test_a_damaged_compressed_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadBodyError, match="gzip"):
        asyncio.run(read_body(request_of(body, content_encoding="gzip"), 1_000, Deadlines()))


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError, match=r"'br'.*gzip, deflate"):
        asyncio.run(read_body(request_of(b"x", content_encoding="br"), 1_000, Deadlines()))
