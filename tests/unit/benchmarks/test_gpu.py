"""`benchmarks/gpu.sh` without a GPU: what is pure, and what a bare machine needs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu import preparation
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.figures import Figures
from benchmarks.gpu.floor import Rates, Work
from benchmarks.gpu.goals import goals
from benchmarks.gpu.passes import deviation, pixels
from benchmarks.gpu.plan import FULL, REHEARSAL, Load, Plan
from benchmarks.gpu.report import markdown
from benchmarks.peers.environment import ROOT

LOAD = {
    "images": 1,
    "connections": 1,
    "images_per_s": 3000.0,
    "requests_per_s": 3000.0,
    "p50_ms": 0.4,
    "p99_ms": 0.9,
    "server_cpu": 1.0,
    "generator_cpu": 0.5,
    "gpu_percent": None,
    "errors": 0,
    "stalled": False,
}
SPEED = {
    "images_per_s": 1e6,
    "pass_us": 64.0,
    "recorded_us": 40.0,
    "eager_us": 400.0,
    "copies_floor_us": 6.0,
    "compute_floor_us": 2.0,
}
ON_A_CORE = {
    dtype: {"fused": {"64": {"images_per_s": speed, "of_product": 0.5}}}
    for dtype, speed in (("float32", 1e5), ("bfloat16", 3e5))
}
CONTENT: dict[str, Any] = {
    "command": "benchmarks/gpu.sh",
    "date": "2026-01-02",
    "commit": "0123456789ab",
    "steps": {
        "tests": {"outcome": "done", "took_s": 30.0},
        "rates": {"outcome": "stopped after 45 s", "took_s": 46.0},
    },
    "figures": {
        "prepare": {
            "c_parts": "compiled",
            "device": "cuda:0 (NVIDIA H100)",
            "hardware": {
                "cpu": "Intel Xeon",
                "vector_units": ["avx2", "amx_bf16"],
                "cores": 16,
                "memory_GiB": 128,
                "system": "Linux 6",
            },
            "versions": {"Python": "3.12.3"},
        },
        "tests": {"command": "pytest", "summary": "3 passed in 9 s", "failures": []},
        "engine mnist": {
            "parity": {"float32": {"encode": 1e-6, "fused": 3e-5}},
            "speeds": {"float32": {"64": SPEED}},
            "warm_up": {"seconds": 4.0, "MiB": 500.0},
            "waits": {"spins, 1": {"pass_us": 60.0, "cpu_us": 60.0}},
        },
        "fixed": {"loads": [LOAD | {"p50_ms": 0.15}]},
        "http mnist 1": {
            "ready_s": 9.0,
            "all_ready_s": 9.5,
            "resident_MiB": 1e3,
            "gpu_MiB": 2e3,
            "loads": [LOAD, LOAD | {"images": 1024, "images_per_s": 1.2e6}],
        },
        "http mnist 16 --device cpu": {"loads": [LOAD | {"images_per_s": 9e9}]},
        "core": {"dtypes": ON_A_CORE, "product_flops_per_s": {"float32": 1e11, "bfloat16": 9e11}},
    },
}


def test_goals_are_judged_by_the_figures_of_their_steps() -> None:
    judged = {goal.what: (goal.measured, goal.reached) for goal in goals(CONTENT["figures"])}
    assert list(judged.values()) == [
        ("3.0e-05 (fused)", True),
        ("", None),  # the network with convolutions was not measured
        ("1,200,000 (`http mnist 1`, 1,024 images a request)", True),  # not the CPU's
        ("0.250 ms (0.400 − 0.150)", True),
        ("3.00 × (with AMX)", True),
    ]


@pytest.mark.parametrize("parity", [2e-4, float("inf")])
def test_goals_can_be_missed(parity: float) -> None:
    figures = CONTENT["figures"] | {"engine mnist": {"parity": {"float32": {"kl": parity}}}}
    figures |= {"http mnist 1": {"loads": [LOAD | {"p50_ms": 0.7}]}}
    assert [goal.reached for goal in goals(figures)] == [False, None, False, False, True]
    assert {goal.reached for goal in goals({})} == {None}


def test_the_tables_have_every_figure_and_failure() -> None:
    text = markdown(CONTENT)
    for part in (
        "NVIDIA H100",
        "16 cores of an Intel Xeon (avx2, amx_bf16)",
        "commit 0123456789ab",
        "**`rates`**: stopped after 45 s",
        "3 passed in 9 s",
        "| float32, 64 | 1,000,000 | 64.0 | 40.0 | 400.0 | 10.0 | 6.00 | 2.00 | 0.125 |",
        "| float32 | 1.0e-06 | 3.0e-05 |",
        "warm-up takes 4.0 s",
        "| spins, 1 | 60.0 | 60.0 |",
        "| mnist, 1 worker | 1,024 | 1 | 1,200,000 | 3,000 | 0.400 | 0.900 | 1.0 | 0.5 | – | 0 |",
        "| mnist, 16 workers, on the CPU |",
        "| FastAPI, fixed answer | 1 | 1 | 3,000 | 3,000 | 0.150 |",
        "| `http mnist 1` | 9.0 | 9.5 | 1,000 | 2,000 |",
        "| 64 | 100,000 | 0.50 | 300,000 | 0.50 |",
        "fused 3.00 ×",
    ):
        assert part in text, part
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    rules = [line.count("|") for line in text.splitlines() if line.startswith("| ---")]
    assert set(widths) == set(rules)


def test_a_run_that_measured_nothing_has_tables_too() -> None:
    assert "not measured" in markdown({"steps": {}, "figures": {}})
    without_rates = SPEED | {"copies_floor_us": None, "compute_floor_us": None}
    figures = {"engine mnist": {"speeds": {"float32": {"64": without_rates}}}}
    assert "| 10.0 | – | – | – |" in markdown({"figures": figures})
    unanswered = LOAD | {"p50_ms": None, "p99_ms": None, "errors": 9, "stalled": True}
    assert "| – | 9, stalled |" in markdown({"figures": {"http mnist 4": {"loads": [unanswered]}}})


def test_each_step_adds_to_the_file(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "results")
    assert figures.read() == {}
    figures.add("rates", a=1)  # a step by itself
    figures.start(command="x")
    figures.add("rates", a=2)
    figures.add("rates", b=3)
    figures.end("rates", "done", 1.26)
    assert figures.read() == {
        "command": "x",
        "steps": {"rates": {"outcome": "done", "took_s": 1.3}},
        "figures": {"rates": {"a": 2, "b": 3}},
    }
    assert [path.name for path in figures.path.parent.iterdir()] == ["gpu.json"]


def test_the_floor_is_copies_and_the_longer_of_reading_and_computing() -> None:
    rates = Rates(to_device=1e9, to_host=5e8, memory=1e10, products={"float32": 1e12})
    work = Work(images=10, flops_an_image=1e6, row_bytes=784, result_bytes=12, weight_bytes=40_000)
    assert work.copies_s(rates) == pytest.approx(7840 / 1e9 + 120 / 5e8)
    assert work.compute_s(rates, "float32") == pytest.approx(1e7 / 1e12)
    heavy = Work(images=1, flops_an_image=1, row_bytes=1, result_bytes=1, weight_bytes=10**9)
    assert heavy.compute_s(rates, "float32") == pytest.approx(0.1, rel=1e-6)


def test_deviation_is_absolute_and_relative() -> None:
    assert deviation([1.0, 100.0], [1.0, 101.0]) == pytest.approx(1 / 102)
    assert deviation([2e-4], [0.0]) == pytest.approx(2e-4)
    assert deviation([np.nan], [0.0]) == float("inf")


def test_images_repeat_to_any_number() -> None:
    images = pixels(1500)
    assert images.shape == (1500, 784)
    assert images[0].any()
    np.testing.assert_array_equal(images[1024:], images[:476])


@pytest.mark.parametrize("plan", [FULL, REHEARSAL])
def test_plans_hold_together(plan: Plan) -> None:
    assert plan.loads(1)[0] == Load(images=1, connections=1)
    assert max(load.connections for load in plan.loads(16)) <= plan.max_connections
    assert plan.max_batch == max(plan.batches)
    assert plan.budget_s < 8 * 60
    names = [step.name for step in plan.steps]
    assert len(names) == len(set(names))
    assert {name.split()[0] for name in names} == {name.split()[0] for name in names_of(FULL)}


def names_of(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps]


def test_metadata_is_found_where_the_sources_run_from_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> str:
        raise PackageNotFoundError

    preparation.write_metadata(tmp_path)
    assert not list(tmp_path.iterdir())  # it is installed
    monkeypatch.setattr(preparation, "version", missing)
    preparation.write_metadata(tmp_path)
    code = "from importlib.metadata import version; print(version('vae-service'))"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0.1.0\n"


def test_a_report_can_be_printed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Figures(tmp_path).start(command="x", date="2026-01-02", commit="c")
    sys.argv[1:], before = ["report", "--out", str(tmp_path)], sys.argv[1:]
    try:
        assert main() == 0
    finally:
        sys.argv[1:] = before
    assert capsys.readouterr().out.startswith("# On a GPU")


def wheels() -> set[str]:
    script = (ROOT / "benchmarks" / "gpu.sh").read_text()
    match = re.search(r'^WHEELS="([^"]*)"', script, re.MULTILINE)
    assert match
    return set(match[1].split())


ON_THE_MACHINE = {
    *("torch", "numpy", "safetensors", "pillow", "httpx", "prometheus-client", "rich", "uvloop"),
    *("annotated-doc", "anyio", "certifi", "click", "h11", "httpcore", "idna"),  # of others
    *("markdown-it-py", "mdurl", "pygments"),
}
"""What `benchmarks/gpu.sh` says that it needs, and what comes with that."""

COMMAND_LINE = {"shtab"}
"""What only the command `vae` imports."""


def test_wheels_are_pinned() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert wheels() <= set(pins)


def test_wheels_and_the_machine_have_all_that_the_service_needs() -> None:
    needed, todo = set(), ["vae-service"]
    environment = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}
    while todo:
        for line in requires(todo.pop()) or []:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate(environment)
            if applies and name not in needed:
                needed.add(name)
                todo += [name] if name != "torch" else []
    assert needed - COMMAND_LINE - ON_THE_MACHINE == {canonicalize_name(w) for w in wheels()}
