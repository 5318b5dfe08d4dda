"""Bytes that requests hold while they wait, and answers until they are taken."""

from __future__ import annotations


class Room:
    """So many bytes, and no more, for bodies on their way in, for images in the queue and for
    answers on their way out.

    >>> room = Room(max_bytes=10)
    >>> room.take(8), room.take(8), room.taken
    (True, False, 8)
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.taken = 0

    def take(self, n: int) -> bool:
        """Hold `n` bytes more, if they fit."""
        if self.taken + n > self.max_bytes:
            return False
        self.taken += n
        return True

    def force(self, n: int) -> None:
        """Hold `n` bytes more, which are there already, whether they fit or not."""
        self.taken += n

    def give(self, n: int) -> None:
        """Hold `n` bytes less."""
        self.taken -= n
