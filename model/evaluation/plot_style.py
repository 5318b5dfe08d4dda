"""Shared by all plots: colours, and how names are written."""

from __future__ import annotations

from typing import Final

from model.evaluation.figures import Anomalies, Evaluation
from model.evaluation.observations import Observations, Observed

COLOURS: Final = (
    *("#3f90da", "#e76300", "#832db6", "#bd1f01", "#ffa90e"),
    *("#a96b59", "#94a4a2", "#b9ac70", "#717581", "#92dadd"),
)
"""Petroff 2021, "Accessible color sequences for data visualization"."""

MAX_NAME: Final = 24
"""Maximum length of a name in a plot, in characters."""


MAX_SETS: Final = 10
"""Maximum number of sets of anomalies in a plot; with more, kinds of one set are left out."""


def drawn_sets(
    observations: Observations, evaluation: Evaluation
) -> list[tuple[Observed, Anomalies]]:
    """The sets of anomalies to draw, with their figures."""
    sets = list(zip(observations.anomalies, evaluation.anomalies, strict=True))
    if len(sets) > MAX_SETS:
        sets = [(observed, result) for observed, result in sets if not observed.part_of]
    return sets


def heading(evaluation: Evaluation, text: str) -> str:
    """A plot's title: the bundle's name and what the plot shows."""
    return f"{shown(evaluation.bundle)}: {text}"


def set_name(observed: Observed) -> str:
    """An image set's name, as shown in a plot."""
    return shown(observed.facts.name)


def shown(text: str, max_length: int = MAX_NAME) -> str:
    """Shorten `text`, and escape what matplotlib interprets: `$` as math, `_` first as hidden."""
    short = " ".join(text.split())
    short = short if len(short) <= max_length else f"{short[: max_length - 1]}…"
    short = short.replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short
