"""HTTP/1.1 byte by byte, where a client library would hide what a test is about."""

from __future__ import annotations

import json
import socket

from tests.api.helpers import HANG_S

ZEROS = json.dumps({"images": [[0] * 784]}).encode()
"""A body of one black image."""


def request(
    path: str, body: bytes = b"", *, version: str = "1.1", headers: tuple[str, ...] = ()
) -> bytes:
    method = "POST" if body else "GET"
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers]
    lines += [f"Content-Length: {len(body)}"] * bool(body)
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """A client that takes nothing for granted."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=HANG_S)
        self._rest = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read_until(self, end: bytes) -> bytes:
        while end not in self._rest:
            chunk = self._socket.recv(65_536)
            assert chunk, f"closed after {self._rest!r}"
            self._rest += chunk
        found, self._rest = self._rest.split(end, 1)
        return found

    def answer(self) -> tuple[str, dict[str, str], bytes]:
        """Status line, headers and body of one answer, which says how long it is."""
        status, *lines = self.read_until(b"\r\n\r\n").decode("ascii").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        assert len(headers) == len(lines), "a header is there twice"
        length = int(headers["content-length"])
        while len(self._rest) < length:
            chunk = self._socket.recv(65_536)
            assert chunk
            self._rest += chunk
        body, self._rest = self._rest[:length], self._rest[length:]
        return status, headers, body

    def is_closed(self) -> bool:
        """By the server, with nothing more to say."""
        return not self._rest and self._socket.recv(1) == b""
