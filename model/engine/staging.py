"""Batches to an accelerator and results back: one copy each way, in memory that is reused.

A pass of a small network is some dozens of kernels of a few microseconds each; launching one from
Python takes longer than it runs. So the launches are recorded once for each batch size, and then
replayed. Sizes are powers of two, and a batch uses the smallest that holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.engine.oom_backoff import OomBackoff
from model.engine.rows import Rows, count_rows, fill


class Accelerator(Protocol):
    """What `Staging` needs of a device; `model.engine.cuda.CudaAccelerator` is a GPU."""

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device reads and writes directly."""
        ...

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the device. Raises `torch.OutOfMemoryError`."""
        ...

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run `work` and record it.

        Returns a function that runs it again, and the tensor that every run writes its result to.
        """
        ...

    def stream(self) -> AbstractContextManager[object]:
        """Inside `with`, copies and replays go to the accelerator's own stream, in order."""
        ...

    def synchronize(self) -> None:
        """Wait for all work in the stream. Raises the device's errors."""
        ...


class _Recording:
    """One pass at one batch size, from host memory to host memory."""

    def __init__(
        self, accelerator: Accelerator, run: Callable[[Tensor], Tensor], host: Tensor
    ) -> None:
        self._accelerator = accelerator
        self._host = host
        self.rows = host.numpy()
        self._input = accelerator.empty(*host.shape, dtype=host.dtype)
        with accelerator.stream():
            self._input.copy_(host)
        self._replay, self._output = accelerator.record(lambda: run(_scaled(self._input)))
        self._result = accelerator.pinned(*self._output.shape, dtype=torch.float32)

    def __call__(self, n: int) -> NDArray[np.float32]:
        """The results of the first `n` rows of `rows`, (n, W), in memory of their own."""
        with self._accelerator.stream():
            self._input.copy_(self._host, non_blocking=True)
            self._replay()
            self._result.copy_(self._output, non_blocking=True)
        self._accelerator.synchronize()
        return self._result[:n].numpy().copy()


class Staging:
    """Calls `run`, from (N, width) float32 on the device to (N, W), with rows of the host.

    A batch of uint8 only is sent as uint8, a quarter of the bytes, and scaled to [0, 1] on the
    device. A batch has at most `max_rows` rows, and fewer after the device has run out of memory
    (see `OomBackoff`). Raises `torch.OutOfMemoryError` if not even one row fits.
    """

    def __init__(
        self, accelerator: Accelerator, run: Callable[[Tensor], Tensor], width: int, max_rows: int
    ) -> None:
        self._accelerator = accelerator
        self._run = run
        self._width = width
        self._recordings: dict[tuple[torch.dtype, int], _Recording] = {}
        self._backoff = OomBackoff[NDArray[np.float32]](
            self._run_once, np.concatenate, max_rows, self._recordings.clear
        )

    @property
    def max_rows(self) -> int:
        """Rows at a time."""
        return self._backoff.max_rows

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """The results, (N, W), of N rows."""
        return self._backoff(rows)

    def _run_once(self, parts: list[NDArray[Any]]) -> NDArray[np.float32]:
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


def _scaled(rows: Tensor) -> Tensor:
    return rows.float() / 255 if rows.dtype == torch.uint8 else rows
