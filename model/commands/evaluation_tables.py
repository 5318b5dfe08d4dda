"""Print an evaluation, and a comparison of several, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table

from model.datasets.folder import numbered
from model.evaluation.figures import Anomalies, Estimate, Evaluation
from model.evaluation.report import number, percent, set_cell
from model.scores.calibration import COMMON_ALPHAS

if TYPE_CHECKING:  # it needs the extra
    from model.evaluation.comparison import Cell, Comparison

FOOTNOTES: Final = (
    "* share of clean images above the score that 95 % of the anomalies reach\n"
    "↑ ↓ baselines, which need no network, and their anomalous end: larger ↑ or smaller ↓"
)

LOCALIZATION_FOOTNOTE: Final = (
    "PRO: per-region overlap, up to a false-positive rate of 0.3\n"
    "peak hits: images whose map is largest in the defect\n"
    "by chance: such images if the peak lay anywhere, the share of pixels that are defects"
)


def show_judgement(console: Console, sentences: Sequence[str]) -> None:
    """Print where the network is no better than a baseline, one line each."""
    for sentence in sentences:
        console.print(sentence, style="bold", soft_wrap=True)
    if sentences:
        console.print()


def show_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print the figures of one bundle."""
    clean, fit, elbo = evaluation.clean, evaluation.fit, evaluation.negative_elbo
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in (
        ("bundle", f"{evaluation.bundle}, version {evaluation.version}"),
        ("clean images", f"{clean.n:,} of {clean.name}"),
        ("MSE", f"{fit.mse:.5f} at z = μ, {fit.mse_sampled:.5f} with z drawn"),
        ("−ELBO", "no pixel variance" if elbo is None else f"{elbo:.1f} nats"),
        ("KL", f"{fit.kl:.2f} nats"),
        ("active latents", f"{evaluation.active_units} of {evaluation.latent_size}"),
    ):
        facts.add_row(name, value)
    console.print(facts)
    console.print()
    console.print(_alarms_table(evaluation))
    for anomalies in evaluation.judged:
        if not anomalies.part_of:
            console.print(_detections_table(anomalies))
    console.print(FOOTNOTES)
    console.print()
    console.print(_overview_table(evaluation))
    if any(anomalies.localization for anomalies in evaluation.anomalies):
        console.print(_localization_table(evaluation))
        console.print(LOCALIZATION_FOOTNOTE)
    for note in evaluation.notes:
        console.print(f"warning: {note}")


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print several bundles side by side."""
    table = _table("AUROC with 95 % interval", "anomalies", "n", *comparison.names)
    for row in comparison.rows:
        cells = [_comparison_cell(cell) for cell in row.cells]
        table.add_row(set_cell(row.anomalies), f"{row.anomalies.images.n:,}", *cells)
    table.add_section()
    for head, cells in comparison.facts(with_expected=False):
        table.add_row(head, "", *cells)
    console.print(table)
    console.print("★ the best of the row, ≈ not to be told from it on these images")
    for name, evaluation in zip(comparison.names, comparison.evaluations, strict=True):
        for note in evaluation.notes:
            console.print(f"warning: {name}: {note}")


def _comparison_cell(cell: Cell) -> str:
    mark = "★ " if cell.is_best else "≈ " if cell.is_level else ""
    return mark + _auroc(cell.auroc)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _ends(estimate: Estimate) -> str:
    return f"{number(estimate.low)}–{number(estimate.high)}"


def _auroc(area: Estimate) -> str:
    return f"{number(area.value, 3)} ({number(area.low, 3)}–{number(area.high, 3)})"


def _alarms_table(evaluation: Evaluation) -> Table | str:
    alarms, n = evaluation.false_alarms, evaluation.clean.n
    if alarms is None:
        return "false alarms: – (the bundle has no calibration, so there are no p-values)\n"
    table = _table(
        "False alarms: share of clean images with p ≤ α",
        "score",
        *(f"α = {alpha:g}" for alpha in COMMON_ALPHAS),
    )
    for i, score in enumerate(dict.fromkeys(rate.score for rate in alarms.rates)):
        rates = [f"{rate.rate:.4f}" for rate in alarms.rates if rate.score == score]
        table.add_row(score, *rates, style="" if i else "bold")
    table.add_section()
    spreads = [f"{alpha:.4f} ± {alarms.spread(alpha, n):.4f}" for alpha in COMMON_ALPHAS]
    table.add_row("exchangeable sets, 95 %", *spreads)
    if alarms.exchangeable:
        halves = [f"{rate.mean:.4f} ± {rate.std:.4f}" for rate in alarms.exchangeable]
        table.add_row("calibration halved, mean ± sd", *halves)
    return table


def _detections_table(anomalies: Anomalies) -> Table:
    table = _table(
        f"{anomalies.images.name}: {numbered(anomalies.images.n, 'image')}",
        *("score", "AUROC", "95 % interval", "FPR*", "95 % interval"),
    )
    for i, detection in enumerate(anomalies.detections):
        if detection.is_baseline and not anomalies.detections[i - 1].is_baseline:
            table.add_section()
        name = detection.score
        if detection.is_baseline:
            name += " ↓" if detection.reversed else " ↑"
        area, rate = detection.auroc, detection.fpr_at_95_tpr
        table.add_row(
            name,
            number(area.value),
            _ends(area),
            number(rate.value),
            _ends(rate),
            style="" if i else "bold",
        )
    return table


def _overview_table(evaluation: Evaluation) -> Table:
    """A row for each set and each kind, by the default score."""
    table = _table(
        f"Found by {evaluation.anomalies[0].default.score}, the default score",
        *("anomalies", "n", "AUROC, 95 %", f"p ≤ {COMMON_ALPHAS[0]:g}", "best baseline"),
    )
    for anomalies in evaluation.anomalies:
        area, baseline = anomalies.default.auroc, anomalies.best_baseline
        table.add_row(
            set_cell(anomalies),
            f"{anomalies.images.n:,}",
            _auroc(area),
            percent(anomalies.flagged),
            f"{baseline.score} {baseline.auroc.value:.2f}",
        )
    return table


def _localization_table(evaluation: Evaluation) -> Table:
    table = _table(
        "Where the defects are: the map of the default score against the masks",
        *("anomalies", "masks", "pixel AUROC", "PRO", "peak hits", "by chance"),
    )
    for anomalies in evaluation.anomalies:
        if (found := anomalies.localization) is not None:
            table.add_row(
                set_cell(anomalies),
                f"{found.n:,}",
                number(found.pixel_auroc),
                number(found.region_overlap),
                percent(found.peak_in_defect.value),
                percent(found.defect_share),
            )
    return table
