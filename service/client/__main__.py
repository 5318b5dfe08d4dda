"""Command line: `python -m service.client score FILE …`, or `vae score FILE …`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from service.client.calls import ClientError, ImageScore, UnreachableError, each
from service.client.client import Client

KEY_VARIABLE: Final = "VAE_API_KEY"
"""The key is not a flag, because other users of the machine can see a process's flags."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m service.client") -> int:
    """Score the images and print the results. `prog` is the command's name in its help.

    Returns 0, 1 if an image could not be scored, or 130 after Ctrl-C.
    """
    arguments = command_line(prog).parse_args(argv)
    try:
        return _score(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def command_line(prog: str) -> argparse.ArgumentParser:
    """The command and its options."""
    key = f"An API key is read from the environment variable {KEY_VARIABLE}."
    parser = argparse.ArgumentParser(
        prog=prog, description="Send images to a running service.", epilog=key
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    score = commands.add_parser(
        "score",
        help="score image files, one line each",
        description="Score image files with a running service, one line each: the anomaly score, "
        "its p-value, whether the image is an anomaly, the reconstruction error (MSE) and the KL.",
        epilog=key,
    )
    score.add_argument("files", nargs="+", type=Path, metavar="FILE", help="image file")
    score.add_argument(
        "--url",
        default="http://localhost:8000",
        help="address of the service (default: %(default)s)",
    )
    score.add_argument(
        "--invert", action="store_true", help="invert the images: for dark ink on light paper"
    )
    score.add_argument(
        "--json", action="store_true", help="print one JSON object per line instead of a table"
    )
    return parser


def _score(arguments: argparse.Namespace) -> int:
    width = max(len(str(path)) for path in arguments.files)
    if not arguments.json:
        print(f"{'file':{width}}  {'score':>9}  {'p-value':>8}  anomaly  {'mse':>9}  {'kl':>7}")
    failed = False
    with Client(arguments.url, api_key=os.environ.get(KEY_VARIABLE)) as client:
        for path in arguments.files:
            # One request per file, so that a broken file does not affect the others.
            try:
                (scored,) = each(client.anomaly_score([path], invert=arguments.invert))
            except (ClientError, OSError) as error:
                failed = True
                print(f"{path}: {error}", file=sys.stderr)
                if isinstance(error, UnreachableError):
                    break
                continue
            if arguments.json:
                print(json.dumps({"file": str(path), **scored._asdict()}))
            else:
                print(f"{path!s:{width}}  {_columns(scored)}")
    return 1 if failed else 0


def _columns(scored: ImageScore) -> str:
    p_value = "–" if scored.p_value is None else f"{scored.p_value:.4f}"
    anomaly = {None: "–", True: "yes", False: "no"}[scored.is_anomaly]
    return f"{scored.score:9.5f}  {p_value:>8}  {anomaly:>7}  {scored.mse:9.5f}  {scored.kl:7.2f}"


if __name__ == "__main__":
    sys.exit(main())
