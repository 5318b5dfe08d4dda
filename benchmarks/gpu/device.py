"""The device that is measured: how work on it is timed and recorded, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from benchmarks.gpu.floor import Rates
from model.engine.cuda import CudaAccelerator
from model.engine.device import resolve_device

IN_FLIGHT_S: Final = 0.02
"""Of calls that are started before one is waited for. Waiting after each would measure the wait."""

MAX_IN_FLIGHT: Final = 256


class Device:
    """A GPU or, for rehearsals, the CPU, which has no recordings: its work runs as it is."""

    def __init__(self, name: str) -> None:
        self.torch = resolve_device(name)
        self.is_gpu = self.torch.type == "cuda"
        self._accelerator = CudaAccelerator(self.torch) if self.is_gpu else None

    def synchronize(self) -> None:
        """Wait for everything."""
        if self.is_gpu:
            torch.cuda.synchronize(self.torch)

    def seconds_a_call(self, run: Callable[[], object], seconds: float) -> float:
        """How long one call takes when calls follow each other closely, over about `seconds`."""
        run()
        self.synchronize()
        started = time.perf_counter()
        run()
        self.synchronize()
        one_s = time.perf_counter() - started
        in_flight = max(1, min(MAX_IN_FLIGHT, int(IN_FLIGHT_S / one_s)))
        calls, started = 0, time.perf_counter()
        while (took_s := time.perf_counter() - started) < seconds or not calls:
            for _ in range(in_flight):
                run()
            self.synchronize()
            calls += in_flight
        return took_s / calls

    def recorded(self, work: Callable[[], Tensor]) -> Callable[[], object]:
        """The work as the service runs it."""
        if self._accelerator is None:
            return work
        accelerator, (replay, _) = self._accelerator, self._accelerator.record(work)

        def run() -> None:
            with accelerator.stream():
                replay()

        return run

    def rates(self, dtypes: tuple[str, ...], side: int, n_bytes: int, seconds: float) -> Rates:
        """Measure copies of `n_bytes`, and products of matrices with sides of `side`."""
        host = torch.zeros(n_bytes, dtype=torch.uint8, pin_memory=self.is_gpu)
        here, there = (torch.zeros(n_bytes, dtype=torch.uint8, device=self.torch) for _ in range(2))

        def bytes_per_s(target: Tensor, source: Tensor) -> float:
            return n_bytes / self.seconds_a_call(
                lambda: target.copy_(source, non_blocking=True), seconds
            )

        def flops_per_s(dtype: str) -> float:
            shape, kind = (side, side), getattr(torch, dtype)
            # Not of zeros, which a GPU multiplies faster than other numbers.
            left, right = (torch.randn(shape, device=self.torch).to(kind) for _ in range(2))
            out = torch.empty_like(left)
            took_s = self.seconds_a_call(lambda: torch.mm(left, right, out=out), seconds)
            return 2 * side**3 / took_s

        return Rates(
            to_device=bytes_per_s(here, host),
            to_host=bytes_per_s(host, here),
            memory=2 * bytes_per_s(there, here),
            products={dtype: flops_per_s(dtype) for dtype in dtypes},
        )
