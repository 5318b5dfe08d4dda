"""`vae completion SHELL`: tab completion, made from the parsers of the commands themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import shtab

from vae.cli import COMMANDS, PROG, command_line

SHELLS: Final = ("bash", "zsh", "fish")


def main(argv: Sequence[str] | None = None, *, prog: str = f"{PROG} completion") -> int:
    """Print the script. Returns the exit status, 0."""
    arguments = own_parser(prog).parse_args(argv)
    print(shtab.complete(whole_parser(), shell=arguments.shell))
    return 0


def own_parser(prog: str) -> argparse.ArgumentParser:
    """The option of this command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Print the tab completion script for a shell. `vae --help` says where to put "
        "it.",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"{', '.join(SHELLS)}")
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """One parser for all of `vae`. It only describes: the commands run by their own parsers."""
    parser = command_line()
    commands = parser.add_subparsers(metavar="COMMAND")
    parsers = dict(_parsers())
    for name, command in COMMANDS.items():
        own = parsers[name]
        for action in own._actions:
            if action.type is Path or action.metavar in {"FILE", "DIR"}:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # read by shtab
            if action.choices is None and str(action.metavar).startswith("{"):
                action.choices = str(action.metavar).strip("{}").split(",")
        commands.add_parser(name, help=command.summary, parents=[own], add_help=False)
    return parser


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield "completion", own_parser(PROG)
    yield "keys", import_module("service.keys").command_line(PROG)
    yield "serve", import_module("service.__main__").settings_source(PROG).root_parser
    for module in ("model.__main__", "service.client.__main__"):
        for action in import_module(module).command_line(PROG)._actions:
            if isinstance(action, argparse._SubParsersAction):
                choices: dict[str, Any] = dict(action.choices)
                yield from choices.items()
