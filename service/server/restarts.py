"""When a process that has died is started again."""

from __future__ import annotations

import time
from typing import Final

DELAYS_S: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Delays before a process is replaced. They grow with each one in a row that dies before it is
ready, so that failing starts do not take the machine from the workers that serve."""


class Restarts:
    """The starts of one process and its successors."""

    def __init__(self) -> None:
        self._failures = 0
        """How many in a row have died before they were ready."""
        self._due_at = 0.0
        """On `time.monotonic`'s clock."""

    @property
    def wait_s(self) -> float:
        """Seconds until the next start; 0 if it is due."""
        return max(0.0, self._due_at - time.monotonic())

    def on_ready(self) -> None:
        """The process is ready."""
        self._failures = 0

    def on_exit(self, *, was_ready: bool) -> None:
        """The process has ended. Its successor is started after a delay."""
        self._failures += not was_ready
        self._due_at = time.monotonic() + DELAYS_S[min(self._failures, len(DELAYS_S) - 1)]
