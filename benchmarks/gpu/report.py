"""The figures of a run as Markdown: what there is, and which steps failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.gpu.goals import core_ratio, goals, services
from benchmarks.gpu.plan import CONV, MLP

Content = Mapping[str, Any]

DONE: Final = "done"

REACHED: Final = {True: "yes", False: "**no**", None: "not measured"}


def markdown(content: Content) -> str:
    """All tables of the file that `benchmarks.gpu.figures` writes."""
    figures = content.get("figures", {})
    parts = [
        "# On a GPU",
        _machine(content),
        _goals(figures),
        *_failures(content.get("steps", {})),
        *_tests(figures.get("tests")),
        *_rates(figures.get("rates")),
    ]
    for bundle in (MLP, CONV):
        parts += _engine(bundle, figures.get(f"engine {bundle}"))
    parts += _core(figures.get("core"))
    parts += _services(figures)
    parts += _steps(content.get("steps", {}))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: text in the first column, numbers in the others."""
    rule = ["---", *(["---:"] * (len(header) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def number(value: float | None, digits: int = 0) -> str:
    """A figure, or a dash for a missing one."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _machine(content: Content) -> str:
    about = content.get("figures", {}).get("prepare", {})
    command = str(content.get("command"))
    text = "**A rehearsal: these figures are of the CPU.** " if command.endswith("--cpu") else ""
    text += f"`{command}`, {content.get('date')}, commit {content.get('commit')}: "
    if "hardware" not in about:
        return text + "the machine is unknown."
    hardware = about["hardware"]
    units = ", ".join(hardware["vector_units"])
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{text}{about['device']}, {hardware['cores']} cores of an {hardware['cpu']} ({units}), "
        f"{hardware['memory_GiB']} GiB, {hardware['system']}. {versions}. "
        f"The C parts: {about['c_parts']}."
    )


def _goals(figures: Content) -> str:
    rows = [
        (goal.what, goal.limit, goal.measured or "–", REACHED[goal.reached])
        for goal in goals(figures)
    ]
    return table(("goal", "limit", "measured", "reached"), rows)


def _failures(steps: Content) -> list[str]:
    return [
        f"**`{name}`**: {step['outcome']}"
        for name, step in steps.items()
        if step["outcome"] != DONE
    ]


def _tests(tests: Content | None) -> list[str]:
    if not tests:
        return []
    return ["## Tests", f"`{tests['command']}`: {tests['summary']}", *tests.get("failures", [])]


def _rates(rates: Content | None) -> list[str]:
    if not rates:
        return []
    products = ", ".join(
        f"{dtype} {flops / 1e12:,.1f} TFLOP/s" for dtype, flops in rates["products"].items()
    )
    return [
        "## What the device can do",
        f"Copies from pinned memory {rates['to_device'] / 1e9:,.1f} GB/s, back "
        f"{rates['to_host'] / 1e9:,.1f} GB/s; its own memory, read and written, "
        f"{rates['memory'] / 1e9:,.0f} GB/s; products of large matrices: {products}.",
    ]


def _engine(bundle: str, engine: Content | None) -> list[str]:
    if not engine:
        return []
    parts = [f"## The network without a server: {bundle}"]
    if speeds := engine.get("speeds"):
        parts += [
            "`Engine.score` of uint8 images, from numpy to numpy, in a loop. “Recorded” is the "
            "replay of the CUDA graph alone, “eager” the same kernels launched one by one, each "
            "without the copies. The floor is what copies and products of this size take at the "
            "rates above; its share is of the whole pass.",
            _speeds(speeds),
        ]
    if parity := engine.get("parity"):
        parts += [
            "Largest deviation |a − b| / (1 + |b|) from float32 on the CPU:",
            _parity(parity),
        ]
    if warm_up := engine.get("warm_up"):
        parts.append(
            f"A worker's warm-up takes {warm_up['seconds']:.1f} s, and its recordings and buffers "
            f"{warm_up['MiB']:,.0f} MiB of the device."
        )
    if waits := engine.get("waits"):
        rows = [
            (name, number(wait["pass_us"], 1), number(wait["cpu_us"], 1))
            for name, wait in waits.items()
        ]
        parts += [
            "While a pass runs, its thread spins (as shipped) or sleeps:",
            table(("thread, batch", "µs a pass", "µs of the processor"), rows),
        ]
    return parts


def _speeds(speeds: Content) -> str:
    header = ["dtype, batch", "images/s", "µs a pass", "recorded", "eager", "eager / recorded"]
    header += ["floor: copies", "floor: compute", "floor / pass"]
    rows = [
        (
            f"{dtype}, {int(batch):,}",
            number(row["images_per_s"]),
            number(row["pass_us"], 1),
            number(row["recorded_us"], 1),
            number(row["eager_us"], 1),
            number(row["eager_us"] / row["recorded_us"], 1),
            number(row["copies_floor_us"], 2),
            number(row["compute_floor_us"], 2),
            number(_floor_share(row), 3),
        )
        for dtype, batches in speeds.items()
        for batch, row in batches.items()
    ]
    return table(header, rows)


def _floor_share(row: Content) -> float | None:
    if row["copies_floor_us"] is None:
        return None
    return float((row["copies_floor_us"] + row["compute_floor_us"]) / row["pass_us"])


def _parity(parity: Content) -> str:
    kinds = list(next(iter(parity.values())))
    rows = [(dtype, *(f"{values[kind]:.1e}" for kind in kinds)) for dtype, values in parity.items()]
    return table(("dtype", *kinds), rows)


def _core(core: Content | None) -> list[str]:
    if not core or "dtypes" not in core:
        return []
    kinds = [(dtype, score) for dtype, scores in core["dtypes"].items() for score in scores]
    rows = []
    for batch in core["dtypes"][kinds[0][0]][kinds[0][1]]:
        row = [batch]
        for dtype, score in kinds:
            figures = core["dtypes"][dtype][score][batch]
            row += [number(figures["images_per_s"]), number(figures["of_product"], 2)]
        rows.append(row)
    header = ["batch"]
    for dtype, score in kinds:
        header += [f"{score}, {dtype}, images/s", "of the product"]
    peaks = core["product_flops_per_s"]
    products = ", ".join(f"{dtype} {flops / 1e9:,.0f} GFLOP/s" for dtype, flops in peaks.items())
    ratios = ", ".join(
        f"{score} {core_ratio(core, score):.2f} ×" for score in core["dtypes"][kinds[0][0]]
    )
    return [
        "## One core of the CPU",
        "`Engine.score` of uint8 noise in a loop, and its FLOP/s against a 2048³ product of the "
        f"same type. The products: {products}. bfloat16 against float32, each at its best batch: "
        f"{ratios}.",
        table(header, rows),
    ]


def _services(figures: Content) -> list[str]:
    on_gpu, on_cpu = list(services(figures)), list(services(figures, "cpu"))
    fixed = figures.get("fixed")
    if not (on_gpu or on_cpu or fixed):
        return []
    rows = []
    for step, measured in (*on_gpu, *on_cpu):
        for load in measured.get("loads", []):
            _, bundle, workers, *rest = step.split()
            name = f"{bundle}, {workers} worker{'s' * (workers != '1')}"
            rows.append(_load(name + ", on the CPU" * bool(rest), load))
    rows += [_load("FastAPI, fixed answer", load) for load in (fixed or {}).get("loads", [])]
    header = ["service", "images a request", "connections", "images/s", "requests/s", "p50 ms"]
    header += ["p99 ms", "server's cores", "clients' cores", "GPU busy, %", "errors"]
    return [
        "## Through HTTP",
        "`/anomaly-score` of raw uint8 images with the default score, `fused`; the answers are "
        "raw scores (`Accept: application/octet-stream`). A closed loop by processes on the same "
        "cores. The kernel deals connections out to workers at random, so some have more than "
        "others.",
        table(header, rows),
        _starts([*on_gpu, *on_cpu]),
    ]


def _load(name: str, load: Content) -> tuple[str, ...]:
    return (
        name,
        number(load["images"]),
        number(load["connections"]),
        number(load["images_per_s"]),
        number(load["requests_per_s"]),
        number(load["p50_ms"], 3),
        number(load["p99_ms"], 3),
        number(load["server_cpu"], 1),
        number(load["generator_cpu"], 1),
        number(load["gpu_percent"]),
        number(load["errors"]) + ", stalled" * load["stalled"],
    )


def _starts(measured: Sequence[tuple[str, Content]]) -> str:
    header = ("step", "first answer after, s", "all workers after, s", "MiB of the host")
    rows = [
        (
            f"`{step}`",
            number(start["ready_s"], 1),
            number(start["all_ready_s"], 1),
            number(start.get("resident_MiB")),
            number(start["gpu_MiB"]),
        )
        for step, start in measured
        if "ready_s" in start
    ]
    return table((*header, "MiB of the GPU"), rows) if rows else ""


def _steps(steps: Content) -> list[str]:
    rows = [(f"`{name}`", number(step["took_s"], 1)) for name, step in steps.items()]
    return ["## Time of each step", table(("step", "s"), rows)] if rows else []
