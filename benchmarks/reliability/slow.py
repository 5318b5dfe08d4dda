"""Many connections on one thread that each send the head or the body of a request byte by byte."""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.load import raw_http
from benchmarks.open_loop import percentile
from benchmarks.peers.common import HOST
from benchmarks.reliability.harness import raw

Kind = Literal["head", "body"]

CONNECT_S: Final = 10.0

GAP_S: Final = 1.0
"""Pause between two bytes on a connection."""

STEPS: Final = 100
"""Each pause is divided into this many steps, over which the connections are spread."""


@dataclass(eq=False)
class Slow:
    """A connection and its outcome."""

    socket: socket.socket
    kind: Kind
    rest: bytes
    """Still to be sent."""
    began: float
    received: bytes = b""
    ended_s: float | None = None
    """Seconds until the service closed it, or None."""


class SlowClients:
    """Half of the clients send the head of a request slowly, the other half its body."""

    def __init__(self, port: int, count: int) -> None:
        request = raw_http(port, raw(1))
        head = request.index(b"\r\n\r\n") + 4
        self._selector = selectors.DefaultSelector()
        self.all: list[Slow] = []
        for number in range(count):
            kind: Kind = "body" if number % 2 else "head"
            connection = socket.create_connection((HOST, port), CONNECT_S)
            sent = head if kind == "body" else 1
            connection.sendall(request[:sent])
            connection.setblocking(False)
            slow = Slow(connection, kind, request[sent:], time.monotonic())
            self._selector.register(connection, selectors.EVENT_READ, slow)
            self.all.append(slow)

    @property
    def left(self) -> int:
        """Number of connections still open."""
        return len(self._selector.get_map())

    def dawdle(self, seconds: float) -> None:
        """Send a byte on each every `GAP_S`, until all are closed or `seconds` have passed."""
        began = time.monotonic()
        for step in range(round(seconds / GAP_S * STEPS)):
            for slow in self.all[step % STEPS :: STEPS]:
                if slow.ended_s is None:
                    self._send_byte(slow)
            self._read(0)
            while self.left and (rest := began + step * GAP_S / STEPS - time.monotonic()) > 0:
                self._read(rest)
            if not self.left:
                break

    def close(self) -> None:
        for slow in self.all:
            slow.socket.close()
        self._selector.close()

    def statuses(self, kind: Kind) -> Counter[str]:
        """Statuses of the answers; `open` if not closed, `silence` if closed without an answer."""
        return Counter(
            "open" if slow.ended_s is None else slow.received[9:12].decode("latin-1") or "silence"
            for slow in self.all
            if slow.kind == kind
        )

    def closed_s(self, kind: Kind, share: float) -> float:
        """Seconds until this share of the closed ones were closed; NaN if none was."""
        times = [s.ended_s for s in self.all if s.kind == kind and s.ended_s is not None]
        return percentile(times, share)

    def _send_byte(self, slow: Slow) -> None:
        try:
            slow.socket.send(slow.rest[:1])
        except BlockingIOError:
            return
        except OSError:
            self._read_one(slow)  # an answer may have arrived first
            self._end(slow)
        slow.rest = slow.rest[1:]

    def _read(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            self._read_one(key.data)

    def _read_one(self, slow: Slow) -> None:
        try:
            data = slow.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        slow.received += data
        if not data:
            self._end(slow)

    def _end(self, slow: Slow) -> None:
        if slow.ended_s is None:
            slow.ended_s = time.monotonic() - slow.began
            self._selector.unregister(slow.socket)
