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


class Buffers:
    """Memory for one batch and its results, which all kinds of passes and all sizes share.

    That is safe because one pass runs at a time. Ask for the largest size first: smaller ones are
    parts of it, whereas a larger one needs memory of its own.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._inputs: dict[tuple[torch.dtype, int], tuple[Tensor, Tensor]] = {}
        self._results: dict[int, Tensor] = {}

    def input(self, rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Memory for rows, (rows, width), on the host and on the device."""
        host, device = self._inputs.get((dtype, width), (None, None))
        if host is None or device is None or len(host) < rows:
            host = self._accelerator.pinned(rows, width, dtype=dtype)
            device = self._accelerator.empty(rows, width, dtype=dtype)
            self._inputs[dtype, width] = host, device
        return host[:rows], device[:rows]

    def result(self, rows: int, width: int) -> Tensor:
        """Memory of the host for results, (rows, width) float32."""
        host = self._results.get(width)
        if host is None or len(host) < rows:
            host = self._results[width] = self._accelerator.pinned(rows, width, dtype=torch.float32)
        return host[:rows]

    def clear(self) -> None:
        """Keep none of it beyond its present users."""
        self._inputs.clear()
        self._results.clear()


class _Recording:
    """One pass at one batch size, from host memory to host memory."""

    def __init__(
        self,
        accelerator: Accelerator,
        buffers: Buffers,
        run: Callable[[Tensor], Tensor],
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        self._accelerator = accelerator
        self._host, self._input = buffers.input(*shape, dtype)
        self.rows = self._host.numpy()
        with accelerator.stream():
            self._input.copy_(self._host)
        self._replay, self._output = accelerator.record(lambda: run(scaled(self._input)))
        self._result = buffers.result(*self._output.shape)

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
        self,
        accelerator: Accelerator,
        buffers: Buffers,
        run: Callable[[Tensor], Tensor],
        width: int,
        max_rows: int,
    ) -> None:
        self._accelerator = accelerator
        self._buffers = buffers
        self._run = run
        self._width = width
        self._recordings: dict[tuple[torch.dtype, int], _Recording] = {}
        self._backoff = OomBackoff[NDArray[np.float32]](
            self._run_once, np.concatenate, max_rows, self._free_memory
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
            shape = size, self._width
            recording = _Recording(self._accelerator, self._buffers, self._run, shape, dtype)
            self._recordings[dtype, size] = recording
        fill(recording.rows, parts)
        return recording(n)

    def _free_memory(self) -> None:
        self._recordings.clear()
        self._buffers.clear()


def scaled(rows: Tensor) -> Tensor:
    """Rows as a pass takes them: uint8 as float32 in [0, 1], float32 as it is."""
    return rows.float() / 255 if rows.dtype == torch.uint8 else rows
