"""Plots of numbers: ROC curves, histograms, p-values and the latent space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from model.evaluation.figures import Evaluation
from model.evaluation.observations import Observations
from model.evaluation.plot_style import COLOURS, drawn_sets, heading, set_name, shown
from model.evaluation.report import number
from model.results import Floats
from model.scores.calibration import COMMON_ALPHAS

LINES: Final = ("-", "--", "-.")
CLEAN, ANOMALOUS, GREY = COLOURS[0], COLOURS[1], "#666666"

HISTOGRAM_ENDS: Final = (0.002, 0.998)
"""Quantiles of each set that a histogram spans. The full tails would squeeze the bulk together."""

MAX_POINTS: Final = 4_000
"""Maximum number of points in the scatter plot. More make a larger file, not a clearer picture."""

MAX_LEGEND: Final = 20
"""Maximum number of labels in a legend. They are also written into the plot."""

TINY: Final = 1e-12
"""Lower bound of a total variance, which may be 0 and is divided by."""


def roc(observations: Observations, evaluation: Evaluation) -> Figure:
    """ROC of the default score, a line for each anomaly set; log-scaled on the right."""
    figure, axes = _figure(1, 2, width=9.6, height=5.0)
    clean = _default(observations.clean.scores)
    for i, (observed, result) in enumerate(drawn_sets(observations, evaluation)):
        anomalous = _default(observed.scores)
        is_anomalous = np.repeat([0, 1], [len(clean), len(anomalous)])
        fpr, tpr, _ = roc_curve(is_anomalous, np.concatenate([clean, anomalous]))
        label = f"{set_name(observed)}, AUROC {number(result.default.auroc.value)}"
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        for panel in axes[0]:
            panel.plot(fpr, tpr, **style, label=label)
    floor = 1 / len(clean)
    chance = np.geomspace(floor, 1, 200)
    for panel in axes[0]:
        panel.plot(chance, chance, color=GREY, linestyle=":", linewidth=1, label="chance")
        panel.set(xlabel="false-positive rate", ylabel="true-positive rate", ylim=(-0.02, 1.02))
        panel.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    axes[0, 1].set(xscale="log", xlim=(floor, 1))
    figure.suptitle(heading(evaluation, f"ROC of the score {_score(evaluation)}"))
    return figure


def histograms(observations: Observations, evaluation: Evaluation) -> Figure:
    """Histograms of the default score: clean images against each anomaly set."""
    sets = [observed for observed, _ in drawn_sets(observations, evaluation)]
    figure, axes = _figure(len(sets), 1, width=7.2, height=0.8 + 1.5 * len(sets), sharex=True)
    clean = _default(observations.clean.scores)
    all_scores = [clean, *(_default(observed.scores) for observed in sets)]
    ends = [np.quantile(scores, HISTOGRAM_ENDS) for scores in all_scores]
    low, high = float(np.min(ends)), float(np.max(ends))
    if low == high:
        low, high = low - 1, high + 1
    bins = np.linspace(low, high, 1 + _bins(min(map(len, all_scores))))
    threshold = None
    if (calibration := observations.engine.bundle.calibration) is not None:
        threshold = calibration.threshold(next(iter(observations.clean.scores)), COMMON_ALPHAS[0])
    for panel, observed in zip(axes[:, 0], sets, strict=True):
        for scores, colour, name in (
            (clean, CLEAN, f"clean: {set_name(observations.clean)}"),
            (_default(observed.scores), ANOMALOUS, f"anomalies: {set_name(observed)}"),
        ):
            weights = np.full(len(scores), 100 / len(scores))
            panel.hist(
                np.clip(scores.astype(np.float64), low, high),  # float32 could round past the ends
                bins,
                weights=weights,
                color=colour,
                alpha=0.6,
                label=name,
            )
        if threshold is not None and low < threshold < high:
            label = f"threshold at α = {COMMON_ALPHAS[0]:g}"
            panel.axvline(threshold, color="black", linestyle="--", linewidth=1, label=label)
        panel.set(xlim=(low, high), ylabel="% of images")
        panel.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    note = "the end bins include everything beyond them"
    axes[-1, 0].set_xlabel(f"score {_score(evaluation)} ({note})")
    figure.suptitle(heading(evaluation, "the score of clean images and of anomalies"))
    return figure


def p_values(observations: Observations, evaluation: Evaluation) -> Figure:
    """Empirical distribution of the clean images' p-values, a line for each score.

    Raises `ValueError` for a bundle without calibration.
    """
    calibration = observations.engine.bundle.calibration
    alarms = evaluation.false_alarms
    if calibration is None or alarms is None:
        raise ValueError("the bundle has no calibration, so there are no p-values to plot")
    figure, axes = _figure(1, 1, width=6.4, height=6.0)
    panel = axes[0, 0]
    clean = observations.clean
    smallest = 1 / (calibration.n + 1)
    diagonal = np.geomspace(smallest, 1, 200)
    spread = np.array([alarms.spread(alpha, clean.facts.n) for alpha in diagonal])
    floor = min(smallest, 1 / clean.facts.n) / 2
    panel.fill_between(
        diagonal,
        np.maximum(diagonal - spread, floor),
        np.minimum(diagonal + spread, 1),
        color="#dddddd",
        label="exchangeable sets, 95 %",
    )
    panel.plot(diagonal, diagonal, color="black", linewidth=1, linestyle=":", label="share = α")
    for i, (name, scores) in enumerate(clean.scores.items()):
        ranked = np.sort(calibration.p_values(name, scores))
        share = np.arange(1, len(ranked) + 1) / len(ranked)
        style: dict[str, Any] = {"color": CLEAN, "linewidth": 2.2, "zorder": 3, "label": name}
        if i:
            style = {"color": GREY, "linewidth": 0.8, "alpha": 0.8}
            style |= {"label": "other scores"} if i == 1 else {}
        panel.step(ranked, share, where="post", **style)
    for alpha in COMMON_ALPHAS:
        if alpha > smallest:
            panel.axvline(alpha, color=GREY, linewidth=0.6, linestyle="--")
            panel.annotate(
                f"α = {alpha:g}",
                (alpha, floor * 1.15),
                (3, 0),
                textcoords="offset points",
                fontsize="small",
            )
    panel.set(
        xscale="log",
        yscale="log",
        xlim=(smallest, 1),
        ylim=(floor, 1.05),
        xlabel=f"α (no p-value lies below 1/(n + 1) = {smallest:.2g})",
        ylabel="share of clean images with p_value ≤ α",
    )
    panel.legend(loc="upper left", fontsize="small")
    panel.grid(alpha=0.3)
    panel.set_title(
        heading(
            evaluation,
            f"p-values of {clean.facts.n:,} clean images of {set_name(clean)}\n"
            f"calibrated on {calibration.n:,}: {shown(calibration.data_set, 48)}",
        ),
        fontsize="medium",
    )
    return figure


def latent_scatter(observations: Observations, evaluation: Evaluation) -> Figure:
    """μ of the clean images, or its first two principal components, coloured by label."""
    mu, sigma = observations.encoding
    chosen = np.random.default_rng(0).permutation(len(mu))[:MAX_POINTS]
    points, names = _plane(mu, sigma)
    points = points[chosen]
    figure, axes = _figure(1, 1, width=6.8, height=5.6)
    panel = axes[0, 0]
    labels = observations.labels
    if labels is None:
        panel.scatter(points[:, 0], points[:, 1], s=7, color=CLEAN, alpha=0.6, linewidths=0)
    else:
        _scatter_by_label(panel, points, labels[chosen])
    panel.set(xlabel=names[0], ylabel=names[1])
    panel.grid(alpha=0.3)
    n, name = len(mu), set_name(observations.clean)
    count = f"{len(chosen):,} of {n:,}" if len(chosen) < n else f"{n:,}"
    panel.set_title(
        heading(evaluation, f"{count} images of {name} in the latent space"), fontsize="medium"
    )
    return figure


def _figure(
    rows: int, columns: int, *, width: float, height: float, sharex: bool = False
) -> tuple[Figure, NDArray[Any]]:
    """A figure, `width` × `height` inches, and its axes as an array, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=sharex)


