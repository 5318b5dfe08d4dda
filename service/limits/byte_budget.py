"""A limit on the bytes that requests hold: bodies, queued images, results and answers."""

from __future__ import annotations


class ByteBudget:
    """At most `max_bytes` for bodies being received and images in the queue; results and answers
    count too, but are never refused.

    >>> budget = ByteBudget(max_bytes=10)
    >>> budget.try_reserve(8), budget.try_reserve(8), budget.reserved
    (True, False, 8)
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.reserved = 0

    def try_reserve(self, n: int) -> bool:
        """Reserve `n` bytes if they fit; False if they do not."""
        if self.reserved + n > self.max_bytes:
            return False
        self.reserved += n
        return True

    def reserve(self, n: int) -> None:
        """Reserve `n` bytes that are already in memory, even past the maximum."""
        self.reserved += n

    def release(self, n: int) -> None:
        """Give `n` bytes back."""
        self.reserved -= n
