"""The p-values of scored images, gathered batch by batch and counted later."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Histogram

P_VALUE_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.05),
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
"""Tenths, each of which has a tenth of clean images, and the usual false-alarm rates."""

MAX_PENDING: Final = 512
"""Arrays that wait to be counted, at most. A loaded service scores thousands of batches a second,
and is asked for its metrics every few seconds."""

MAX_LENGTH: Final = 4096
"""A longer array is counted at once: 16 MB wait at most, and its batch took far longer."""


class PValues:
    """The histogram of p-values.

    `add` may be called by any thread, and costs an append: writing to the histogram takes as long
    as a small batch. `count` empties what has been gathered into it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pending: deque[NDArray[np.float64]] = deque()
        self._histogram = Histogram(
            "vae_p_value",
            "p-values of scored images; on clean images, a tenth of them in each tenth",
            buckets=P_VALUE_BUCKETS,
            registry=registry,
        )

    def add(self, p_values: NDArray[np.float64]) -> None:
        """Gather p-values, (N,), which are not to be changed afterwards."""
        self._pending.append(p_values)
        if len(self._pending) > MAX_PENDING or len(p_values) > MAX_LENGTH:
            self.count()

    def count(self) -> None:
        """Count what has been gathered. Threads may do so at the same time: each array is taken by
        one of them."""
        taken = []
        for _ in range(len(self._pending)):
            try:
                taken.append(self._pending.popleft())
            except IndexError:  # another thread has the rest
                break
        if not taken:
            return
        values = np.concatenate(taken)
        bounds = self._histogram._upper_bounds
        counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds))
        self._histogram._sum.inc(float(values.sum()))
        for bucket in np.flatnonzero(counts).tolist():
            self._histogram._buckets[bucket].inc(int(counts[bucket]))
