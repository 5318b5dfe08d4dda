"""One rule for compressing answers, whichever route they come from.

JSON and text of `COMPRESS_BYTES` or more are compressed for callers that accept zstd or gzip. Large
answers are compressed `SLICE_BYTES` at a time, so that other requests have their turn in between.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware

from service.codecs.responses import START, ArrayResponse

COMPRESS_BYTES: Final = 4096
"""Smaller answers are sent as they are. Arrays of floats too, whatever their size: gzip took eight
times as long as the rest of the answer, and saved 3 %."""

SLICE_BYTES: Final = 65_536
"""Compressed at once on the event loop: about a millisecond by gzip, a fifth of that by zstd."""

LEVEL: Final = 1
"""The fastest levels: they halve JSON numbers, and slower ones save little more."""

COMPRESSIBLE: Final = (b"application/json", b"application/problem+json", b"text/")
"""Content types whose large bodies are worth slicing."""


def compressed(app: ASGIApp) -> ASGIApp:
    """`app`, whose answer is compressed if it is large enough and the caller accepts that."""
    small = type(app) is ArrayResponse and len(app.body) <= SLICE_BYTES
    return CompressMiddleware(
        app if small else _Slices(app),
        minimum_size=COMPRESS_BYTES,
        brotli=False,
        gzip_level=LEVEL,
        zstd_level=LEVEL,
    )


class _Slices:
    """Cuts what is to be compressed into slices."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_compressible = False

        async def send_slices(message: Message) -> None:
            nonlocal is_compressible
            if message["type"] == START:
                kind = next((v for k, v in message["headers"] if k == b"content-type"), b"")
                is_compressible = kind.startswith(COMPRESSIBLE)
            body = message.get("body", b"")
            if not is_compressible or len(body) <= SLICE_BYTES:
                await send(message)
                return
            last = range(0, len(body), SLICE_BYTES)[-1]
            for start in range(0, last, SLICE_BYTES):
                piece = body[start : start + SLICE_BYTES]
                await send({**message, "body": piece, "more_body": True})
                await asyncio.sleep(0)
            await send({**message, "body": body[last:]})

        await self._app(scope, receive, send_slices)
