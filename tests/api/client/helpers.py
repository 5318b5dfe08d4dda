"""Both clients, called alike, and a service that fails as a test wants it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.client import AsyncClient, Client

Images = NDArray[np.uint8]
Use = Callable[..., Any]


def use_sync(url: str, method: str, *arguments: Any, options: Any = None, **named: Any) -> Any:
    with Client(url, **(options or {})) as client:
        found = getattr(client, method)(*arguments, **named)
        return list(found) if method == "iter_scores" else found


def use_async(url: str, method: str, *arguments: Any, options: Any = None, **named: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(url, **(options or {})) as client:
            found = getattr(client, method)(*arguments, **named)
            if method == "iter_scores":
                return [score async for score in found]
            return await found

    return asyncio.run(call())


def ask(http: httpx.Client, url: str, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = http.post(url, json=body).raise_for_status().json()
    return found


def near(expected: Any) -> Any:
    return pytest.approx(np.array(expected), rel=1e-5, abs=1e-5)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
