"""Every step in order, or one of them: `python -m benchmarks.gpu`. `benchmarks/gpu.sh` calls it.

Each step is a process with a limit on its time. One that fails is reported, and the next one runs.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from benchmarks.gpu.figures import NAME, Figures
from benchmarks.gpu.plan import FULL, REHEARSAL, Plan, Step
from benchmarks.gpu.preparation import compile_c_parts, describe, write_metadata
from benchmarks.gpu.report import DONE, markdown
from benchmarks.machine import RESULTS, commit
from benchmarks.peers.environment import ROOT, last_lines

REHEARSED: Final = ROOT / "build" / NAME
"""Where the figures of a rehearsal go, which mean nothing."""

STOP_S: Final = 25.0
"""From SIGTERM until a step has stopped its server; then SIGKILL."""

MIN_S: Final = 10.0
"""A step with less time than this is not started."""

MAX_LINES: Final = 300
"""Of the tests' output that are kept."""

TESTS: Final = ("-m", "pytest", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider", "-W", "default")
"""Warnings are errors elsewhere; here another version of torch may have new ones."""


def run_all(plan: Plan, given: argparse.Namespace, figures: Figures) -> int:
    """Run all steps, and write the tables after each of them. Returns how many have failed."""
    started = time.monotonic()
    date = time.strftime("%Y-%m-%d", time.gmtime())
    command = "benchmarks/gpu.sh" + " --cpu" * given.cpu
    figures.start(command=command, date=date, commit=given.commit or commit())
    failed = 0
    for step in plan.steps:
        left_s = plan.budget_s - (time.monotonic() - started)
        since = time.monotonic()
        outcome = run_step(step, min(step.limit_s, left_s), given)
        failed += outcome != DONE
        took_s = time.monotonic() - since
        figures.end(step.name, outcome, took_s)
        print(f"== {step.name}: {outcome}, {took_s:.0f} s", flush=True)
        tables = figures.path.with_suffix(".md")
        tables.write_text(markdown(figures.read()))
    print(f"\n{tables.read_text()}")
    return failed


def run_step(step: Step, limit_s: float, given: argparse.Namespace) -> str:
    """Run a step in a process of its own. Returns `done`, or what went wrong."""
    if limit_s < MIN_S:
        return "not run, as no time was left"
    command = [sys.executable, "-m", "benchmarks.gpu", *step.arguments]
    command += ["--out", str(given.out), *(["--cpu"] if given.cpu else [])]
    with subprocess.Popen(  # noqa: S603 - ourselves
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                _, errors = process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                _, errors = process.communicate()
            print(errors, end="", file=sys.stderr, flush=True)
            return f"stopped after {limit_s:.0f} s"
    print(errors, end="", file=sys.stderr, flush=True)
    return DONE if process.returncode == 0 else f"failed: {last_lines(errors, 2)}"


def prepare(plan: Plan, keep: Callable[..., None]) -> None:
    """Compile the C parts, and note the machine."""
    keep(c_parts=compile_c_parts())
    keep(**describe(plan.device))


def tests(_: Plan, keep: Callable[..., None]) -> None:
    """Run the tests that need a GPU; on another machine they are only collected."""
    # Other plugins of the environment may warn, or want settings.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryFile("w+") as log:
        try:
            done = subprocess.run(  # noqa: S603 - pytest
                [sys.executable, *TESTS], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        finally:  # also if it is stopped
            log.seek(0)
            text = log.read()
            print(text, flush=True)
            lines = text.strip().splitlines() or ["it printed nothing"]
            found = [line for line in lines if re.match(r"(FAILED|ERROR|SKIPPED) ", line)]
            keep(
                command=f"pytest {' '.join(TESTS[2:5])}",
                summary=lines[-1].strip("= "),
                failures=[f"- {line}" for line in found],
                output=lines[-MAX_LINES:],
            )
    if done.returncode:
        raise SystemExit(f"error: pytest ended with status {done.returncode}: {lines[-1]}")


def rates(plan: Plan, keep: Callable[..., None]) -> None:
    """Measure large copies and products."""
    from benchmarks.gpu.device import Device

    device = Device(plan.device)
    keep(**asdict(device.rates(plan.dtypes, plan.side, plan.copied_bytes, plan.measure_s)))


def engine(plan: Plan, keep: Callable[..., None], figures: Figures, bundle: str) -> None:
    """Measure a network on the device without a server."""
    from benchmarks.gpu.device import Device
    from benchmarks.gpu.floor import Rates
    from benchmarks.gpu.passes import EngineBenchmark

    measured = figures.read().get("figures", {}).get("rates")
    measured_rates = Rates(**measured) if measured else None
    benchmark = EngineBenchmark(bundle, Device(plan.device), plan)
    keep(parity=benchmark.parity())
    speeds: dict[str, Any] = {}
    for dtype in plan.dtypes:
        speeds[dtype] = benchmark.speeds(dtype, measured_rates)
        keep(speeds=speeds)
    keep(warm_up=benchmark.warm_up())
    keep(waits=benchmark.waits())


def core(plan: Plan, keep: Callable[..., None]) -> None:
    """Measure the network on one core of the CPU, in float32 and in bfloat16."""
    import json

    command = [sys.executable, "-m", "benchmarks.engine", *plan.cpu_arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - ours
    keep(**json.loads(done.stdout))


def _stop(*_: object) -> NoReturn:
    """End by an exception, so that a server that was started is stopped."""
    raise SystemExit("error: stopped")


def main() -> int:
    """Measure this project on a GPU. Without a step, run all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    names = ("prepare", "tests", "rates", "engine", "fixed", "http", "core", "report")
    parser.add_argument("step", nargs="?", choices=names)
    parser.add_argument("bundle", nargs="?", help="for engine and http")
    parser.add_argument("workers", nargs="?", type=int, help="for http")
    parser.add_argument("--cpu", action="store_true", help="rehearse on the CPU, with small sizes")
    parser.add_argument("--device", help="for http: another device")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--commit", help="the commit of the code, where git cannot tell")
    parser.add_argument("--site", type=Path, help="folder on the path for this project's metadata")
    given = parser.parse_args()
    given.out = (given.out or (REHEARSED if given.cpu else RESULTS)).resolve()
    plan = REHEARSAL if given.cpu else FULL
    figures = Figures(given.out)
    if given.step is None:
        if given.site:
            write_metadata(given.site)
        return 1 if run_all(plan, given, figures) else 0
    if given.step == "report":
        print(markdown(figures.read()))
        return 0
    signal.signal(signal.SIGTERM, _stop)
    words = (given.step, given.bundle, given.workers, given.device and f"--device {given.device}")
    keep = partial(figures.add, " ".join(str(word) for word in words if word is not None))
    if given.step == "engine":
        engine(plan, keep, figures, given.bundle)
    elif given.step == "http":
        from benchmarks.gpu.serving import measure_service

        measure_service(given.bundle, given.workers, given.device or plan.device, plan, keep)
    elif given.step == "fixed":
        from benchmarks.gpu.serving import measure_fixed

        measure_fixed(plan, keep)
    else:
        {"prepare": prepare, "tests": tests, "rates": rates, "core": core}[given.step](plan, keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
