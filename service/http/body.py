"""Reads and decompresses request bodies, within their size limit and the request's deadline."""

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
"""Content-Encodings that bodies may have."""

ALIASES: Final = {"x-gzip": "gzip"}
"""Other names of encodings (RFC 9110, section 8.4.1.3)."""

GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
"""`wbits` for both formats: `deflate` means zlib's format (RFC 9110, section 8.4.1.2)."""

DECOMPRESS_BYTES: Final = 1 << 20
"""Bytes to decompress on the event loop before other tasks get a turn: a millisecond or two."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, decompressed.

    A request is refused before its body is read if it does not fit into the queue, and as soon as
    its body turns out to be larger than `max_bytes`. For a compressed body the limit applies to its
    decompressed size. Raises `BadBodyError`, `QueueFullError`, `TooLargeError`,
    `UnsupportedTypeError` or, at the request's deadline, `BodyTimeoutError`.
    """
    context = RequestContext.of(request)
    headers = context.headers
    content_length = headers.get("content-length", "0")
    if content_length.isdecimal() and int(content_length) > max_bytes:
        raise TooLargeError(f"the body has {int(content_length):,} bytes > maximum {max_bytes:,}")
    context.check_queue_capacity(1, int(content_length) if content_length.isdecimal() else 0)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    encoding = ALIASES.get(encoding, encoding)
    if encoding not in ("identity", *ENCODINGS):
        raise UnsupportedTypeError(
            f"Content-Encoding is {encoding[:64]!r}, expected {', '.join(ENCODINGS)} or none"
        )
    if encoding == "identity" and _has_arrived(request.receive):
        body, _ = await _receive(request.receive)
        if len(body) > max_bytes:
            raise TooLargeError(f"the body has more bytes than the maximum of {max_bytes:,}")
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


def _has_arrived(receive: Receive) -> bool:
    """Whether the whole body has arrived, so that it can be read without a timeout.

    Most bodies arrive together with their headers. uvicorn's `receive` is a method of the object
    that collects the body and has a `more_body` attribute. For other servers this returns False.
    """
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


async def _read_plain(receive: Receive, max_bytes: int, context: RequestContext) -> bytes:
    body, more = await _receive(receive)
    context.reserve(len(body))
    if more:
        buffer = BytesIO()  # getvalue() hands over its memory, where joining chunks would copy
        buffer.write(body)
        while more and buffer.tell() <= max_bytes:
            chunk, more = await _receive(receive)
            context.reserve(len(chunk))
            buffer.write(chunk)
        body = buffer.getvalue()
    if len(body) > max_bytes:
        raise TooLargeError(f"the body has more bytes than the maximum of {max_bytes:,}")
    return body


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """The next chunk of a body, and whether more follow. Raises `ClientDisconnect`."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _read_compressed(
    receive: Receive, max_bytes: int, encoding: str, context: RequestContext
) -> bytes:
    decompressor = zlib.decompressobj(GZIP_OR_ZLIB)
    body = BytesIO()
    compressed_bytes = 0
    try:
        more = True
        while more:
            chunk, more = await _receive(receive)
            compressed_bytes += len(chunk)
            if compressed_bytes > max_bytes:
                raise TooLargeError(f"the body has more bytes than the maximum of {max_bytes:,}")
            if chunk and decompressor.eof:
                raise BadBodyError(f"the {encoding} body has extra bytes after its end")
            while await _decompress(decompressor, chunk, body, max_bytes):
                chunk = decompressor.unconsumed_tail
            context.reserve(body.tell() - context.reserved_bytes)
    except zlib.error as error:
        raise BadBodyError(f"the body is not {encoding}, as its Content-Encoding says") from error
    if not decompressor.eof or decompressor.unused_data:
        fault = "has extra bytes after its end" if decompressor.eof else "is cut short"
        raise BadBodyError(f"the {encoding} body {fault}")
    return body.getvalue()


async def _decompress(
    decompressor: zlib._Decompress, chunk: bytes, body: BytesIO, max_bytes: int
) -> bool:
    """Decompress up to `DECOMPRESS_BYTES` of output. Returns whether there may be more."""
    # One byte above the limit is enough to see that a body exceeds it.
    limit = min(DECOMPRESS_BYTES, max_bytes - body.tell() + 1)
    decompressed = decompressor.decompress(chunk, limit)
    body.write(decompressed)
    if body.tell() > max_bytes:
        raise TooLargeError(
            f"the body decompresses to more bytes than the maximum of {max_bytes:,}"
        )
    if len(decompressed) < limit:
        return False
    await asyncio.sleep(0)
    return True
