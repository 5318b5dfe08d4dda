"""Smaller batches after a device has run out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model.engine.rows import Rows, count_rows

T = TypeVar("T")
C = TypeVar("C", bound=tuple[NDArray[Any], ...])

log = logging.getLogger("model")


class OomBackoff(Generic[T]):
    """Calls `run` with as many rows at a time as the device has memory for.

    `run` takes arrays that form one batch, at most `max_rows` rows at first. If it raises
    `torch.OutOfMemoryError` for a batch, `max_rows` becomes half the size of that batch for good,
    `free_memory` is called, and the batch is tried again in parts, whose results `join` puts
    together. If one row does not fit, the error is raised.
    """

    def __init__(
        self,
        run: Callable[[list[NDArray[Any]]], T],
        join: Callable[[list[T]], T],
        max_rows: int,
        free_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._join = join
        self._free_memory = free_memory
        self.max_rows = max_rows

    def __call__(self, rows: Rows) -> T:
        """What `run` returns for all the rows."""
        parts = [rows] if isinstance(rows, np.ndarray) else list(rows)
        n = count_rows(parts)
        if n > self.max_rows:
            return self._in_parts(parts)
        try:
            return self._run(parts)
        except torch.OutOfMemoryError:
            if n == 1:
                raise
            self._free_memory()
            self.max_rows = n // 2
            log.warning("out of memory: from now on a batch has at most %d rows", self.max_rows)
        return self(parts)

    def _in_parts(self, parts: list[NDArray[Any]]) -> T:
        flat = [part.reshape(len(part), -1) for part in parts]
        cuts = [
            part[start : start + self.max_rows]
            for part in flat
            for start in range(0, len(part), self.max_rows)
        ]
        return self._join([self(cut) for cut in cuts])


def join_columns(parts: Sequence[C]) -> C:
    """Named tuples of arrays, joined array by array along the rows."""
    return type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))
