"""What a benchmark's results say of the machine that they were measured on, and where they go."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parent / "results"


def cpu_model() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor()
