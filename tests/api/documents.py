"""Commands that README and docs/ print, run as printed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import Server

ROOT = Path(__file__).parents[2]


def documents() -> str:
    """README and all of docs/, one after the other."""
    paths = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def shell_block(marker: str) -> str:
    """The ```sh block after an HTML comment that begins with `marker`."""
    match = re.search(rf"<!-- {marker}.*?-->\n```sh\n(.*?)```", documents(), re.DOTALL)
    assert match, marker
    return match[1]


def run_block(script: str, server: Server, folder: Path) -> str:
    """What a block prints that asks `server` instead of localhost:8000."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = script.replace("localhost:8000", server.url.removeprefix("http://"))
    done = subprocess.run(  # noqa: S603 - our own documents
        ["bash", "-euo", "pipefail", "-c", script.replace("curl ", "curl --silent --show-error ")],  # noqa: S607
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
