"""`Engine.score` on the device: as a whole, recorded, and launched one kernel after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine import images_per_s
from benchmarks.gpu.device import Device
from benchmarks.gpu.floor import Rates, Work
from benchmarks.gpu.plan import Plan
from benchmarks.workloads import bulk_pixels
from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.engine.cuda import CudaAccelerator, CudaBackend
from model.engine.engine import Engine
from model.engine.passes import Passes
from model.engine.staging import scaled

SCORE: Final = "fused"
"""The default score of the shipped bundles."""

RESULTS: Final = 3
"""Numbers that a pass returns for an image: score, MSE and KL."""

PARITY_IMAGES: Final = 1024

WAITED_BATCHES: Final = (1, 1024, 8192)


def pixels(images: int) -> NDArray[np.uint8]:
    """Images that look like digits, (images, 784)."""
    some = bulk_pixels()
    return np.concatenate([some] * -(-images // len(some)))[:images]


def deviation(found: Any, expected: Any) -> float:
    """The largest |a − b| / (1 + |b|): at most t if they agree to t, absolutely and relatively.

    NaN is infinite.
    """
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    distance = np.abs(a - b) / (1 + np.abs(b))
    return float(np.where(np.isnan(distance), np.inf, distance).max())


class EngineBenchmark:
    """One bundle's network on the device."""

    def __init__(self, bundle: str, device: Device, plan: Plan) -> None:
        self._bundle: Bundle = load_bundle(find_bundle(bundle))
        self._device = device
        self._plan = plan
        self._images = pixels(plan.max_batch)

    def _engine(self, dtype: str, device: str | None = None) -> Engine:
        return Engine(self._bundle, device=device or str(self._device.torch), dtype=dtype)

    def parity(self) -> dict[str, dict[str, float]]:
        """`deviation` of each kind of pass from the CPU in float32, by type."""
        images = self._images[:PARITY_IMAGES]
        reference = self._engine("float32", "cpu")
        z = reference.encode(images).mu
        calls: dict[str, Callable[[Engine], Any]] = {
            "encode": lambda engine: engine.encode(images),
            "decode": lambda engine: engine.decode(z),
            "reconstruct": lambda engine: engine.reconstruct(images),
            "score map": lambda engine: engine.score_map(images),
        }
        for name in reference.scores:
            if name not in reference.sampled_scores:
                calls[name] = partial(_score, images=images, name=name)
        expected = {kind: call(reference) for kind, call in calls.items()}
        return {
            dtype: {
                kind: max(map(deviation, call(engine), expected[kind]))
                for kind, call in calls.items()
            }
            for dtype in self._plan.dtypes
            for engine in [self._engine(dtype)]
        }

    @torch.inference_mode()
    def speeds(self, dtype: str, rates: Rates | None) -> dict[str, dict[str, float | None]]:
        """Figures of each batch size: images/s, and µs of a pass and of what it consists of.

        Without `rates` there is no floor.
        """
        engine = self._engine(dtype)
        passes = Passes(self._bundle, self._device.torch, dtype)
        work = self._work(dtype)
        figures: dict[str, dict[str, float | None]] = {}
        for batch in self._plan.batches:
            images = self._images[:batch]
            rows = torch.from_numpy(images).to(self._device.torch)
            run = partial(_on_device, passes, rows)
            speed = images_per_s(partial(engine.score, images, SCORE), batch, self._plan.measure_s)
            seconds = partial(self._device.seconds_a_call, seconds=self._plan.measure_s)
            of_batch = Work(images=batch, **work)
            figures[str(batch)] = {
                "images_per_s": speed,
                "pass_us": batch / speed * 1e6,
                "recorded_us": seconds(self._device.recorded(run)) * 1e6,
                "eager_us": seconds(run) * 1e6,
                "copies_floor_us": of_batch.copies_s(rates) * 1e6 if rates else None,
                "compute_floor_us": of_batch.compute_s(rates, dtype) * 1e6 if rates else None,
            }
        return figures

    def _work(self, dtype: str) -> dict[str, Any]:
        passes = Passes(self._bundle, torch.device("cpu"), dtype)
        rows = torch.zeros(1, self._bundle.config.pixels)
        passes.score(SCORE, rows)  # computes constants, which are no part of a pass
        with FlopCounterMode(display=False) as counter:
            passes.score(SCORE, rows)
        weights = list(passes.network.parameters())
        return {
            "flops_an_image": counter.get_total_flops(),
            "row_bytes": self._bundle.config.pixels,  # uint8
            "result_bytes": RESULTS * 4,
            "weight_bytes": sum(weight.nbytes for weight in weights),
        }

    def warm_up(self) -> dict[str, float]:
        """Seconds that a worker's warm-up takes, and the memory that its recordings keep."""
        engine = self._engine("float32")
        engine.score(self._images[:1])
        before = torch.cuda.memory_reserved() if self._device.is_gpu else 0
        started = time.perf_counter()
        engine.warm_up(self._plan.max_batch)
        took_s = time.perf_counter() - started
        after = torch.cuda.memory_reserved() if self._device.is_gpu else 0
        return {"seconds": took_s, "MiB": (after - before) / 2**20}

    def waits(self) -> dict[str, dict[str, float]]:
        """A pass whose thread spins until the GPU is done, and one whose thread sleeps.

        µs of a pass, and of the processor meanwhile. Empty on the CPU.
        """
        if not self._device.is_gpu:
            return {}
        figures = {}
        for name, kind in (("spins", CudaAccelerator), ("sleeps", SleepingAccelerator)):
            accelerator = kind(self._device.torch)
            backend = CudaBackend(self._bundle, self._device.torch, "float32", accelerator, name)
            for batch in WAITED_BATCHES:
                run = partial(backend.score, self._images[:batch], SCORE)
                run()
                cpu_s, started = time.process_time(), time.perf_counter()
                pass_us = 1e6 / images_per_s(run, 1, self._plan.measure_s)
                share = (time.process_time() - cpu_s) / (time.perf_counter() - started)
                figures[f"{name}, {batch}"] = {"pass_us": pass_us, "cpu_us": share * pass_us}
        return figures


class SleepingAccelerator(CudaAccelerator):
    """A GPU whose thread leaves its core to others while it waits."""

    def synchronize(self) -> None:
        """Wait for the stream. Raises the GPU's errors."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # torch's
        event.record(self._stream)
        event.synchronize()


def _score(engine: Engine, *, images: NDArray[np.uint8], name: str) -> Any:
    return engine.score(images, name)


def _on_device(passes: Passes, rows: torch.Tensor) -> torch.Tensor:
    return passes.score(SCORE, scaled(rows))
