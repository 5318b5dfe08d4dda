"""The command `vae`: which commands there are, and that it only passes on."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from model.__main__ import command_line as model_command_line
from service.client.__main__ import command_line as client_command_line
from vae import completion
from vae.cli import COMMANDS, main

ROOT = Path(__file__).parents[3]


def status_of(*words: str) -> object:
    """Exit status of `vae WORDS`."""
    try:
        return main(words)
    except SystemExit as stop:  # argparse's own
        return stop.code


def summaries(parser: argparse.ArgumentParser) -> dict[str, str | None]:
    """The line for each subcommand in a parser's own help."""
    (commands,) = (x for x in parser._actions if isinstance(x, argparse._SubParsersAction))
    return {action.dest: action.help for action in commands._choices_actions}


def test_help_has_one_line_per_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert status_of("--help") == 0
    shown = capsys.readouterr().out
    wanted = {"serve", "train", "calibrate", "evaluate", "import", "download", "demo", "score"}
    assert wanted | {"keys"} <= set(COMMANDS)
    lines = [line.split(maxsplit=1) for line in shown.splitlines()]
    for name, command in COMMANDS.items():
        assert [name, command.summary] in lines
    assert max(map(len, shown.splitlines())) <= 80


def test_a_command_is_described_as_in_its_module_s_own_help() -> None:
    own = summaries(model_command_line("")) | summaries(client_command_line(""))
    assert own == {name: x.summary for name, x in COMMANDS.items() if x.is_subcommand}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_about_that_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: vae {command} ")
    assert "python -m" not in shown


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"vae {version('vae-service')}\n"


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of() == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert "commands:" in errors


@pytest.mark.parametrize("word", ["trian", "fly", "", "--fly"])
def test_an_unknown_command(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(word) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert word in errors.splitlines()[-1]
    assert ("did you mean 'train'?" in errors) == (word == "trian")
    if not word.startswith("-"):
        assert all(command in errors for command in COMMANDS)


def test_a_wrong_option_is_answered_with_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status_of("download", "mnist", "--fly") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("usage: vae download ")
    assert errors.endswith("vae download: error: unrecognized arguments: --fly\n")


@pytest.mark.parametrize(
    ("command", "module", "expected", "prog"),
    [
        ("keys", "service.keys", ["--rate", "5"], "vae keys"),
        ("serve", "service.__main__", ["--rate", "5"], "vae serve"),
        ("score", "service.client.__main__", ["score", "--rate", "5"], "vae"),
        ("train", "model.__main__", ["train", "--rate", "5"], "vae"),
    ],
)
def test_arguments_and_exit_status_are_passed_on(
    command: str, module: str, expected: list[str], prog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def run(argv: list[str], *, prog: str) -> int:
        seen.extend([argv, prog])
        return 7

    monkeypatch.setattr(f"{module}.main", run)
    assert status_of(command, "--rate", "5") == 7
    assert seen == [expected, prog]


def test_ctrl_c_is_a_status_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.keys.main", interrupted)
    assert status_of("keys", "alice") == 130


def test_the_help_waits_for_none_of_the_commands() -> None:
    code = (
        "import sys\n"
        "from vae.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "    print(sorted(loaded & {'model', 'service', 'torch', 'numpy', 'pydantic', 'shtab'}))\n"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# Tab completion


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completion_knows_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("completion", shell) == 0
    script = capsys.readouterr().out
    for option in ("max-queue-images", "recipe", "update-card", "image-shape", "invert", "scopes"):
        assert option in script
    for name in COMMANDS:
        assert name in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], {"train"}),
        (["train", "--re"], {"--resume", "--recipe"}),
        (["serve", "--log-format", ""], {"text", "json"}),
        (["score", "imag"], {"images.txt"}),
        (["train", "--data", "imag"], {"images.txt"}),
        (["serve", "--api-keys-file", "imag"], {"images.txt"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(
    words: list[str], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("completion", "bash") == 0
    (tmp_path / "images.txt").touch()
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask = (
        'source ./script; COMP_WORDS=(vae "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"; '
        "COMP_POINT=${#COMP_LINE}; _shtab_vae; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(  # noqa: S603 - our own script
        ["bash", "-c", ask, "bash", *words],  # noqa: S607
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == expected
