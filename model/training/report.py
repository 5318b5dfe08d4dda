"""An evaluation as Markdown, for a file of its own and for the model card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from model.scores.calibration import COMMON_ALPHAS
from model.training.evaluation import Detection, Estimate, Evaluation, FalseAlarms

PICTURES: Final = {
    "reconstructions": "Images above, their reconstructions from z = μ below.",
    "samples": "Images decoded from z ~ N(0, I).",
    "p_values": "p-values of the clean images. Exchangeable images would follow the diagonal.",
    "roc": "ROC curves of the default score. On the right, false positives on a log scale.",
    "histograms": "Distribution of the default score over clean images and over anomalies.",
    "latent_scatter": "The clean images in the latent space.",
    "traversals": "One latent dimension at a time, varied from −3 to 3; the rest as in one image.",
    "manifold": "The whole latent space, decoded on a grid over the quantiles of N(0, I).",
}
"""All plots: file name without suffix, and caption."""


def picture_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Names of the plots in `PICTURES` that this evaluation has."""
    missing = set()
    if evaluation.false_alarms is None:
        missing.add("p_values")
    if evaluation.latent_size != 2:
        missing.add("manifold")
    return tuple(name for name in PICTURES if name not in missing)


def report(evaluation: Evaluation) -> str:
    """The whole evaluation as a Markdown file, which expects its plots in plots/."""
    heading = [f"# Evaluation of {evaluation.bundle}", "", f"Version `{evaluation.version}`.", ""]
    return "\n".join([*heading, *sections(evaluation)])


def sections(evaluation: Evaluation, *, alarms_are_current: bool = True) -> list[str]:
    """Lines of Markdown, with headings from the second level down.

    Without `alarms_are_current`, the bundle has been calibrated again since the evaluation, so the
    false-alarm rates are left out.
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
        "## Goodness of fit",
        "",
        f"Measured on {evaluation.date} by `python -m model evaluate`, on {clean.n:,} clean images "
        f"from {_cell(clean.name)}.",
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
    for anomalies in evaluation.anomalies:
        images = anomalies.images
        lines += [f"### {_cell(images.name)}, {images.n:,} images", ""]
        lines += [*_detections(anomalies.detections), ""]
    lines += ["## Latent space", "", _active(evaluation), ""]
    for name in ("latent_scatter", "traversals", "manifold"):
        lines += picture(name)
    return lines


def fit_table(evaluation: Evaluation) -> list[str]:
    """Lines of a table of the errors on the clean images."""
    fit, elbo = evaluation.fit, evaluation.negative_elbo
    return _table(
        "images | n | MSE, z = μ | MSE, z sampled | KL, nats | −ELBO, nats | active latents",
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
    rows.append(f"expected for exchangeable sets, 95 % | {' | '.join(spreads)}")
    lines = [
        f"Share of the {clean.n:,} clean images from {clean.name} with `p_value` ≤ α, calibrated "
        f"on {calibration.n:,} images ({calibration.data_set}, {calibration.date}).",
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
            "For comparison, random halves of the calibration images are certain to be "
            f"exchangeable. Calibrated on one and measured on the other, "
            f"`{alarms.rates[0].score}` gives {halves} (mean and standard deviation over "
            f"{alarms.halvings} halvings). The further the table is from these rates, the more the "
            "clean images differ from the calibration images.",
            "",
        ]
    return lines


def _overview(evaluation: Evaluation) -> list[str]:
    rows = []
    for anomalies in evaluation.anomalies:
        images, default, baseline = anomalies.images, anomalies.default, anomalies.best_baseline
        rows.append(
            f"{_cell(images.name)} | {images.n:,} | {with_interval(default.auroc)} | "
            f"{with_interval(default.fpr_at_95_tpr)} | "
            f"{baseline.score}, {number(baseline.auroc.value)}"
        )
    heads = "anomalies | n | AUROC | FPR at 95 % TPR | best baseline, AUROC"
    return [
        f"How well `{evaluation.anomalies[0].default.score}`, the default score, separates "
        f"anomalies from the {evaluation.clean.n:,} clean images from {evaluation.clean.name}.",
        "",
        *_table(heads, rows),
        "",
        "Parentheses hold 95 % intervals, by DeLong's method for the AUROC and by the bootstrap "
        "for the false-positive rate. The baselines need no network. Either end of a baseline may "
        "be the anomalous one, so the larger of AUROC and 1 − AUROC counts. Upside down and "
        "mirrored are the clean images themselves, flipped; some of them look the same as before.",
    ]


def _detections(detections: Iterable[Detection]) -> list[str]:
    rows = [
        f"{score_name(detection)} | {with_interval(detection.auroc)} | "
        f"{with_interval(detection.fpr_at_95_tpr)}"
        for detection in detections
    ]
    return _table("score | AUROC | FPR at 95 % TPR", rows)


def score_name(detection: Detection) -> str:
    """A score's name as code; a baseline's in words, with its anomalous end."""
    if not detection.is_baseline:
        return f"`{detection.score}`"
    anomalous_end = "smaller" if detection.reversed else "larger"
    return f"baseline: {detection.score}, {anomalous_end} is more anomalous"


def number(value: float) -> str:
    """Format with four decimals, but never round up to 1.

    >>> number(0.98765), number(0.999999), number(1.0)
    ('0.9877', '0.9999', '1.0000')
    """
    return f"{value if value == 1 else min(value, 0.9999):.4f}"


def with_interval(estimate: Estimate) -> str:
    """A figure, with its interval in parentheses."""
    return f"{number(estimate.value)} ({number(estimate.low)}–{number(estimate.high)})"


def _table(heads: str, rows: Iterable[str]) -> list[str]:
    rule = " | ".join(["---", *["---:"] * heads.count(" | ")])
    return [f"| {row} |" for row in (heads, rule, *rows)]


def _cell(name: str) -> str:
    """Escape a data set's name for a table cell."""
    return " ".join(name.split()).replace("|", r"\|")
