"""What a client has not read of its answers: counted against the byte budget, and watched."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from service.limits.byte_budget import ByteBudget

if sys.platform == "linux":
    import fcntl
    import termios

MIN_PROGRESS_BYTES: Final = 65_536
"""Bytes of an answer that a client has to read in each `header_timeout_s`."""


class WriteBacklog:
    """The unsent bytes of one connection.

    They are reserved in `budget`, as request bodies are, so that a client that does not read fills
    the budget and not the memory.
    """

    __slots__ = ("_budget", "_reserved", "_transport", "_unacknowledged")

    def __init__(self, transport: asyncio.Transport, budget: ByteBudget) -> None:
        self._transport = transport
        self._budget = budget
        self._reserved = 0
        self._unacknowledged = 0
        """As of the last update."""

    @property
    def is_empty(self) -> bool:
        """Whether the kernel has taken everything."""
        return not self._transport.get_write_buffer_size()

    def update(self) -> None:
        """Reserve what is unsent now, and remember how much of it the client has not read."""
        self._reserve(self._transport.get_write_buffer_size())
        self._unacknowledged = self.count_unacknowledged()

    def clear(self) -> None:
        """Reserve nothing any more: all has been sent, or the connection is closed."""
        self._reserve(0)
        self._unacknowledged = 0

    def has_progressed(self) -> bool:
        """Whether the client has read `MIN_PROGRESS_BYTES` since the last update."""
        return self._unacknowledged - self.count_unacknowledged() >= MIN_PROGRESS_BYTES

    def count_unacknowledged(self) -> int:
        """Bytes that the client's side has not acknowledged, in this process and in the kernel.

        The transport's own count stands still while a slow client reads: the kernel buffers
        megabytes, and takes more only when a third of that has gone out.
        """
        unsent = self._transport.get_write_buffer_size()
        connection = self._transport.get_extra_info("socket")
        if sys.platform != "linux" or connection is None:
            return unsent
        queued = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
        return unsent + int.from_bytes(queued, sys.byteorder)

    def _reserve(self, n: int) -> None:
        self._budget.release(self._reserved)
        self._budget.reserve(n)
        self._reserved = n
