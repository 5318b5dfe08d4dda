"""README and docs/ as tests read them: blocks behind HTML comments, and shell blocks to run.

A comment marks what follows it: `<!-- tour: why -->` is the block `tour`. Names are unique over all
pages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.processes import Server

ROOT: Final = Path(__file__).parents[1]

PAGES: Final[Mapping[str, str]] = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))
}
"""Text by path."""

ALL: Final = "\n".join(PAGES.values())


def fenced_block(marker: str, language: str) -> str:
    """The contents of the fenced block after the comment `marker`."""
    name = re.escape(marker.rstrip(":"))
    found: list[str] = re.findall(
        rf"<!-- {name}(?:: [^\n]*)? -->\n```{language}\n(.*?)```", ALL, re.DOTALL
    )
    assert len(found) == 1, f"{len(found)} blocks are marked {marker!r}"
    return found[0]


def shell_block(marker: str) -> str:
    """The ```sh block after the comment `marker`."""
    return fenced_block(marker, "sh")


def pinned(name: str) -> str:
    """What stands after the comment `pinned: name`, up to an empty line."""
    found: list[str] = re.findall(rf"<!-- pinned: {re.escape(name)} -->\n(.*?)\n\n", ALL, re.DOTALL)
    assert len(found) == 1, f"{len(found)} blocks are marked {name!r}"
    return found[0]


def run_block(script: str, server: Server, folder: Path) -> str:
    """What a block prints that asks `server` instead of localhost:8000, in `folder`."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = script.replace("localhost:8000", server.url.removeprefix("http://"))
    done = subprocess.run(  # noqa: S603 - our own pages
        ["bash", "-euo", "pipefail", "-c", script.replace("curl ", "curl --silent --show-error ")],  # noqa: S607
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
