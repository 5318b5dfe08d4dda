"""Work that keeps the network busy for a known time, so that other requests queue."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.table import Request
from benchmarks.reliability.harness import raw

IMAGES: Final = 512
"""Images per request. They are one batch of half a second, at 32 draws each. The network is a slow
one, so few images suffice and the event loop stays free."""

LIMITS: Final = (
    *("--bundle", "mnist-conv", "--max-batch-images", str(IMAGES)),
    *("--max-images-per-request", "16384"),
)
"""Flags of the service, so that such a request is one batch and takes this long."""


def long_work() -> Request:
    """A request that cannot be stopped once its batch runs."""
    return raw(IMAGES, "/anomaly-score?score=iwae")
