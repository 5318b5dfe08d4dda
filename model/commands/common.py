"""Code that several commands share."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from rich.console import Console

from model.bundle.bundle import Bundle
from model.datasets.folder import numbered
from model.datasets.load import ImageSet
from model.scores.calibration import too_small_for

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""

CHECKPOINT_NAME = "checkpoint.safetensors"

DATA_HELP = (
    "a folder of image files, an .npz file, or a directory of IDX files; a name is also looked up "
    "in VAE_DATA_DIR"
)

BUNDLE_HELP = "name of a bundle that ships, or a bundle's directory"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that are None or belong to a flag without a value."""

    def add_argument(self, action: argparse.Action) -> None:
        """As argparse, which forgets that the names of commands are indented by two more."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def standard_output(file: IO[str] | None = None) -> Console:
    """Where commands print. Lines are wrapped for a terminal, and left whole for a file or pipe.

    Text for a `file` is as standard output would have it.

    File names may hold what rich takes for a style or an emoji, so it looks for neither.
    """
    wraps = sys.stdout.isatty()
    return Console(file=file, markup=False, emoji=False, highlight=False, soft_wrap=not wraps)


def find_data(path: Path) -> Path:
    """`path`, or the entry of that name in VAE_DATA_DIR, as in `--data mnist`."""
    parent = os.environ.get("VAE_DATA_DIR")
    if parent and not path.exists() and (Path(parent) / path).exists():
        return Path(parent) / path
    return path


def check_limits(arguments: argparse.Namespace, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise `ValueError` for the first option outside its limits, (minimum, maximum)."""
    for option, (minimum, maximum) in limits.items():
        value = getattr(arguments, option)
        if value is not None and not minimum <= value <= maximum:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} is {value}, expected {minimum:,} to {maximum:,}")


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raise `ValueError` if `out` holds a bundle and `overwrite` is false."""
    if (out / "config.json").exists() and not overwrite:
        raise ValueError(f"{out} already holds a bundle; --overwrite replaces it")


def check_name(name: str | None) -> None:
    """Raise `ValueError` for a blank name."""
    if name is not None and not name.strip():
        raise ValueError(f"--name is {name!r}, which is blank")


def was_trained_on(bundle: Bundle, data: ImageSet) -> bool:
    """Whether `data` shares a file with the bundle's data set, its test images included."""
    known = bundle.provenance.get("files_sha256", {})
    return any(known.get(name) == sha for name, sha in data.files.items())


def today() -> str:
    """Today's date in UTC, in ISO 8601."""
    return datetime.now(UTC).date().isoformat()


def warn_if_few(console: Console, n: int) -> None:
    """Print a warning for each common false-alarm rate that `n` images are too few for."""
    for alpha in too_small_for(n):
        console.print(
            f"warning: calibrated on {numbered(n, 'image')}, too few for a false-alarm rate of "
            f"{alpha:g}, which needs {math.ceil(1 / alpha - 1)}: at that rate no image is ever an "
            "anomaly"
        )
