"""A client that keeps its connection, as real ones do."""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Final, NamedTuple

from benchmarks.peers.common import HOST
from benchmarks.peers.table import Request

ANSWER_TIMEOUT_S: Final = 60.0
"""After this a client gives up. A healthy service is much faster."""


class Answer(NamedTuple):
    """An answer of the service. Header names are lowercase."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    """From the first byte sent to the last received."""


class Caller:
    """Keeps a connection as long as the service does, and reconnects when told to."""

    def __init__(self, port: int, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._connection = HTTPConnection(HOST, port, timeout=timeout_s)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def own_port(self) -> int:
        """Of this end of the connection."""
        port: int = self._connection.sock.getsockname()[1]
        return port

    def connect(self) -> None:
        """Unless it is connected, and still is at the other end. Raises `OSError`.

        As clients do it before they use a connection again: nothing can come but its end.
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
            found = answer.read()
        except (OSError, HTTPException):
            self.close()
            raise
        seconds = time.perf_counter() - began
        heads = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, heads, found, seconds)

    def get(self, path: str) -> Answer:
        return self.ask((path, {}, b""), "GET")