def _default(scores: Mapping[str, Floats]) -> Floats:
    return next(iter(scores.values()))


def _bins(n: int) -> int:
    """Number of bins that `n` images fill without gaps."""
    return int(np.clip(2 * np.sqrt(n), 8, 80))


def _score(evaluation: Evaluation) -> str:
    return evaluation.anomalies[0].default.score


def _plane(mu: Floats, sigma: Floats) -> tuple[Floats, tuple[str, str]]:
    """Coordinates for each image, (N, 2), and their axis labels, from μ and σ, (N, D) each."""
    if mu.shape[1] == 1:
        return np.concatenate([mu, sigma], axis=1), ("μ", "σ")
    if mu.shape[1] == 2:
        return mu, ("first dimension of μ", "second dimension of μ")
    centred = mu - mu.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    shares = variances[::-1] / max(variances.sum(), TINY)
    names = [
        f"{ordinal} principal component of μ, {share:.0%} of the variance"
        for ordinal, share in zip(("first", "second"), shares, strict=False)
    ]
    return centred @ directions[:, :-3:-1].astype(np.float32), (names[0], names[1])


def _scatter_by_label(panel: Axes, points: Floats, labels: NDArray[np.int64]) -> None:
    """Colour each label, and write it at its median too, so that the plot reads without colours."""
    distinct = np.unique(labels)
    for i, label in enumerate(distinct):
        colour = COLOURS[i % len(COLOURS)]
        cloud = points[labels == label]
        panel.scatter(
            cloud[:, 0], cloud[:, 1], s=7, color=colour, alpha=0.7, linewidths=0, label=str(label)
        )
        panel.annotate(
            str(label),
            tuple(np.median(cloud, axis=0)),
            ha="center",
            va="center",
            weight="bold",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=4,
        )
    if len(distinct) <= MAX_LEGEND:
        panel.legend(
            title="label", loc="upper left", bbox_to_anchor=(1, 1), markerscale=3, frameon=False
        )
