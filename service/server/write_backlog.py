"""The bytes of answers that a client has not read yet. They count against the byte budget."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from service.limits.byte_budget import ByteBudget

if sys.platform == "linux":
    import fcntl
    import termios

MIN_PROGRESS_BYTES: Final = 65_536
"""Bytes that a client must read of an answer in each `header_timeout_s`."""


class WriteBacklog:
    """The unsent bytes of one connection.

    They are reserved in `budget`, like request bodies, so that clients that do not read exhaust the
    budget instead of the memory.
    """

    __slots__ = ("_budget", "_reserved", "_transport", "_unacknowledged")

    def __init__(self, transport: asyncio.Transport, budget: ByteBudget) -> None:
        self._transport = transport
        self._budget = budget
        self._reserved = 0
        self._unacknowledged = 0
        """Bytes at the last update."""

    @property
    def is_empty(self) -> bool:
        """Whether the kernel has taken everything."""
        return not self._transport.get_write_buffer_size()

    def update(self) -> None:
        """Reserve what is unsent now, and note how much the client has not acknowledged."""
        self._reserve(self._transport.get_write_buffer_size())
        self._unacknowledged = self.count_unacknowledged()

    def clear(self) -> None:
        """Release the reservation: everything has been sent, or the connection is closed."""
        self._reserve(0)
        self._unacknowledged = 0

    def has_progressed(self) -> bool:
        """Whether the client has read `MIN_PROGRESS_BYTES` since the last update."""
        return self._unacknowledged - self.count_unacknowledged() >= MIN_PROGRESS_BYTES

    def count_unacknowledged(self) -> int:
        """Bytes that the client has not acknowledged, in this process and in the kernel.

        The transport's own count can stand still while a slow client reads: the kernel buffers
        megabytes, and accepts more only after a third of that has been sent.
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
