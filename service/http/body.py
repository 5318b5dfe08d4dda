"""The bytes of a body: within its limits, within its time, decompressed."""

from __future__ import annotations

import asyncio
import zlib
from io import BytesIO
from time import perf_counter
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from service.errors import BadBodyError, BodyTimeoutError, TooLargeError, UnsupportedTypeError
from service.request import RequestContext

ENCODINGS: Final = ("gzip", "deflate")
"""Content-Encoding of bodies that are read."""

GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
"""`wbits` that takes either header: `deflate` means zlib's format (RFC 9110, section 8.4.1.2)."""

UNPACK_BYTES: Final = 1 << 20
"""Unpacked at a time on the event loop, a millisecond or two; then others have their turn."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, refused as soon as it turns out to be too large.

    A request that the queue has no room for is refused before its body is read. Compressed bodies
    are limited by their decompressed size. Raises `BadBodyError`, `QueueFullError`,
    `TooLargeError`, `UnsupportedTypeError` or, at the request's deadline, `BodyTimeoutError`.
    """
    context = RequestContext.of(request)
    headers = context.headers
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooLargeError(f"body has {int(announced):,} bytes > maximum {max_bytes:,}")
    context.check_queue_capacity(1, int(announced) if announced.isdecimal() else 0)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", *ENCODINGS):
        raise UnsupportedTypeError(
            f"Content-Encoding is {encoding[:64]!r}, bodies are read as {', '.join(ENCODINGS)} "
            "or plain"
        )
    if encoding == "identity" and _is_whole(request.receive):
        body, _ = await _receive(request.receive)
        if len(body) > max_bytes:
            raise TooLargeError(f"body has more bytes than the maximum {max_bytes:,}")
        context.reserve(len(body))
        return body
    try:
        async with asyncio.timeout(context.deadline - perf_counter()):
            if encoding == "identity":
                return await _read_plain(request.receive, max_bytes, context)
            return await _read_compressed(request.receive, max_bytes, encoding, context)
    except TimeoutError as error:
        raise BodyTimeoutError(
            f"the body did not arrive within the request's {context.timeout_s:g} s"
        ) from error


def _is_whole(receive: Receive) -> bool:
    """Whether all of the body is here already, so that reading it needs no limit.

    uvicorn's `receive` is a method of what gathers the body, and most bodies come with their head.
    Of other servers' it is not known.
    """
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


async def _read_plain(receive: Receive, max_bytes: int, context: RequestContext) -> bytes:
    body, more = await _receive(receive)
    context.reserve(len(body))
    if more:
        whole = BytesIO()  # which gives away what it has gathered, where joining would copy it
        whole.write(body)
        while more and whole.tell() <= max_bytes:
            chunk, more = await _receive(receive)
            context.reserve(len(chunk))
            whole.write(chunk)
        body = whole.getvalue()
    if len(body) > max_bytes:
        raise TooLargeError(f"body has more bytes than the maximum {max_bytes:,}")
    return body


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """The next part of a body, and whether there are more. Raises `ClientDisconnect`."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _read_compressed(
    receive: Receive, max_bytes: int, encoding: str, context: RequestContext
) -> bytes:
    unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
    body = BytesIO()
    packed_bytes = 0
    try:
        more = True
        while more:
            packed, more = await _receive(receive)
            packed_bytes += len(packed)
            if packed_bytes > max_bytes:
                raise TooLargeError(f"body has more bytes than the maximum {max_bytes:,}")
            if packed and unpacker.eof:
                raise BadBodyError(f"the {encoding} body goes on after its end")
            while await _unpack(unpacker, packed, body, max_bytes):
                packed = unpacker.unconsumed_tail
            context.reserve(body.tell() - context.reserved_bytes)
    except zlib.error as error:
        raise BadBodyError(f"the body is not {encoding}, as its Content-Encoding says") from error
    if not unpacker.eof or unpacker.unused_data:
        what = "goes on after its end" if unpacker.eof else "is cut short"
        raise BadBodyError(f"the {encoding} body {what}")
    return body.getvalue()


async def _unpack(unpacker: zlib._Decompress, packed: bytes, body: BytesIO, max_bytes: int) -> bool:
    """Unpack `UNPACK_BYTES` at most, and say whether there may be more of it."""
    # One byte past the limit tells that it is passed, however small the chunk was.
    limit = min(UNPACK_BYTES, max_bytes - body.tell() + 1)
    unpacked = unpacker.decompress(packed, limit)
    body.write(unpacked)
    if body.tell() > max_bytes:
        raise TooLargeError(f"body unpacks to more bytes than the maximum {max_bytes:,}")
    if len(unpacked) < limit:
        return False
    await asyncio.sleep(0)
    return True
