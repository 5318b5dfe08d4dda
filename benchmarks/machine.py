"""What a benchmark's results say of the machine that they were measured on, and where they go."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"


def cpu_model() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor()


def vector_units() -> list[str]:
    """What it has for products of float32 and of bfloat16, of what makes a difference."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*: (.*)", path.read_text(), re.MULTILINE) if path.exists() else None
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return [name for name in known if found and name in found[1].split()]


def hardware() -> dict[str, Any]:
    """The machine, and how many processes wanted to run on it in the minute before."""
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
    """Of the code that is measured; with a `+` if files differ from it."""

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
