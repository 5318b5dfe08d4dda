"""What all plots have in common: colours, and how names are written."""

from __future__ import annotations

from typing import Final

from model.training.evaluate import Observed
from model.training.evaluation import Evaluation

COLOURS: Final = (
    *("#3f90da", "#e76300", "#832db6", "#bd1f01", "#ffa90e"),
    *("#a96b59", "#94a4a2", "#b9ac70", "#717581", "#92dadd"),
)
"""Petroff 2021, "Accessible color sequences for data visualization"."""

MAX_NAME: Final = 24
"""Letters of a name that a picture has room for."""


def heading(evaluation: Evaluation, text: str) -> str:
    """What a picture shows, and of which bundle."""
    return f"{shown(evaluation.bundle)}: {text}"


def set_name(found: Observed) -> str:
    """Of an image set."""
    return shown(found.facts.name)


def shown(text: str, longest: int = MAX_NAME) -> str:
    """As matplotlib shows it: no mathematics between dollars, no _label that it hides."""
    short = " ".join(text.split())
    short = short if len(short) <= longest else f"{short[: longest - 1]}…"
    short = short.replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short
