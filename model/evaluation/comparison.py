"""Several bundles side by side, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from model.evaluation.detection import auroc_difference
from model.evaluation.figures import Anomalies, Estimate, Evaluation
from model.evaluation.judgement import judgement
from model.evaluation.observations import Observations
from model.evaluation.report import number, set_cell, table, with_interval
from model.results import Floats
from model.scores.calibration import COMMON_ALPHAS


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A bundle's evaluation, with the scores that it comes from."""

    name: str
    """Of the bundle's directory, and unique."""
    evaluation: Evaluation
    clean: Floats
    """Default score of each clean image, (N,)."""
    anomalies: tuple[Floats, ...]
    """Default scores of each set of anomalies, (M,) each."""

    @classmethod
    def of(cls, name: str, observations: Observations, evaluation: Evaluation) -> Self:
        """Keep what a comparison needs."""
        return cls(
            name=name,
            evaluation=evaluation,
            clean=observations.clean.default,
            anomalies=tuple(found.default for found in observations.anomalies),
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """How well one bundle finds one set of anomalies."""

    auroc: Estimate
    is_best: bool
    """Whether the AUROC is the largest of the row."""
    is_level: bool
    """Whether it cannot be told from the largest: 0 lies in the 95 % interval of the difference."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One set of anomalies."""

    anomalies: Anomalies
    """By the first bundle."""
    cells: tuple[Cell, ...]
    """For each bundle."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The default scores of several bundles on the same images."""

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    rows: tuple[Row, ...]

    def facts(self, *, with_expected: bool) -> list[tuple[str, list[str]]]:
        """Further rows: what they are, and a cell for each bundle.

        `with_expected` adds to each false-alarm rate the interval for exchangeable images.
        """
        rows = [
            (
                f"false alarms at α = {alpha:g}",
                [_alarms(e, alpha, with_expected=with_expected) for e in self.evaluations],
            )
            for alpha in COMMON_ALPHAS
        ]
        active = [f"{e.active_units} of {e.latent_size}" for e in self.evaluations]
        return [*rows, ("active latents", active), ("score", [_score(e) for e in self.evaluations])]

    def judgements(self) -> list[str]:
        """Where which bundle is no better than a baseline."""
        return [
            f"{name}: {sentence}"
            for name, evaluation in zip(self.names, self.evaluations, strict=True)
            for sentence in judgement(evaluation, with_kinds=False)
        ]

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {
            "bundles": [
                {
                    "name": name,
                    "version": evaluation.version,
                    "score": _score(evaluation),
                    "false_alarms": {
                        f"{alpha:g}": _alarm_rate(evaluation, alpha) for alpha in COMMON_ALPHAS
                    },
                    "active_latents": evaluation.active_units,
                    "latent_size": evaluation.latent_size,
                    "judgement": judgement(evaluation),
                }
                for name, evaluation in zip(self.names, self.evaluations, strict=True)
            ],
            "anomalies": [
                {
                    "name": row.anomalies.images.name,
                    "part_of": row.anomalies.part_of,
                    "n": row.anomalies.images.n,
                    "cells": [asdict(cell) for cell in row.cells],
                }
                for row in self.rows
            ],
        }

    def markdown(self) -> str:
        """The comparison as a Markdown file."""
        clean = self.evaluations[0].clean
        heads = " | ".join(["anomalies | n", *(name.replace("|", r"\|") for name in self.names)])
        rows = [
            f"{set_cell(row.anomalies)} | {row.anomalies.images.n:,} | "
            + " | ".join(map(_markdown_cell, row.cells))
            for row in self.rows
        ]
        facts = [
            f"{head} | | {' | '.join(cells)}" for head, cells in self.facts(with_expected=True)
        ]
        return "\n".join(
            [
                *(line for sentence in self.judgements() for line in (sentence, "")),
                f"# Comparison of {len(self.names)} bundles",
                "",
                f"AUROC of each bundle's default score against the {clean.n:,} clean images from "
                f"{clean.name}, with 95 % intervals. Bold: the best of the row. ≈: not to be told "
                "from it, by DeLong's test for scores of the same images.",
                "",
                *table(heads, [*rows, *facts]),
                "",
                "Each bundle's own report: "
                + ", ".join(f"[{name}](<{name}/evaluation.md>)" for name in self.names)
                + ".",
                "",
            ]
        )


def compare(contenders: Sequence[Contender]) -> Comparison:
    """Put bundles that were evaluated on the same images side by side."""
    first = contenders[0]
    return Comparison(
        names=tuple(contender.name for contender in contenders),
        evaluations=tuple(contender.evaluation for contender in contenders),
        rows=tuple(
            Row(anomalies=anomalies, cells=_cells(contenders, i))
            for i, anomalies in enumerate(first.evaluation.anomalies)
        ),
    )


def _cells(contenders: Sequence[Contender], i: int) -> tuple[Cell, ...]:
    found = [contender.evaluation.anomalies[i].default.auroc for contender in contenders]
    best = max(range(len(found)), key=lambda j: found[j].value)
    winner = contenders[best]
    cells = []
    for j, contender in enumerate(contenders):
        behind = auroc_difference(
            (winner.clean, contender.clean), (winner.anomalies[i], contender.anomalies[i])
        )
        cells.append(Cell(auroc=found[j], is_best=j == best, is_level=behind.low <= 0))
    return tuple(cells)


def _markdown_cell(cell: Cell) -> str:
    text = with_interval(cell.auroc)
    if cell.is_best:
        return f"**{text}**"
    return f"≈ {text}" if cell.is_level else text


def _alarm_rate(evaluation: Evaluation, alpha: float) -> float | None:
    alarms = evaluation.false_alarms
    rates = alarms.rates if alarms else ()
    chosen = [r.rate for r in rates if r.score == _score(evaluation) and r.alpha == alpha]
    return chosen[0] if chosen else None


def _alarms(evaluation: Evaluation, alpha: float, *, with_expected: bool) -> str:
    rate = _alarm_rate(evaluation, alpha)
    if rate is None or evaluation.false_alarms is None:
        return "–"
    if not with_expected:
        return number(rate)
    spread = evaluation.false_alarms.spread(alpha, evaluation.clean.n)
    return f"{number(rate)} (expected {alpha:g} ± {spread:.4f})"


def _score(evaluation: Evaluation) -> str:
    return evaluation.anomalies[0].default.score
