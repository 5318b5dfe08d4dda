"""Command line: `python -m service.client`."""

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
"""For the command line: a flag could be seen by other users of the machine."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m service.client score *.png`. Returns 0, or 1 if an image could not be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m service.client",
        description="Ask a running service.",
        epilog=f"An API key is read from the environment: {KEY_VARIABLE}.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score", help="score image files, a line each")
    score.add_argument("files", nargs="+", type=Path, metavar="FILE")
    score.add_argument("--url", default="http://localhost:8000", help="default: %(default)s")
    score.add_argument("--invert", action="store_true", help="for dark ink on light paper")
    score.add_argument("--json", action="store_true", help="a JSON object a line, not a table")
    arguments = parser.parse_args(argv)
    width = max(len(str(path)) for path in arguments.files)
    if not arguments.json:
        print(f"{'file':{width}}  {'score':>9}  {'p-value':>8}  anomaly  {'mse':>9}  {'kl':>7}")
    failed = False
    with Client(arguments.url, api_key=os.environ.get(KEY_VARIABLE)) as client:
        for path in arguments.files:
            # One by one, so that a broken file spoils no other's line.
            try:
                (found,) = each(client.anomaly_score([path], invert=arguments.invert))
            except (ClientError, OSError) as error:
                failed = True
                print(f"{path}: {error}", file=sys.stderr)
                if isinstance(error, UnreachableError):
                    break
                continue
            if arguments.json:
                print(json.dumps({"file": str(path), **found._asdict()}))
            else:
                print(f"{path!s:{width}}  {_columns(found)}")
    return 1 if failed else 0


def _columns(found: ImageScore) -> str:
    p_value = "–" if found.p_value is None else f"{found.p_value:.4f}"
    anomaly = {None: "–", True: "yes", False: "no"}[found.is_anomaly]
    return f"{found.score:9.5f}  {p_value:>8}  {anomaly:>7}  {found.mse:9.5f}  {found.kl:7.2f}"


if __name__ == "__main__":
    sys.exit(main())
