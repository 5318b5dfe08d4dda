"""`python -m model download`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from model.commands.common import HelpFormatter
from model.datasets.download import DATA_SETS, download


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "download",
        help="download a public data set",
        description="Download the four files of a data set from its public mirrors and check "
        "their SHA-256.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    names = sorted(DATA_SETS)
    parser.add_argument(
        "name", choices=names, metavar="NAME", help=f"the data set: {' or '.join(names)}"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="directory to put the files in (default: a directory of that name in VAE_DATA_DIR)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Download the files."""
    directory = arguments.data
    if directory is None:
        if not (parent := os.environ.get("VAE_DATA_DIR")):
            raise ValueError(
                "no directory to put the files in: use --data DIR, or set VAE_DATA_DIR"
            )
        directory = Path(parent) / arguments.name
    download(arguments.name, directory)
    return 0
