"""`python -m model download`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from model.training.download import DATA_SETS, download


def add(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "download",
        help="fetch a public data set",
        description="Fetch a data set's four files from its public mirrors and check their sha256.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("name", choices=sorted(DATA_SETS), help="the data set")
    parser.add_argument(
        "--data",
        type=Path,
        help="directory to put the files in; the set's own in VAE_DATA_DIR if left out",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fetch the files."""
    directory = arguments.data
    if directory is None:
        if not (parent := os.environ.get("VAE_DATA_DIR")):
            raise ValueError("where to? Say --data DIR, or set VAE_DATA_DIR")
        directory = Path(parent) / arguments.name
    download(arguments.name, directory)
    return 0
