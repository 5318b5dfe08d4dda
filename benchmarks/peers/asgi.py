"""Bare ASGI: an application that reads the body and returns fixed bytes.

This is what uvicorn costs before any work is done; no service on top of it can be faster.
"""

from __future__ import annotations

from typing import Any

import uvicorn

from benchmarks.peers.common import HOST, arguments


class FixedAnswer:
    """An application that answers every request with the same JSON."""

    def __init__(self, answer: bytes) -> None:
        self._start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(answer)).encode()),
            ],
        }
        self._body = {"type": "http.response.body", "body": answer}

    async def __call__(self, _scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Read one request to its end, and answer it."""
        while (await receive()).get("more_body", False):
            pass
        await send(self._start)
        await send(self._body)


if __name__ == "__main__":
    given = arguments()
    app: Any = FixedAnswer(given.answer.encode())
    uvicorn.run(
        app,
        host=HOST,
        port=given.port,
        access_log=False,
        log_level="warning",
        lifespan="off",
    )
