"""FastAPI with a fixed answer: a handler that reads the body and returns the same bytes.

This is what FastAPI costs before any work is done; no service whose routes it runs can be faster.
"""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers.common import HOST, arguments


def create_app(answer: bytes) -> FastAPI:
    """An application that answers every POST to /score with these bytes."""
    app = FastAPI()

    @app.post("/score")
    async def score(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    return app


if __name__ == "__main__":
    given = arguments()
    app = create_app(given.answer.encode())
    uvicorn.run(app, host=HOST, port=given.port, access_log=False, log_level="warning")
