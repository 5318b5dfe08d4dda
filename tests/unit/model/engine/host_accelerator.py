"""A fake GPU: the host, in the place of `model.engine.cuda.CudaAccelerator`."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from model.bundle.bundle import Bundle
from model.engine.cuda import CudaBackend


class HostAccelerator:
    """The host itself, with what a recording needs to be one: memory that stays where it is."""

    def __init__(self, rows_that_fit: int = 1 << 30) -> None:
        self.rows_that_fit = rows_that_fit
        self.recorded: list[int] = []
        self.replays = 0
        self.waits = 0
        self.allocated_bytes = 0
        """On either side, of rows and results."""

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        self.allocated_bytes += math.prod(shape) * dtype.itemsize
        return torch.zeros(shape, dtype=dtype)

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        if shape[0] > self.rows_that_fit:
            raise torch.OutOfMemoryError("out of memory")
        self.allocated_bytes += math.prod(shape) * dtype.itemsize
        return torch.full(shape, 77, dtype=dtype)

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = work()
        self.recorded.append(len(output))

        def replay() -> None:
            self.replays += 1
            output.copy_(work())

        return replay, output

    def stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def synchronize(self) -> None:
        self.waits += 1


def staged_backend(bundle: Bundle) -> CudaBackend:
    """A GPU's backend whose tensors are on the host."""
    return CudaBackend(bundle, torch.device("cpu"), "float32", HostAccelerator(), "the host")
