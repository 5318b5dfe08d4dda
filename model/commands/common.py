"""What several commands do alike."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from model.bundle.bundle import Bundle
from model.scores.calibration import too_small_for
from model.training.data import ImageSet

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""

CHECKPOINT_NAME = "checkpoint.safetensors"

DATA_HELP = (
    "directory with IDX files, an .npz file, or a folder of image files; a name is also looked for "
    "in VAE_DATA_DIR"
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def find_data(path: Path) -> Path:
    """`path`, or what has its name in VAE_DATA_DIR: `--data mnist`."""
    parent = os.environ.get("VAE_DATA_DIR")
    if parent and not path.exists() and (Path(parent) / path).exists():
        return Path(parent) / path
    return path


def check_limits(arguments: argparse.Namespace, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise `ValueError` for the first option that is out of its limits."""
    for option, (least, most) in limits.items():
        value = getattr(arguments, option)
        if value is not None and not least <= value <= most:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} is {value}, expected {least:,} to {most:,}")


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raise `ValueError` if `out` holds a bundle that is not to be replaced."""
    if (out / "config.json").exists() and not overwrite:
        raise ValueError(f"{out} already holds a bundle: --overwrite replaces it")


def check_name(name: str | None) -> None:
    """Raise `ValueError` for a name that is none."""
    if name is not None and not name.strip():
        raise ValueError(f"--name is {name!r}, expected a text")


def show_skipped(console: Console, data: ImageSet) -> None:
    """Name and count the files that could not be read."""
    for line in data.skipped:
        console.print(f"skipped {line}")
    if data.skipped:
        console.print(f"{len(data.skipped)} files skipped, {len(data.images):,} read")


def was_trained_on(bundle: Bundle, data: ImageSet) -> bool:
    """Whether any file of `data` is one that the bundle names as its own, test images included."""
    known = bundle.provenance.get("files_sha256", {})
    return any(known.get(name) == sha for name, sha in data.files.items())


def today() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).date().isoformat()


def warn_if_few(console: Console, n: int) -> None:
    """Say so if `n` calibration images are too few for a false-alarm rate that people ask for."""
    for alpha in too_small_for(n):
        console.print(
            f"warning: calibrated on {n:,} images, too few for a false-alarm rate of {alpha:g}, "
            f"which takes {math.ceil(1 / alpha - 1)}: no image will be an anomaly at it"
        )
