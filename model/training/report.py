"""An evaluation in Markdown: for its own file, and for the model card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from model.scores.calibration import COMMON_ALPHAS
from model.training.evaluation import Detection, Estimate, Evaluation, FalseAlarms

PICTURES: Final = {
    "reconstructions": "Images above, their reconstructions through z = μ below.",
    "samples": "Decoded from z ~ N(0, I).",
    "p_values": "p-values of the clean images: exchangeable ones keep to the diagonal.",
    "roc": "ROC of the default score; on the right, false alarms on a logarithmic scale.",
    "histograms": "The default score of clean images and of anomalies.",
    "latent_scatter": "Where the clean images lie in the latent space.",
    "traversals": "One latent dimension at a time, from −3 to 3; the others as in one image.",
    "manifold": "The whole latent space: decoded from a grid over the quantiles of N(0, I).",
}
"""The plots there may be, by the names of their files, and what they show."""


def picture_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Those of `PICTURES` that this evaluation has."""
    missing = set()
    if evaluation.false_alarms is None:
        missing.add("p_values")
    if evaluation.latent_size != 2:
        missing.add("manifold")
    return tuple(name for name in PICTURES if name not in missing)


def report(evaluation: Evaluation) -> str:
    """A Markdown file; its pictures lie in plots/."""
    heading = [f"# Evaluation of {evaluation.bundle}", "", f"Version `{evaluation.version}`.", ""]
    return "\n".join([*heading, *sections(evaluation)])


def sections(evaluation: Evaluation, *, alarms_are_current: bool = True) -> list[str]:
    """Lines of Markdown, from the second level of headings.

    With `alarms_are_current` false, a later calibration has made the false-alarm rates those of
    another one, and they are left out.
    """
    pictures = set(picture_names(evaluation))
    if not alarms_are_current:
        pictures.discard("p_values")

    def picture(name: str) -> list[str]:
        if name not in pictures:
            return []
        return [f"![{PICTURES[name]}](plots/{name}.png)", "", f"*{PICTURES[name]}*", ""]

    clean = evaluation.clean
    lines = [
        "## How well it fits",
        "",
        f"Measured on {evaluation.date} with {clean.n:,} clean images of {_cell(clean.name)}, by "
        "`python -m model evaluate`.",
        "",
        *(line for note in evaluation.notes for line in (f"> **Note:** {note}", "")),
        *fit_table(evaluation),
        "",
    ]
    lines += [*picture("reconstructions"), *picture("samples")]
    lines += ["## False alarms", ""]
    if evaluation.false_alarms is None:
        lines += ["There is no calibration, so there are no p-values and no false-alarm rates.", ""]
    elif not alarms_are_current:
        lines += [
            "The bundle has been calibrated anew since it was evaluated: evaluate it again to see "
            "its false-alarm rates.",
            "",
        ]
    else:
        lines += [*_alarms(evaluation, evaluation.false_alarms), *picture("p_values")]
    lines += ["## Anomalies", "", *_overview(evaluation), ""]
    lines += [*picture("roc"), *picture("histograms")]
    for found in evaluation.anomalies:
        lines += [f"### {_cell(found.images.name)}, {found.images.n:,} images", ""]
        lines += [*_detections(found.detections), ""]
    lines += ["## Latent space", "", _active(evaluation), ""]
    for name in ("latent_scatter", "traversals", "manifold"):
        lines += picture(name)
    return lines


def fit_table(evaluation: Evaluation) -> list[str]:
    """How well the clean images are encoded and decoded."""
    fit, elbo = evaluation.fit, evaluation.negative_elbo
    return _table(
        "images | n | MSE, z = μ | MSE, z drawn | KL, nats | −ELBO, nats | active latents",
        [
            f"{_cell(evaluation.clean.name)} | {evaluation.clean.n:,} | {fit.mse:.5f} | "
            f"{fit.mse_sampled:.5f} | {fit.kl:.2f} | {'–' if elbo is None else f'{elbo:.1f}'} | "
            f"{evaluation.active_units} of {evaluation.latent_size}"
        ],
    )


