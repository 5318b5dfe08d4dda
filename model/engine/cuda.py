"""Batches to an accelerator and results back: one copy each way, in memory that is kept.

A pass of a small network is some dozen kernels of a few microseconds; starting each from Python
takes longer than it runs. So what a batch goes through is recorded once for each size, and then
replayed. Sizes are powers of two, and a batch takes the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.engine.cpu import Rows, count_rows, fill

T = TypeVar("T")
C = TypeVar("C", bound=tuple[NDArray[Any], ...])

log = logging.getLogger("model")


class Accelerator(Protocol):
    """What `Staging` asks of a device; `model.engine.device` has it."""

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device reads and writes by itself."""
        ...

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the device."""
        ...

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run `work` for the record: what runs it again, and where its result is each time."""
        ...

    def stream(self) -> AbstractContextManager[object]:
        """`with` it, copies and replays are done one after the other, and apart from others'."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was asked for is done."""
        ...


class _Recording:
    """One size of one kind of pass, from host memory to host memory."""

    def __init__(
        self, accelerator: Accelerator, run: Callable[[Tensor], Tensor], host: Tensor
    ) -> None:
        self._accelerator = accelerator
        self._host = host
        self.rows = host.numpy()
        self._input = accelerator.empty(*host.shape, dtype=host.dtype)
        with accelerator.stream():
            self._input.copy_(host)
        self._replay, self._output = accelerator.record(lambda: run(_unit(self._input)))
        self._result = accelerator.pinned(*self._output.shape, dtype=torch.float32)

    def __call__(self, n: int) -> NDArray[np.float32]:
        """The results of the first `n` rows of `rows`: (n, W), the caller's own."""
        with self._accelerator.stream():
            self._input.copy_(self._host, non_blocking=True)
            self._replay()
            self._result.copy_(self._output, non_blocking=True)
        self._accelerator.synchronize()
        return self._result[:n].numpy().copy()


class OomBackoff(Generic[T]):
    """`run`, for batches of any size, as many rows at a time as the device has memory for.

    `join` puts together what it gives for parts. Where memory runs out for a batch, `most` is half
    of it from then on, and it is tried again after `give_back`. Raises `torch.OutOfMemoryError`
    where not even one row fits.
    """

    def __init__(
        self,
        run: Callable[[list[NDArray[Any]]], T],
        join: Callable[[list[T]], T],
        most: int,
        give_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._join = join
        self._give_back = give_back
        self.most = most

    def __call__(self, rows: Rows) -> T:
        """What `run` gives for all of them."""
        parts = [rows] if isinstance(rows, np.ndarray) else list(rows)
        n = count_rows(parts)
        if n > self.most:
            return self._in_parts(parts)
        try:
            return self._run(parts)
        except torch.OutOfMemoryError:
            if n == 1:
                raise
            self._give_back()
            self.most = n // 2
            log.warning("memory ran out: batches have %d rows at most from now on", self.most)
        return self(parts)

    def _in_parts(self, parts: list[NDArray[Any]]) -> T:
        flat = [part.reshape(len(part), -1) for part in parts]
        cuts = [
            part[start : start + self.most]
            for part in flat
            for start in range(0, len(part), self.most)
        ]
        return self._join([self(cut) for cut in cuts])


def join_columns(parts: Sequence[C]) -> C:
    """Named tuples of columns, the rows of one after those of the other."""
    return type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))


class Staging:
    """`run`, a function of (N, width) float32 rows on the device to (N, W), for rows of the host.

    uint8 rows travel as they are, a quarter of the bytes, and are scaled to [0, 1] over there. Rows
    are as many at a time as `OomBackoff` says, `most` at first.
    """

    def __init__(
        self, accelerator: Accelerator, run: Callable[[Tensor], Tensor], width: int, most: int
    ) -> None:
        self._accelerator = accelerator
        self._run = run
        self._width = width
        self._recordings: dict[tuple[torch.dtype, int], _Recording] = {}
        self._fitting = OomBackoff[NDArray[np.float32]](
            self._at_once, np.concatenate, most, self._recordings.clear
        )

    @property
    def most(self) -> int:
        """Rows at a time."""
        return self._fitting.most

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """(N, W) of N rows."""
        return self._fitting(rows)

    def _at_once(self, parts: list[NDArray[Any]]) -> NDArray[np.float32]:
        n = count_rows(parts)
        bytes_only = all(part.dtype == np.uint8 for part in parts)
        dtype = torch.uint8 if bytes_only else torch.float32
        size = 1 << max(0, n - 1).bit_length()
        recording = self._recordings.get((dtype, size))
        if recording is None:
            host = self._accelerator.pinned(size, self._width, dtype=dtype)
            recording = _Recording(self._accelerator, self._run, host)
            self._recordings[dtype, size] = recording
        fill(recording.rows, parts)
        return recording(n)


def _unit(rows: Tensor) -> Tensor:
    return rows.float() / 255 if rows.dtype == torch.uint8 else rows
