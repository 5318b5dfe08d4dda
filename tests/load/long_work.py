"""Work that keeps the network busy for a known while, so that others wait for sure."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.table import Request
from tests.load.harness import raw

IMAGES: Final = 3072
"""Of one request, which are one batch: half a second at 32 draws each."""

LIMITS: Final = (
    *("--max-batch-images", str(IMAGES), "--max-queue-images", "131072"),
    *("--max-images-per-request", "131072"),
)
"""Flags of a service that takes it."""


def long_work() -> Request:
    """Cannot be stopped once it runs."""
    return raw(IMAGES, "/anomaly-score?score=iwae")
