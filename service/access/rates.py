"""How many images a key may send each second: token buckets that all workers share.

A bucket holds one second's worth. Its record in memory is only the time at which it will be full
again: what is missing is `rate` times as much as that is ahead (the generic cell rate algorithm,
ITU-T I.371).
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.reduction import DupFd
from time import monotonic
from typing import Any, Final

from service.errors import RateLimitError

RECORDS: Final = 8192
"""Room for more keys than the file can name, and those that it has named before."""

RECORD: Final = struct.Struct("=16sd")
"""The start of a key's SHA-256, and when its bucket is full, on the clock of all processes."""

UNUSED: Final = bytes(16)

ROUNDING_S: Final = 1e-7
"""Sums of fractions of a second are off by less than this."""

POLICY: Final = "images"
"""Name of the policy in headers."""


class Buckets:
    """Buckets by key, in memory that worker processes inherit: pickle it to give it to one.

    There is no file that could be removed or run out of space. `clock` has to be the same for all
    processes, as `time.monotonic` is on Linux and macOS. Raises `OSError` where there is no memory.
    """

    def __init__(
        self, descriptor: int | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._descriptor = _memory() if descriptor is None else descriptor
        self._records = mmap.mmap(self._descriptor, RECORDS * RECORD.size)
        self._clock = clock
        self._locked = _Lock(self._descriptor)
        self._places: dict[bytes, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (DupFd(self._descriptor),)

    def take(self, key: bytes, images: int, rate: int) -> bool:
        """Take images out of a key's bucket if they are in it. More than it can hold are taken when
        it is full, and are missing for longer."""
        with self._locked:
            now = self._clock()
            place = self._place_of(key, now)
            full_at = max(now, RECORD.unpack_from(self._records, place)[1])
            if full_at - now > 1 - min(1, images / rate) + ROUNDING_S:
                return False
            RECORD.pack_into(self._records, place, key[:16], full_at + images / rate)
        return True

    def give(self, key: bytes, images: int, rate: int) -> None:
        """Put back what was taken."""
        with self._locked:
            place = self._place_of(key, self._clock())
            full_at = RECORD.unpack_from(self._records, place)[1]
            RECORD.pack_into(self._records, place, key[:16], full_at - images / rate)

    def until_full_s(self, key: bytes) -> float:
        """Seconds until a key's bucket is full; 0 if it is.

        Without the lock, which takes as long as all the rest: the time is in eight bytes that
        processors read at once, and who reads may be late anyway.
        """
        full_at: float
        now = self._clock()
        place = self._places.get(key[:16])
        if place is not None:
            name, full_at = RECORD.unpack_from(self._records, place)
            if name == key[:16]:
                return max(0.0, full_at - now)
        with self._locked:
            full_at = RECORD.unpack_from(self._records, self._place_of(key, now))[1]
        return max(0.0, full_at - now)

    def _place_of(self, key: bytes, now: float) -> int:
        """Where a key's record is. If it has none, it gets one that is unused or of a full bucket,
        which says no more than none would."""
        name = key[:16]
        place = self._places.get(name)
        if place is not None and self._records[place : place + 16] == name:
            return place
        free = None
        home = int.from_bytes(name[:8]) % RECORDS
        for step in range(RECORDS):
            place = (home + step) % RECORDS * RECORD.size
            found, full_at = RECORD.unpack_from(self._records, place)
            if found == name:
                self._places[name] = place
                return place
            if free is None and full_at <= now:
                free = place
            if found == UNUSED:
                break
        place = home * RECORD.size if free is None else free
        RECORD.pack_into(self._records, place, name, 0.0)
        self._places[name] = place
        return place


class _Lock:
    """Of processes: each has one thread that comes here. Who dies lets go of it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class Quota:
    """What one key may send: its bucket, and the headers that tell of it.

    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (as of draft 11). Its
    registry has no unit for images, so `qu` names them.
    """

    def __init__(self, buckets: Buckets, key: bytes, rate: int) -> None:
        self._buckets = buckets
        self._key = key
        self._rate = rate
        self._policy = f'"{POLICY}";q={rate};w=1;qu="{POLICY}"'.encode("ascii")

    def check(self) -> None:
        """Raise `RateLimitError` if not even one image is left."""
        missing_s = self._buckets.until_full_s(self._key)
        if missing_s > 1 - 1 / self._rate + ROUNDING_S:
            raise self._error(1, missing_s)

    def take(self, images: int) -> None:
        """Use so many up. Raises `RateLimitError`, nothing used."""
        if not self._buckets.take(self._key, images, self._rate):
            raise self._error(images, self._buckets.until_full_s(self._key))

    def give(self, images: int) -> None:
        """They were not used after all."""
        self._buckets.give(self._key, images, self._rate)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Of every answer to the key."""
        missing_s = self._buckets.until_full_s(self._key)
        limit = f'"{POLICY}";r={self._left(missing_s)};t={math.ceil(missing_s)}'
        return (b"ratelimit-policy", self._policy), (b"ratelimit", limit.encode("ascii"))

    def _left(self, missing_s: float) -> int:
        return max(0, math.floor(self._rate * (1 - missing_s + ROUNDING_S)))

    def _error(self, images: int, missing_s: float) -> RateLimitError:
        return RateLimitError(
            f"{images} images > {self._left(missing_s)} that are left of this key's {self._rate} "
            "a second",
            retry_after_s=max(1, math.ceil(missing_s)),
        )


def _inherited(descriptor: Any) -> Buckets:
    return Buckets(descriptor.detach())


def _memory() -> int:
    """A descriptor of zeroed memory; where there is no such thing, of a file that has no name."""
    with suppress(AttributeError, OSError):  # macOS, and sandboxes that forbid it
        descriptor = os.memfd_create("vae-rates")
        os.ftruncate(descriptor, RECORDS * RECORD.size)
        return descriptor
    with tempfile.TemporaryFile() as file:
        file.write(bytes(RECORDS * RECORD.size))  # a hole on a full disk would end the process
        file.flush()
        return os.dup(file.fileno())
