"""What a GPU has to reach, and what it has reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.engine import BFLOAT16, FLOAT32
from benchmarks.gpu.plan import CONV, MLP

PARITY: Final = 1e-4

IMAGES_PER_S: Final = 1e6

ADDED_MS: Final = 0.5

CPU_SPEED_UP: Final = 2.5

AMX: Final = "amx_bf16"

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure and its limit."""

    what: str
    limit: str
    measured: str
    reached: bool | None
    """None if it was not measured."""


def goals(figures: Figures) -> list[Goal]:
    """All goals, from the figures of each step."""
    return [*_parity(figures), _throughput(figures), _latency(figures), _core(figures)]


def services(figures: Figures, device: str = "") -> Iterator[tuple[str, Figures]]:
    """The steps that loaded the service, with their figures; those on another device end in it."""
    for step, measured in figures.items():
        is_cpu = step.endswith("--device cpu")
        if step.startswith("http ") and is_cpu == (device == "cpu"):
            yield step, measured


def core_ratio(core: Figures, score: str) -> float:
    """How many times as fast the CPU is in bfloat16 as in float32, each at its best batch."""
    best = {
        dtype: max(batch["images_per_s"] for batch in core["dtypes"][dtype][score].values())
        for dtype in (FLOAT32, BFLOAT16)
    }
    return float(best[BFLOAT16] / best[FLOAT32])


def _parity(figures: Figures) -> Iterator[Goal]:
    for bundle in (MLP, CONV):
        kinds = figures.get(f"engine {bundle}", {}).get("parity", {}).get(FLOAT32)
        worst = max(kinds, key=kinds.__getitem__) if kinds else ""
        yield Goal(
            what=f"{bundle}: float32 agrees with the CPU",
            limit=f"≤ {PARITY:g}",
            measured=f"{kinds[worst]:.1e} ({worst})" if kinds else "",
            reached=kinds[worst] <= PARITY if kinds else None,
        )


def _throughput(figures: Figures) -> Goal:
    loads = [
        (load["images_per_s"], load["images"], step)
        for step, measured in services(figures)
        for load in measured.get("loads", [])
    ]
    speed, images, step = max(loads, default=(0.0, 0, ""))
    return Goal(
        what="images/s through HTTP",
        limit=f"≥ {IMAGES_PER_S:,.0f}",
        measured=f"{speed:,.0f} (`{step}`, {images:,} images a request)" if loads else "",
        reached=speed >= IMAGES_PER_S if loads else None,
    )


def _latency(figures: Figures) -> Goal:
    ours = figures.get(f"http {MLP} 1", {}).get("loads") or []
    fixed = figures.get("fixed", {}).get("loads") or []
    both = [loads[0]["p50_ms"] for loads in (ours, fixed) if loads and loads[0]["p50_ms"]]
    added = both[0] - both[1] if len(both) == 2 else None
    return Goal(
        what="p50 of one image on one connection, above FastAPI with a fixed answer",
        limit=f"≤ {ADDED_MS:g} ms",
        measured="" if added is None else f"{added:.3f} ms ({both[0]:.3f} − {both[1]:.3f})",
        reached=None if added is None else added <= ADDED_MS,
    )


def _core(figures: Figures) -> Goal:
    core = figures.get("core", {})
    ratio = core_ratio(core, "fused") if "dtypes" in core else None
    units = figures.get("prepare", {}).get("hardware", {}).get("vector_units", [])
    return Goal(
        what="`Engine.score` on one core of the CPU, bfloat16 against float32",
        limit=f"≥ {CPU_SPEED_UP:g} × with AMX",
        measured="" if ratio is None else f"{ratio:.2f} × ({'with' if AMX in units else 'no'} AMX)",
        reached=ratio >= CPU_SPEED_UP if ratio is not None and AMX in units else None,
    )
