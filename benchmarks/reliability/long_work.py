"""Work that keeps the network busy for a known time, so that other requests queue."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.table import Request
from benchmarks.reliability.harness import raw

IMAGES: Final = 512
"""Of one request, which are one batch: half a second at 32 draws each. A network that takes long
for few images leaves the event loop free."""

LIMITS: Final = (
    *("--bundle", "mnist-conv", "--max-batch-images", str(IMAGES)),
    *("--max-images-per-request", "16384"),
)
"""Flags of a service in which it is."""


def long_work() -> Request:
    """A request that cannot be stopped once it runs."""
    return raw(IMAGES, "/anomaly-score?score=iwae")
