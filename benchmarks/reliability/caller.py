"""A client that keeps its connection open, as real clients do."""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Final, NamedTuple

from benchmarks.peers.common import HOST
from benchmarks.peers.table import Request

ANSWER_TIMEOUT_S: Final = 60.0
"""A client gives up after this time. A healthy service answers much faster."""


class Answer(NamedTuple):
    """An answer of the service. Header names are lowercase."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    """From the first byte sent to the last byte received."""


class Caller:
    """Keeps its connection until the service closes it. `connect` and `ask` open a new one."""

    def __init__(self, port: int, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._connection = HTTPConnection(HOST, port, timeout=timeout_s)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def own_port(self) -> int:
        """Port of this end of the connection."""
        port: int = self._connection.sock.getsockname()[1]
        return port

    def connect(self) -> None:
        """Connect, unless the service still holds the current connection. Raises `OSError`.

        Like other clients, this checks an idle connection before using it again. Only its end can
        be waiting to be read.
        """
        if self._connection.sock and select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()
        if self._connection.sock is None:
            self._connection.connect()

    def close(self) -> None:
        self._connection.close()

    def ask(self, request: Request, method: str = "POST") -> Answer:
        """Raises `OSError` or `HTTPException`, and closes, if no complete answer comes."""
        path, headers, body = request
        if self._connection.sock is None:
            self._connection.connect()
        began = time.perf_counter()
        try:
            self._connection.request(method, path, body or None, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            self.close()
            raise
        seconds = time.perf_counter() - began
        heads = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, heads, content, seconds)

    def get(self, path: str) -> Answer:
        return self.ask((path, {}, b""), "GET")
