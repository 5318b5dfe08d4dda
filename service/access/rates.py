"""Rate limits in images per second and key: token buckets that all workers share.

A bucket holds the images of one second. It is stored as the time at which it will be full again: a
bucket that is full in t seconds lacks `rate` · t images (the generic cell rate algorithm, ITU-T
I.371).
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
"""More than the keys that fit into a key file, so that keys of earlier versions fit too."""

RECORD: Final = struct.Struct("=16sd")
"""The first 16 bytes of a key's SHA-256, and the time at which its bucket is full."""

UNUSED_NAME: Final = bytes(16)

ROUNDING_S: Final = 1e-7
"""Bound on the rounding error of a sum of times."""

POLICY_NAME: Final = "images"
"""Name of the policy in the `RateLimit` headers."""


class Buckets:
    """Token buckets by key, in memory shared between processes: pickling passes it to a worker.

    The memory has no file that could be removed or outgrow its disk. `clock` must be the same in
    all processes, as `time.monotonic` is on Linux and macOS. Raises `OSError` if the memory cannot
    be allocated.
    """

    def __init__(
        self, descriptor: int | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._descriptor = _shared_memory() if descriptor is None else descriptor
        self._records = mmap.mmap(self._descriptor, RECORDS * RECORD.size)
        self._clock = clock
        self._lock = _Lock(self._descriptor)
        self._offsets: dict[bytes, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_descriptor, (DupFd(self._descriptor),)

    def take(self, key: bytes, images: int, rate: int) -> bool:
        """Take images out of a key's bucket, and return whether it held enough.

        More images than a bucket holds can be taken when it is full. It then takes longer than a
        second to fill up.
        """
        with self._lock:
            now = self._clock()
            offset = self._offset_of(key, now)
            full_at = max(now, RECORD.unpack_from(self._records, offset)[1])
            if full_at - now > 1 - min(1, images / rate) + ROUNDING_S:
                return False
            RECORD.pack_into(self._records, offset, key[:16], full_at + images / rate)
        return True

    def refund(self, key: bytes, images: int, rate: int) -> None:
        """Put back images that were taken but not used."""
        with self._lock:
            offset = self._offset_of(key, self._clock())
            full_at = RECORD.unpack_from(self._records, offset)[1]
            RECORD.pack_into(self._records, offset, key[:16], full_at - images / rate)

    def until_full_s(self, key: bytes) -> float:
        """Seconds until a key's bucket is full; 0 if it is.

        Reads without the lock, which would double the cost: processors read the eight bytes of the
        time at once, and the answer may be out of date as soon as it is returned anyway.
        """
        full_at: float
        now = self._clock()
        offset = self._offsets.get(key[:16])
        if offset is not None:
            name, full_at = RECORD.unpack_from(self._records, offset)
            if name == key[:16]:
                return max(0.0, full_at - now)
        with self._lock:
            full_at = RECORD.unpack_from(self._records, self._offset_of(key, now))[1]
        return max(0.0, full_at - now)

    def _offset_of(self, key: bytes, now: float) -> int:
        """The offset of a key's record.

        A key without a record gets an unused one, or that of a full bucket: losing a full bucket
        changes nothing.
        """
        name = key[:16]
        offset = self._offsets.get(name)
        if offset is not None and self._records[offset : offset + 16] == name:
            return offset
        free = None
        home = int.from_bytes(name[:8]) % RECORDS
        for step in range(RECORDS):
            offset = (home + step) % RECORDS * RECORD.size
            stored_name, full_at = RECORD.unpack_from(self._records, offset)
            if stored_name == name:
                self._offsets[name] = offset
                return offset
            if free is None and full_at <= now:
                free = offset
            if stored_name == UNUSED_NAME:
                break
        offset = home * RECORD.size if free is None else free
        RECORD.pack_into(self._records, offset, name, 0.0)
        self._offsets[name] = offset
        return offset


class _Lock:
    """A lock between processes, each of which uses it from one thread.

    The kernel releases it if its holder dies.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class Quota:
    """The rate limit of one key: its bucket, and the headers that describe it.

    Headers as in https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/, draft 11.
    Its registry has no unit for images, so `qu` is our own.
    """

    def __init__(self, buckets: Buckets, key: bytes, rate: int) -> None:
        self._buckets = buckets
        self._key = key
        self._rate = rate
        self._policy = f'"{POLICY_NAME}";q={rate};w=1;qu="{POLICY_NAME}"'.encode("ascii")

    def check(self) -> None:
        """Raise `RateLimitError` if no image is left."""
        until_full_s = self._buckets.until_full_s(self._key)
        if until_full_s > 1 - 1 / self._rate + ROUNDING_S:
            raise self._error(1, until_full_s)

    def take(self, images: int) -> None:
        """Use up `images`. Raises `RateLimitError`, and uses up none, if too few are left."""
        if not self._buckets.take(self._key, images, self._rate):
            raise self._error(images, self._buckets.until_full_s(self._key))

    def refund(self, images: int) -> None:
        """Put back images that were taken but not used."""
        self._buckets.refund(self._key, images, self._rate)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of every response to a request with this key."""
        until_full_s = self._buckets.until_full_s(self._key)
        limit = f'"{POLICY_NAME}";r={self._remaining(until_full_s)};t={math.ceil(until_full_s)}'
        return (b"ratelimit-policy", self._policy), (b"ratelimit", limit.encode("ascii"))

    def _remaining(self, until_full_s: float) -> int:
        return max(0, math.floor(self._rate * (1 - until_full_s + ROUNDING_S)))

    def _error(self, images: int, until_full_s: float) -> RateLimitError:
        return RateLimitError(
            f"{images} images > {self._remaining(until_full_s)} left of this key's {self._rate} "
            "per second",
            retry_after_s=max(1, math.ceil(until_full_s)),
        )


def _from_descriptor(descriptor: Any) -> Buckets:
    return Buckets(descriptor.detach())


def _shared_memory() -> int:
    """A descriptor of zeroed memory, or of an unnamed file where memory has no descriptors."""
    with suppress(AttributeError, OSError):  # macOS has none, and a sandbox may forbid it
        descriptor = os.memfd_create("vae-rates")
        os.ftruncate(descriptor, RECORDS * RECORD.size)
        return descriptor
    with tempfile.TemporaryFile() as file:
        file.write(
            bytes(RECORDS * RECORD.size)
        )  # writing into a hole on a full disk would be a SIGBUS
        file.flush()
        return os.dup(file.fileno())
