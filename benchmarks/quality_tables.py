"""The results of `benchmarks.quality` as Markdown tables, with the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Final

Row = Mapping[str, Any]

SETS: Final = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "kmnist": "KMNIST"}

SCORES: Final = (
    *("fused", "mse_top5", "mse", "neg_elbo", "kl"),
    *("latent_density", "latent_mahalanobis"),
)

GOALS: Final[Mapping[tuple[str, str, str], tuple[float | None, float | None, str]]] = {
    ("full", "mnist", "fashion-mnist"): (0.995, 0.9998, "1.00"),
    ("full", "mnist", "kmnist"): (0.998, 0.9998, "none found"),
    ("full", "fashion-mnist", "mnist"): (0.997, 0.999, "1.00 (ELBO of a larger VAE: .87)"),
    ("full", "fashion-mnist", "kmnist"): (0.998, 0.999, "none found"),
    ("full", "fashion-mnist", "upside down"): (0.88, 0.89, ".75–.89"),
    ("full", "fashion-mnist", "mirrored"): (None, None, ""),
    ("full", "mnist", "upside down"): (None, None, ""),
    ("full", "mnist", "mirrored"): (None, None, ""),
    ("one-class", "mnist", "the others"): (0.978, 0.980, "Deep SVDD .948, OCGAN .975"),
    ("one-class", "fashion-mnist", "the others"): (0.925, 0.935, ".892–.940"),
    ("left-out", "mnist", "the one"): (0.86, 0.90, ".72–.855"),
}
"""AUROC goals for the fully connected and the convolutional network, and the best published."""

ERROR_GOALS: Final = {
    ("mnist", "mlp"): 0.0120,
    ("mnist", "conv"): 0.0040,
    ("fashion-mnist", "mlp"): 0.0120,
    ("fashion-mnist", "conv"): 0.0080,
}


def markdown(results: Mapping[str, Any]) -> str:
    """All tables."""
    rows: Sequence[Row] = results["tasks"]
    lines = [
        "# How well anomalies are told from clean images",
        "",
        f"`{results['command']}`, {results['date']}, one thread a training, {results['cpu']}, "
        f"torch {results['torch']}. AUROC on whole test sets by the default score, `fused`: mean "
        "over the seeds, ± their standard deviation. One-class and left-out rows are means over "
        "the ten classes first.",
        "",
        "| clean → strange | mlp | goal | conv | goal | best in print |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_goal_row(rows, key) for key in GOALS),
        "",
        "## Mean squared error of a pixel on the test set, z = μ",
        "",
        "| | mlp | goal | conv | goal |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(_error_row(rows, data_set) for data_set in ("mnist", "fashion-mnist")),
        "",
        "## Each score",
        "",
        f"| clean → strange | network | {' | '.join(SCORES)} |",
        f"| --- | --- |{' ---: |' * len(SCORES)}",
        *(_score_row(rows, key, arch) for key in GOALS for arch in ("mlp", "conv")),
        *_average_rows(rows),
        "",
        "## Each class, by the default score",
        "",
        f"| | network | {' | '.join(map(str, range(10)))} |",
        f"| --- | --- |{' ---: |' * 10}",
        *(_class_row(rows, key, arch) for key in GOALS if key[0] != "full" for arch in _ARCHS),
    ]
    return "\n".join(lines) + "\n"


_ARCHS: Final = ("mlp", "conv")


def _aurocs(
    rows: Sequence[Row], key: tuple[str, str, str], arch: str, score: str
) -> dict[int, float]:
    """AUROC by seed, averaged over the task's classes if all ten are there; else it is omitted."""
    kind, data_set, strange = key
    chosen = [r for r in rows if (r["kind"], r["data_set"], r["arch"]) == (kind, data_set, arch)]
    by_seed: dict[int, float] = {}
    for seed in sorted({r["seed"] for r in chosen}):
        values = [r["auroc"][strange][score] for r in chosen if r["seed"] == seed]
        if len(values) == (1 if kind == "full" else 10):
            by_seed[seed] = mean(values)
    return by_seed


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{_figure(mean(values), digits)}{spread} ({len(values)})"


def _figure(value: float, digits: int = 4) -> str:
    """Never rounded up to 1, which would claim that no image was misjudged."""
    shown = f"{value:.{digits}f}"
    return f"> {1 - 10**-digits:.{digits}f}" if float(shown) == 1 > value else shown


def _name(key: tuple[str, str, str]) -> str:
    kind, data_set, strange = key
    if kind == "one-class":
        return f"{SETS[data_set]}, one class → the others"
    if kind == "left-out":
        return f"{SETS[data_set]} less one digit → that digit"
    return f"{SETS[data_set]} → {SETS.get(strange, strange)}"


def _goal(value: float | None) -> str:
    return "–" if value is None else f"≥ {value:g}"


def _goal_row(rows: Sequence[Row], key: tuple[str, str, str]) -> str:
    mlp, conv, printed = GOALS[key]
    cells = []
    for arch, goal in (("mlp", mlp), ("conv", conv)):
        cells += [_spread(list(_aurocs(rows, key, arch, "fused").values()), 4), _goal(goal)]
    return f"| {_name(key)} | {' | '.join(cells)} | {printed} |"


def _error_row(rows: Sequence[Row], data_set: str) -> str:
    cells = []
    for arch in _ARCHS:
        errors = [
            r["fit"]["mse"]
            for r in rows
            if (r["kind"], r["data_set"], r["arch"]) == ("full", data_set, arch)
        ]
        cells += [_spread(errors, 5), f"≤ {ERROR_GOALS[data_set, arch]:.4f}"]
    return f"| {SETS[data_set]} | {' | '.join(cells)} |"


def _score_row(rows: Sequence[Row], key: tuple[str, str, str], arch: str) -> str:
    cells = [list(_aurocs(rows, key, arch, score).values()) for score in SCORES]
    shown = " | ".join(_figure(mean(values)) if values else "–" for values in cells)
    return f"| {_name(key)} | {arch} | {shown} |"


def _average_rows(rows: Sequence[Row]) -> list[str]:
    """Means over the rows that were measured for both architectures."""
    lines = []
    keys = [key for key in GOALS if all(_aurocs(rows, key, arch, "fused") for arch in _ARCHS)]
    for arch in _ARCHS:
        if keys:
            means = [
                mean(mean(_aurocs(rows, key, arch, score).values()) for key in keys)
                for score in SCORES
            ]
            shown = " | ".join(f"**{value:.4f}**" for value in means)
            lines.append(f"| **mean of the rows** | {arch} | {shown} |")
    return lines


def _class_row(rows: Sequence[Row], key: tuple[str, str, str], arch: str) -> str:
    kind, data_set, strange = key
    cells = []
    for label in range(10):
        values = [
            r["auroc"][strange]["fused"]
            for r in rows
            if (r["kind"], r["data_set"], r["arch"], r["label"]) == (kind, data_set, arch, label)
        ]
        cells.append(f"{mean(values):.3f}" if values else "–")
    return f"| {_name(key)} | {arch} | {' | '.join(cells)} |"
