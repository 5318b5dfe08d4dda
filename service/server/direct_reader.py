"""Reads requests whose heads are known past the parser, for one connection."""

from __future__ import annotations

from time import perf_counter
from typing import Final, Protocol

from service.http.direct import MAX_HEAD_BYTES, Connection, DirectRequest, DirectRequests, Head
from service.limits.byte_budget import ByteBudget

END_OF_HEAD: Final = b"\r\n\r\n"


class DirectConnection(Connection, Protocol):
    """What the reader needs of its connection."""

    def await_body(self) -> None:
        """The rest of a body is to come. If it takes long, `give_up` is to be called."""

    def await_batch(self) -> None:
        """A request has begun."""


class DirectReader:
    """Takes what a connection receives while its parser is between two requests.

    A request with a known head begins when its body is complete. Until then nobody knows of it. So
    whatever comes in between is left to the parser, which then reads it all from the start.
    """

    def __init__(
        self, connection: DirectConnection, direct: DirectRequests, budget: ByteBudget
    ) -> None:
        self._connection = connection
        self._direct = direct
        self._budget = budget
        self._head: Head | None = None
        """Of the request whose body is arriving."""
        self._pieces: list[bytes] = []
        """The bytes of its head, and what there is of its body."""
        self._missing = 0
        self._reserved = 0
        self._started = 0.0
        """When the head arrived, on `time.perf_counter`'s clock."""
        self.request: DirectRequest | None = None
        """The request that is being answered. Nothing can be taken meanwhile."""

    @property
    def is_collecting(self) -> bool:
        """Whether a body is arriving."""
        return self._head is not None

    def take(self, data: bytes) -> bytes:
        """Take what has arrived. Returns what is left to the parser: nothing, or all."""
        if self._head is None:
            end = data.find(END_OF_HEAD, 0, MAX_HEAD_BYTES) + len(END_OF_HEAD)
            head = self._direct.find(data[:end])
            if head is None:
                return data
            missing = head.content_length - len(data) + end
            self._started = perf_counter()
            if missing == 0:
                return b"" if self._begin(head, data[end:]) else data
            if missing < 0 or not (head.may_be_collected and self._direct.may_begin(head)):
                return data
            self._head, self._missing, self._pieces = head, missing, [data[:end]]
            data = data[end:]
            self._connection.await_body()
        else:
            self._missing -= len(data)
        self._pieces.append(data)
        if self._missing > 0 and self._budget.try_reserve(len(data)):
            self._reserved += len(data)
            return b""
        head, is_complete = self._head, self._missing == 0
        pieces = self._stop()
        # What follows from the head may have changed meanwhile: another network was loaded.
        is_current = self._direct.find(pieces[0]) is head
        if is_complete and is_current and self._begin(head, b"".join(pieces[1:])):
            return b""
        return b"".join(pieces)

    def give_up(self) -> bytes:
        """What there is of a request that has not begun. It is left to the parser."""
        return b"".join(self._stop())

    def _begin(self, head: Head, body: bytes) -> bool:
        self.request = self._direct.begin(head, body, self._connection, self._started)
        if self.request is None:
            return False
        self._connection.await_batch()
        return True

    def _stop(self) -> list[bytes]:
        pieces, self._pieces, self._head = self._pieces, [], None
        self._budget.release(self._reserved)
        self._reserved = 0
        return pieces
