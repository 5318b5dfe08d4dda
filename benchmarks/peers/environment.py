"""A virtual environment for each peer, made on demand in .venv-peers/.

They cannot share one, or the service's: MLServer needs an older FastAPI, Triton an older numpy.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

ENVIRONMENTS: Final = ROOT / ".venv-peers"

REQUIREMENTS: Final = Path(__file__).parent / "requirements"

TIMEOUT_S: Final = 1800
"""For one installation; PyTorch alone is large."""

MAX_QUOTE: Final = 500
"""Characters of a log that a message quotes."""


class PeerError(Exception):
    """A server cannot be installed, started or stopped, or answers wrongly. One line says why."""


def python(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return ENVIRONMENTS / name / "bin" / "python"


def requirements(name: str) -> dict[str, str]:
    """The pinned packages and their versions, the peer's own first."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def install(name: str) -> None:
    """Make the environment if it is missing or its requirements changed. Raises `PeerError`."""
    wanted = REQUIREMENTS / f"{name}.txt"
    directory = ENVIRONMENTS / name
    stamp = directory / "installed.txt"  # written last, so a failed install is repeated
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return
    ENVIRONMENTS.mkdir(exist_ok=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n")
    _run(name, [sys.executable, "-m", "venv", "--clear", str(directory)])
    pip = [str(python(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(name, [*pip, "--requirement", str(wanted)])
    stamp.write_text(wanted.read_text())


def last_lines(text: str, count: int = 1) -> str:
    """The last lines of a log as one line; only those with errors if it has any."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)  # without colours
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return " | ".join((errors or lines)[-count:])[-MAX_QUOTE:] or "it printed nothing"


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{name} cannot be installed: {error}") from error
    if done.returncode:
        raise PeerError(f"{name} cannot be installed: {last_lines(done.stdout + done.stderr)}")
