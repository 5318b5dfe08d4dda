"""Batches to an accelerator and results back: one copy each way, in memory that is kept.

A pass of a small network is some dozen kernels of a few microseconds; starting each from Python
takes longer than it runs. So what a batch goes through is recorded once for each size, and then
replayed. Sizes are powers of two, and a batch takes the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.forward import Rows, count_rows, fill

log = logging.getLogger("model")


class Accelerator(Protocol):
    """What `Staging` asks of a device; `model.device` has it."""

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


class Staging:
    """`run`, a function of (N, width) float32 rows on the device to (N, W), for rows of the host.

    uint8 rows travel as they are, a quarter of the bytes, and are scaled to [0, 1] over there. A
    batch of more than `most` rows is taken in parts. Where memory runs out for one, `most` is half
    of it from then on, and the batch is tried again. Raises `torch.OutOfMemoryError` where not even
    one row fits.
    """

    def __init__(
        self, accelerator: Accelerator, run: Callable[[Tensor], Tensor], width: int, most: int
    ) -> None:
        self._accelerator = accelerator
        self._run = run
        self._width = width
        self.most = most
        self._recordings: dict[tuple[torch.dtype, int], _Recording] = {}

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """(N, W) of N rows."""
        parts = [rows] if isinstance(rows, np.ndarray) else list(rows)
        n = count_rows(parts)
        if n > self.most:
            return self._in_parts(parts)
        try:
            return self._at_once(parts)
        except torch.OutOfMemoryError:
            if n == 1:
                raise
            self._recordings.clear()
            self.most = n // 2
            log.warning("memory ran out: batches have %d rows at most from now on", self.most)
        return self(parts)

    def _in_parts(self, parts: list[NDArray[Any]]) -> NDArray[np.float32]:
        flat = [part.reshape(len(part), -1) for part in parts]
        cuts = [
            part[start : start + self.most]
            for part in flat
            for start in range(0, len(part), self.most)
        ]
        return np.concatenate([self(cut) for cut in cuts])

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
