"""Every `python -m benchmarks.…` explains itself, and does nothing else, with --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.environment import ROOT
from benchmarks.peers.table import SERVERS

IN_OTHER_ENVIRONMENTS = {server.module for server in SERVERS.values() if server.is_peer}
"""Their frameworks are not installed here."""

WITHOUT_ARGUMENTS = {"benchmarks.reliability.results"}

ASK_ALL = """
import contextlib, io, json, runpy, sys

for name in sys.argv[1:]:
    sys.argv[1:] = ["--help"]
    shown = io.StringIO()
    code = "it did not exit"
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code
    print(json.dumps([name, code, shown.getvalue()]))
"""
"""One process for all, as one for each would take a minute: most of it to import torch."""


def commands() -> list[str]:
    """All modules of `benchmarks` that can be run."""
    paths = sorted(Path(ROOT, "benchmarks").rglob("*.py"))
    runnable = [path for path in paths if '\nif __name__ == "__main__":' in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in runnable]
    excluded = IN_OTHER_ENVIRONMENTS | WITHOUT_ARGUMENTS
    return [name.removesuffix(".__main__") for name in names if name not in excluded]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[object, str]]:
    """Exit status and output of each command with --help."""
    done = subprocess.run(  # noqa: S603 - our own modules
        [sys.executable, "-c", ASK_ALL, *commands()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (code, output) for name, code, output in lines}


def test_commands_are_found() -> None:
    known = {"benchmarks.against", "benchmarks.peers.null", "benchmarks.reliability"}
    assert known <= set(commands())


@pytest.mark.parametrize("name", commands())
def test_a_command_has_help(name: str, outcomes: dict[str, tuple[object, str]]) -> None:
    code, output = outcomes[name]
    assert code in (0, None)
    assert output.startswith("usage: ")
