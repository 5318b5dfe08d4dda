"""The bytes of a body: within its limits, within its time, decompressed."""

from __future__ import annotations

import zlib
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from service.context import RequestContext
from service.deadlines import Deadlines, Limit
from service.errors import BadBodyError, BodyTimeoutError, TooLargeError, UnsupportedTypeError

ENCODINGS: Final = ("gzip", "deflate")
"""Content-Encoding of bodies that are read."""

GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
"""`wbits` that takes either header: `deflate` means zlib's format (RFC 9110, section 8.4.1.2)."""


async def read_body(request: Request, max_bytes: int, deadlines: Deadlines) -> bytes:
    """The whole body, refused as soon as it is seen to be too large.

    Compressed bodies are limited by what they unpack to. Raises `BadBodyError`, `TooLargeError`,
    `UnsupportedTypeError` or, when the request's time is over, `BodyTimeoutError`.
    """
    context = RequestContext.of(request)
    context.shorten_timeout()
    headers = context.headers
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooLargeError(f"body has {int(announced):,} bytes > maximum {max_bytes:,}")
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
        return body
    try:
        with Limit(deadlines, context.deadline):
            if encoding == "identity":
                return await _read_plain(request.receive, max_bytes)
            return await _read_compressed(request.receive, max_bytes, encoding)
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


async def _read_plain(receive: Receive, max_bytes: int) -> bytes:
    body, more = await _receive(receive)
    if more:
        chunks = [body]
        size = len(body)
        while more and size <= max_bytes:
            body, more = await _receive(receive)
            chunks.append(body)
            size += len(body)
        body = b"".join(chunks)
    if len(body) > max_bytes:
        raise TooLargeError(f"body has more bytes than the maximum {max_bytes:,}")
    return body


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """The next part of a body, and whether there are more. Raises `ClientDisconnect`."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _read_compressed(receive: Receive, max_bytes: int, encoding: str) -> bytes:
    unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
    body = bytearray()
    packed_bytes = 0
    try:
        more = True
        while more:
            chunk, more = await _receive(receive)
            packed_bytes += len(chunk)
            if packed_bytes > max_bytes:
                raise TooLargeError(f"body has more bytes than the maximum {max_bytes:,}")
            if chunk and unpacker.eof:
                raise BadBodyError(f"the {encoding} body goes on after its end")
            # One byte past the limit tells that it is passed, however small the chunk was.
            body += unpacker.decompress(chunk, max_bytes - len(body) + 1)
            if len(body) > max_bytes:
                raise TooLargeError(f"body unpacks to more bytes than the maximum {max_bytes:,}")
    except zlib.error as error:
        raise BadBodyError(f"the body is not {encoding}, as its Content-Encoding says") from error
    if not unpacker.eof or unpacker.unused_data:
        what = "goes on after its end" if unpacker.eof else "is cut short"
        raise BadBodyError(f"the {encoding} body {what}")
    return bytes(body)
