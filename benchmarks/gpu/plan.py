"""What is measured, in which order, and how long each step may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MLP: Final = "mnist"
CONV: Final = "mnist-conv"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A process of its own: `python -m benchmarks.gpu` with `arguments`."""

    arguments: tuple[str, ...]
    limit_s: float
    """Then it is stopped. Its figures up to that point are kept."""

    @property
    def name(self) -> str:
        """Its key among the figures."""
        return " ".join(self.arguments)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests of so many raw uint8 images, over so many connections."""

    images: int
    connections: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run of all steps."""

    device: str
    steps: tuple[Step, ...]
    budget_s: float
    """For all steps together. What does not fit is left out, so the most important come first."""
    batches: tuple[int, ...]
    """Of `Engine.score`."""
    max_batch: int
    dtypes: tuple[str, ...]
    measure_s: float
    """Of one figure of the network."""
    side: int
    """Of the square matrices whose product gives a device's FLOP/s."""
    copied_bytes: int
    """Of a copy that gives its bytes/s."""
    cpu_arguments: tuple[str, ...]
    """Of `benchmarks.engine`."""
    request_images: tuple[int, ...]
    connections_a_worker: tuple[int, ...]
    """For requests of as many images as `request_images` says: few large ones fill a worker."""
    max_connections: int
    warm_s: float
    request_s: float
    """Of one load on the service."""

    def loads(self, workers: int) -> list[Load]:
        """One image on a single connection, then every size on as many as keep all workers busy."""
        busy = [
            Load(images=images, connections=min(self.max_connections, workers * each))
            for images, each in zip(self.request_images, self.connections_a_worker, strict=True)
        ]
        return [Load(images=1, connections=1), *busy]


FULL: Final = Plan(
    device="cuda",
    steps=(
        Step(arguments=("prepare",), limit_s=100),
        Step(arguments=("tests",), limit_s=120),
        Step(arguments=("rates",), limit_s=45),
        Step(arguments=("engine", MLP), limit_s=75),
        Step(arguments=("fixed",), limit_s=30),
        Step(arguments=("http", MLP, "16"), limit_s=150),
        Step(arguments=("http", MLP, "1"), limit_s=75),
        Step(arguments=("http", MLP, "4"), limit_s=75),
        Step(arguments=("core",), limit_s=75),
        Step(arguments=("engine", CONV), limit_s=75),
        Step(arguments=("http", CONV, "4"), limit_s=90),
        Step(arguments=("http", MLP, "16", "--device", "cpu"), limit_s=60),
        Step(arguments=("http", CONV, "16"), limit_s=120),
    ),
    budget_s=455,
    batches=(1, 8, 64, 256, 1024, 4096, 8192),
    max_batch=8192,
    dtypes=("float32", "bfloat16", "float16"),
    measure_s=0.15,
    side=8192,
    copied_bytes=1 << 28,
    cpu_arguments=("--batches", "64", "128", "256", "512", "1024"),
    request_images=(1, 64, 1024, 8192),
    connections_a_worker=(32, 16, 8, 4),
    max_connections=256,
    warm_s=0.5,
    request_s=2.0,
)

REHEARSAL: Final = Plan(
    device="cpu",
    steps=(
        Step(arguments=("prepare",), limit_s=100),
        Step(arguments=("tests",), limit_s=60),
        Step(arguments=("rates",), limit_s=30),
        Step(arguments=("engine", MLP), limit_s=60),
        Step(arguments=("fixed",), limit_s=30),
        Step(arguments=("http", MLP, "1"), limit_s=60),
        Step(arguments=("core",), limit_s=60),
        Step(arguments=("engine", CONV), limit_s=60),
        Step(arguments=("http", CONV, "2", "--device", "cpu"), limit_s=60),
    ),
    budget_s=300,
    batches=(1, 64),
    max_batch=64,
    dtypes=("float32", "bfloat16"),
    measure_s=0.05,
    side=512,
    copied_bytes=1 << 24,
    cpu_arguments=("--quick", "--batches", "64"),
    request_images=(1, 64, 1024),
    connections_a_worker=(4, 2, 2),
    max_connections=8,
    warm_s=0.2,
    request_s=0.5,
)
"""Every step, small, and on the CPU: shows that the run works."""
