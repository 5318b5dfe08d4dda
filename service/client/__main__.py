"""Command line: `python -m service.client score FILE …`, or `vae score FILE …`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.client.results import STANDARD_INPUT
from service.client.score import ANOMALY, FAILED, KEY_VARIABLE, WRONG_COMMAND, say, score

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""

READER_GONE: Final = 141
"""Exit status if nobody reads the output any more, as in `| head -1`: 128 + SIGPIPE."""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m service.client") -> int:
    """Score the images and print the results. `prog` is the command's name in its help.

    Returns 0; 1 if an image could not be scored or a result not written; 2 for options that cannot
    be carried out; 3 with --fail-on-anomaly if there is an anomaly; 130 after Ctrl-C; or 141 if the
    reader of the output has gone.
    """
    arguments, rest = command_line(prog).parse_known_args(argv)
    # argparse takes the files behind an option only if there were none before it.
    if unknown := [word for word in rest if word.startswith("-") and word != STANDARD_INPUT]:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if "" in rest:
        arguments.parser.error("argument FILE: an empty name")
    arguments.images += rest
    try:
        return score(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return READER_GONE
    except OSError as error:
        _discard_output()
        with suppress(OSError):
            say(f"error: {error}")
        return FAILED
    except ValueError as error:
        say(f"error: {error}")
        return WRONG_COMMAND


def _discard_output() -> None:
    """Have Python's own flush at the exit succeed, as what is left cannot be written."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def command_line(prog: str) -> argparse.ArgumentParser:
    """The command and its options."""
    key = f"An API key is read from the environment variable {KEY_VARIABLE}."
    parser = argparse.ArgumentParser(
        prog=prog, description="Send images to a running service.", epilog=key
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    command = commands.add_parser(
        "score",
        help="score image files, one line each",
        description="Score image files with a running service, one line each: the anomaly score, "
        "its p-value, whether the image is an anomaly, the reconstruction error (MSE) and the KL.",
        epilog=f"Exit status: 0; {FAILED} if an image could not be scored; {WRONG_COMMAND} for a "
        f"wrong command line; {ANOMALY} with --fail-on-anomaly if all were scored and one is an "
        f"anomaly; {INTERRUPTED} after Ctrl-C. {key}",
    )
    command.set_defaults(parser=command)
    command.add_argument(
        "images",
        nargs="+",
        type=_name,
        metavar="FILE",
        help="image file; a folder, for all images below it; or - for a file on standard input",
    )
    command.add_argument(
        "--url",
        default="http://localhost:8000",
        help="address of the service (default: %(default)s)",
    )
    command.add_argument(
        "--alpha", type=float, help="false-alarm rate on clean images (default: the service's)"
    )
    command.add_argument(
        "--score", metavar="NAME", help="a score that /model lists (default: its first)"
    )
    command.add_argument(
        "--fdr",
        action="store_true",
        help="have alpha bound the expected share of false alarms among all alarms of this run; "
        "results are printed when all images are scored",
    )
    command.add_argument(
        "--invert", action="store_true", help="invert the images: for dark ink on light paper"
    )
    command.add_argument(
        "--bits",
        type=int,
        metavar="N",
        help="bits that 16-bit images use, such as 12 for a 12-bit camera (default: what the file "
        "says, otherwise 16)",
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object per line instead of a table"
    )
    command.add_argument(
        "--csv",
        type=_name,
        metavar="FILE",
        help="also write a CSV file; - prints it instead of the table",
    )
    command.add_argument(
        "--maps",
        type=_directory,
        metavar="DIR",
        help="also write a heat map of each image to this folder, as PNG, named as the image: "
        "DIR/a/b.jpg.png",
    )
    command.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help=f"exit with status {ANOMALY} if an image is an anomaly",
    )
    return parser


def _name(text: str) -> str:
    """A file's name, which is not empty, as a shell variable that is not set would be."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def _directory(text: str) -> Path:
    return Path(_name(text))


if __name__ == "__main__":
    sys.exit(main())
