"""The commands' help."""

from __future__ import annotations

import re

import pytest

from tests.unit.model.commands.command_line import OPTIONS, run


@pytest.mark.parametrize("command", OPTIONS)
def test_help_describes_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    result = run(capsys, command, "--help")
    assert result.status == 0
    _, *entries = re.split(r"\n  (?=\S)", result.out)
    described = {}
    for entry in entries:
        flags, _, text = entry.split("\n\n")[0].replace("\n", "  ").partition("  ")
        described[flags.split()[0].strip(",")] = text.strip()
    names = {name.split(",")[0] for name in described}
    assert OPTIONS[command] <= names
    assert all(described.values())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, "--help")
    assert result.status == 0
    assert all(re.search(rf"^    {command} +\w", result.out, re.M) for command in OPTIONS)
