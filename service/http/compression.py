"""One rule for compressing answers, whichever route they come from.

JSON and text of `COMPRESS_BYTES` or more are compressed for callers that accept zstd or gzip. Large
answers are compressed `SLICE_BYTES` at a time, so that other requests are served in between.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware, add_compress_type

from service.codecs.responses import START, ChunkedResponse
from service.http.problems import PROBLEM_TYPE
from service.telemetry.metrics import OPENMETRICS

COMPRESS_BYTES: Final = 4096
"""Smaller answers are sent as they are. So are arrays of floats, whatever their size: gzip took
eight times as long as the rest of the answer, and saved 3 %."""

SLICE_BYTES: Final = 65_536
"""Compressed at once on the event loop: a millisecond with gzip, a fifth of that with zstd."""

LEVEL: Final = 1
"""The fastest levels. They halve JSON numbers, and slower levels save little more."""

JSON_TYPES: Final = ("application/json", PROBLEM_TYPE)

ACCEPTED: Final = ("zstd", "gzip", "*")
"""What an Accept-Encoding header has to contain for an answer to be compressed."""

for media_type in (PROBLEM_TYPE, OPENMETRICS):
    add_compress_type(media_type)


def depends_on_encoding(response: Response) -> bool:
    """Whether a response would be compressed for callers that accept that."""
    is_large = isinstance(response, ChunkedResponse) or len(response.body) >= COMPRESS_BYTES
    return is_large and response.media_type in JSON_TYPES


def note_encoding(headers: list[tuple[bytes, bytes]]) -> None:
    """Tell caches that a response, which is sent as it is, would be compressed for others."""
    for index, (name, value) in enumerate(headers):
        if name == b"vary":
            headers[index] = name, value + b", Accept-Encoding"
            return
    headers.append((b"vary", b"Accept-Encoding"))


def is_accepted(accept_encoding: str | None) -> bool:
    """Whether a caller may accept a compressed answer; the middleware reads the header exactly."""
    return accept_encoding is not None and any(name in accept_encoding for name in ACCEPTED)


def compressed(app: ASGIApp) -> ASGIApp:
    """`app`, whose answer is compressed if it is large enough and the caller accepts that."""
    return CompressMiddleware(
        _Slices(app), minimum_size=COMPRESS_BYTES, brotli=False, gzip_level=LEVEL, zstd_level=LEVEL
    )


class _Slices:
    """Cuts what is going to be compressed into slices."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = next((v for k, v in scope["headers"] if k == b"accept-encoding"), None)
        if header is None or not is_accepted(header.decode("latin-1")):
            await self._app(scope, receive, send)
            return
        is_json = False

        async def send_slices(message: Message) -> None:
            nonlocal is_json
            if message["type"] == START:
                kind = next((v for k, v in message["headers"] if k == b"content-type"), b"")
                is_json = kind.decode("latin-1").startswith(JSON_TYPES)
            body = message.get("body", b"")
            if not is_json or len(body) <= SLICE_BYTES:
                await send(message)
                return
            last = range(0, len(body), SLICE_BYTES)[-1]
            for start in range(0, last, SLICE_BYTES):
                piece = body[start : start + SLICE_BYTES]
                await send({**message, "body": piece, "more_body": True})
                await asyncio.sleep(0)
            await send({**message, "body": body[last:]})

        await self._app(scope, receive, send_slices)
