"""The command line `vae COMMAND`: which module runs which command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Final

PROG: Final = "vae"

USAGE_ERROR: Final = 2
"""Exit status for a command line that cannot be understood, as of argparse."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""


@dataclass(frozen=True)
class Command:
    """One word after `vae`, and the module whose `main(argv, prog=…)` runs it."""

    module: str
    summary: str
    """One line for the list of commands; those of `model` say the same as its own help."""
    is_subcommand: bool = False
    """Whether the module has several commands, of which this is one."""


COMMANDS: Final[Mapping[str, Command]] = {
    "serve": Command("service.__main__", "serve a network over HTTP"),
    "train": Command("model.__main__", "train a network on images and write a bundle", True),
    "calibrate": Command(
        "model.__main__", "calibrate a bundle's p-values on your own clean images", True
    ),
    "evaluate": Command(
        "model.__main__", "measure errors, false alarms and anomaly detection, with plots", True
    ),
    "import": Command(
        "model.__main__", "convert a checkpoint of the tutorial's code to a bundle", True
    ),
    "download": Command("model.__main__", "download a public data set", True),
    "demo": Command("model.__main__", "write example images to try the commands on", True),
    "score": Command("service.client.__main__", "score image files, one line each", True),
    "keys": Command("service.keys", "make an API key"),
    "completion": Command("vae.completion", "print the tab completion for your shell"),
}

EPILOG: Final = """\
"vae COMMAND --help" describes the options of a command.

Tab completion, switched on in the next shell:
  bash  vae completion bash > ~/.local/share/bash-completion/completions/vae
  zsh   vae completion zsh > ~/.zfunc/_vae     (any directory in $fpath)
  fish  vae completion fish > ~/.config/fish/completions/vae.fish
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status, 2 for an unknown one, or 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = command_line()
    if not words:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    name = words[0]
    command = COMMANDS.get(name)
    if command is None:
        parser.parse_args([word for word in words[:1] if word.startswith("-")])  # --help, --version
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        parser.error(f"unknown command {name!r}{hint} (commands: {', '.join(COMMANDS)})")
    try:
        own, prog = (words, PROG) if command.is_subcommand else (words[1:], f"{PROG} {name}")
        status: int = import_module(command.module).main(own, prog=prog)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def command_line() -> argparse.ArgumentParser:
    """`--help`, which lists the commands, and `--version`; the commands have their own parsers."""
    listed = "\n".join(f"  {name:<12}{command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} COMMAND [OPTION ...]",
        description=f"Train, serve and use a Variational Autoencoder.\n\ncommands:\n{listed}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {version('vae-service')}")
    return parser
