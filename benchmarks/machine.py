"""The machine that figures are measured on, which cores a process may use, and where results go."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"

VECTOR_UNITS: Final = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Those that change how fast float32 and bfloat16 products are."""


@contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Keep this thread, and every process that it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tell(line: str) -> None:
    """Print a line of progress to standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def warn_if_busy() -> None:
    """Say so if other processes use the machine."""
    if os.getloadavg()[0] > 1:
        tell("the load average is above 1: other processes will make the figures worse")


def cpu_model() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return name[1] if name else platform.processor()


def vector_units() -> list[str]:
    """Which of `VECTOR_UNITS` the processor has."""
    path = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*: (.*)", path.read_text(), re.MULTILINE) if path.exists() else None
    return [name for name in VECTOR_UNITS if flags and name in flags[1].split()]


def hardware() -> dict[str, Any]:
    """The machine, and its load average over the minute before."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_model(),
        "vector_units": vector_units(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_GiB": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit of the code that is measured; with a `+` if files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS.parent), *arguments]
        return subprocess.run(  # noqa: S603 - fixed commands
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!results")
        return name + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def made_with() -> dict[str, str]:
    """The machine and the versions that produced the figures."""
    return {
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
