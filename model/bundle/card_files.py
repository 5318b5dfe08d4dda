"""The files of a bundle that are for people: its card and the card's plots, as they are on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from model.bundle.bundle import VERSION_DIGITS
from model.bundle.graph_files import combined_hash

CARD: Final = "README.md"

PLOTS: Final = "plots"

PLOT_NAME: Final = re.compile(r"[a-z0-9_-]+\.png")


def stored_version(directory: Path) -> str | None:
    """The version of the bundle in `directory`, by its config.json alone; None if that cannot be
    read."""
    try:
        content: Any = json.loads((directory / "config.json").read_bytes())
        combined = combined_hash(content["weights_sha256"], content.get("graphs") or {})
        return combined[:VERSION_DIGITS]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_card(directory: Path) -> bytes | None:
    """The card, Markdown in UTF-8; None if there is none."""
    return _read_inside(directory, CARD)


def read_plot(directory: Path, name: str) -> bytes | None:
    """A plot, a PNG; None if there is none of this name."""
    return _read_inside(directory, PLOTS, name) if PLOT_NAME.fullmatch(name) else None


def _read_inside(directory: Path, *parts: str) -> bytes | None:
    """A file below `directory`; None if there is none, or a link leads out of the directory."""
    try:
        path = directory.joinpath(*parts).resolve(strict=True)
        if not path.is_relative_to(directory.resolve()) or not path.is_file():
            return None
        return path.read_bytes()
    except (OSError, RuntimeError):  # before Python 3.13, links in a circle are a RuntimeError
        return None