def _active(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.active_units} of {evaluation.latent_size} latent dimensions are active: the "
        "variance of their mean over the images is above 0.01 (Burda et al. 2016)."
    )


def _alarms(evaluation: Evaluation, alarms: FalseAlarms) -> list[str]:
    clean, calibration = evaluation.clean, alarms.calibration
    heads = " | ".join(f"α = {alpha:g}" for alpha in COMMON_ALPHAS)
    rows = []
    scores = dict.fromkeys(rate.score for rate in alarms.rates)
    for score in scores:
        rates = " | ".join(f"{r.rate:.4f}" for r in alarms.rates if r.score == score)
        rows.append(f"`{score}` | {rates}")
    spreads = [f"{alpha:.4f} ± {alarms.spread(alpha, clean.n):.4f}" for alpha in COMMON_ALPHAS]
    rows.append(f"what exchangeable sets give, 95 % | {' | '.join(spreads)}")
    lines = [
        f"Share of the {clean.n:,} clean images of {clean.name} with `p_value` ≤ α, calibrated on "
        f"{calibration.n:,} images ({calibration.data_set}, {calibration.date}).",
        "",
        *_table(f"score | {heads}", rows),
        "",
    ]
    if alarms.exchangeable:
        halves = " and ".join(
            f"{rate.mean:.4f} ± {rate.std:.4f} at α = {rate.alpha:g}"
            for rate in alarms.exchangeable
        )
        lines += [
            "Where both sets are exchangeable for sure, random halves of the calibration's own "
            f"images, `{alarms.rates[0].score}` gives {halves} (mean and standard deviation of "
            f"{alarms.halvings} halvings). How far the table is from that tells how far the clean "
            "images are from the calibration's.",
            "",
        ]
    return lines


def _overview(evaluation: Evaluation) -> list[str]:
    rows = []
    for found in evaluation.anomalies:
        rival, default = found.best_rival, found.default
        rows.append(
            f"{_cell(found.images.name)} | {found.images.n:,} | {with_interval(default.auroc)} | "
            f"{with_interval(default.fpr_at_95_tpr)} | {rival.score}, {number(rival.auroc.value)}"
        )
    heads = "anomalies | n | AUROC | FPR at 95 % TPR | best rival, AUROC"
    return [
        f"How well `{evaluation.anomalies[0].default.score}`, the default score, tells anomalies "
        f"from the {evaluation.clean.n:,} clean images of {evaluation.clean.name}.",
        "",
        *_table(heads, rows),
        "",
        "In brackets: 95 % intervals, of the AUROC DeLong's, of the false-positive rate the "
        "bootstrap's. The rivals need no network. They may point either way: theirs is the larger "
        "of AUROC and 1 − AUROC. Upside down and mirrored are the clean images themselves, turned; "
        "some of them look the same.",
    ]


def _detections(detections: Iterable[Detection]) -> list[str]:
    rows = [
        f"{score_name(found)} | {with_interval(found.auroc)} | {with_interval(found.fpr_at_95_tpr)}"
        for found in detections
    ]
    return _table("score | AUROC | FPR at 95 % TPR", rows)


def score_name(found: Detection) -> str:
    """A score in code type; a rival in words, with the way it points."""
    if not found.is_rival:
        return f"`{found.score}`"
    return f"rival: {found.score}, {'smaller' if found.reversed else 'larger'} is stranger"


def number(value: float) -> str:
    """Four decimals; what is not 1 never looks like it.

    >>> number(0.98765), number(0.999999), number(1.0)
    ('0.9877', '0.9999', '1.0000')
    """
    return f"{value if value == 1 else min(value, 0.9999):.4f}"


def with_interval(estimate: Estimate) -> str:
    """A figure and its interval."""
    return f"{number(estimate.value)} ({number(estimate.low)}–{number(estimate.high)})"


def _table(heads: str, rows: Iterable[str]) -> list[str]:
    rule = " | ".join(["---", *["---:"] * heads.count(" | ")])
    return [f"| {row} |" for row in (heads, rule, *rows)]


def _cell(name: str) -> str:
    """A data set's name, which may hold what would end a table's cell."""
    return " ".join(name.split()).replace("|", r"\|")
