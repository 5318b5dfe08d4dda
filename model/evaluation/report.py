"""An evaluation as Markdown, for a file of its own and for the model card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from model.datasets.folder import numbered
from model.evaluation.figures import Anomalies, Detection, Estimate, Evaluation, FalseAlarms
from model.evaluation.judgement import judgement
from model.scores.calibration import COMMON_ALPHAS

PICTURES: Final = {
    "reconstructions": "Images above, their reconstructions from z = μ below.",
    "samples": "Images decoded from z ~ N(0, I).",
    "p_values": "p-values of the clean images. Exchangeable images would follow the diagonal.",
    "roc": "ROC curves of the default score. On the right, false positives on a log scale.",
    "histograms": "Distribution of the default score over clean images and over anomalies.",
    "maps": "Anomalies that scored highest, each folder in turn, and a few clean images: each as "
    "the network sees it, and with its map over it. Clear: the median of clean images; full "
    "colour: their 99.9 % quantile and above. Blue: the outline of the mask.",
    "mistakes": "The anomalies that scored lowest, and the clean images that scored highest, as "
    "the network sees them. Red: the verdict is wrong.",
    "latent_scatter": "The clean images in the latent space.",
    "traversals": "One latent dimension at a time, varied from −3 to 3; the rest as in one image.",
    "manifold": "The whole latent space, decoded on a grid over the quantiles of N(0, I).",
}
"""All plots: file name without suffix, and caption."""


FLIPS: Final = ("upside down", "mirrored")
"""Sets that are made of the clean images."""

FLIPPED: Final = (
    "Upside down and mirrored are the clean images themselves, flipped; some of them look the same "
    "as before."
)


def picture_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Names of the plots in `PICTURES` that this evaluation has."""
    missing = set()
    if evaluation.false_alarms is None:
        missing.add("p_values")
    if evaluation.latent_size != 2:
        missing.add("manifold")
    if not evaluation.has_mistakes:
        missing.add("mistakes")
    if not evaluation.has_maps:
        missing.add("maps")
    return tuple(name for name in PICTURES if name not in missing)


def report(evaluation: Evaluation) -> str:
    """The whole evaluation as a Markdown file, which expects its plots in plots/.

    If the network is no better than a baseline, that comes first.
    """
    verdicts = [line for sentence in judgement(evaluation) for line in (sentence, "")]
    heading = [f"# Evaluation of {evaluation.bundle}", "", f"Version `{evaluation.version}`.", ""]
    return "\n".join([*verdicts, *heading, *sections(evaluation)])


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
    lines += ["## Anomalies", ""]
    lines += [line for sentence in judgement(evaluation) for line in (f"> {sentence}", "")]
    lines += [*_overview(evaluation), ""]
    lines += [*_localization(evaluation), *picture("maps")]
    lines += [*picture("roc"), *picture("histograms"), *picture("mistakes")]
    for anomalies in evaluation.anomalies:
        images = anomalies.images
        kind = f" ({_cell(anomalies.part_of)})" if anomalies.part_of else ""
        lines += [f"### {_cell(images.name)}{kind}, {numbered(images.n, 'image')}", ""]
        lines += [*_detections(anomalies.detections), ""]
    lines += ["## Latent space", "", _active(evaluation), ""]
    for name in ("latent_scatter", "traversals", "manifold"):
        lines += picture(name)
    return lines


def fit_table(evaluation: Evaluation) -> list[str]:
    """Lines of a table of the errors on the clean images."""
    fit, elbo = evaluation.fit, evaluation.negative_elbo
    return table(
        "images | n | MSE, z = μ | MSE, z sampled | KL, nats | −ELBO, nats | active latents",
        [
            f"{_cell(evaluation.clean.name)} | {evaluation.clean.n:,} | {fit.mse:.5f} | "
            f"{fit.mse_sampled:.5f} | {fit.kl:.2f} | {'–' if elbo is None else f'{elbo:.1f}'} | "
            f"{evaluation.active_units} of {evaluation.latent_size}"
        ],
    )


def _active(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.active_units} of {numbered(evaluation.latent_size, 'latent dimension')} "
        f"{'is' if evaluation.active_units == 1 else 'are'} active: the variance of their mean "
        "over the images is above 0.01 (Burda et al. 2016)."
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
        f"on {numbered(calibration.n, 'image')} ({calibration.data_set}, {calibration.date}).",
        "",
        *table(f"score | {heads}", rows),
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
    has_flagged = any(anomalies.flagged is not None for anomalies in evaluation.anomalies)
    for anomalies in evaluation.anomalies:
        images, default, baseline = anomalies.images, anomalies.default, anomalies.best_baseline
        flagged = f"{percent(anomalies.flagged)} | " if has_flagged else ""
        rows.append(
            f"{set_cell(anomalies)} | {images.n:,} | {with_interval(default.auroc)} | "
            f"{with_interval(default.fpr_at_95_tpr)} | {flagged}"
            f"{baseline.score}, {number(baseline.auroc.value)}"
        )
    flagged = f"flagged at α = {COMMON_ALPHAS[0]:g} | " if has_flagged else ""
    # Older evaluations do not record which sets are derived.
    derived = [a for a in evaluation.anomalies if a.derived or a.images.name in FLIPS]
    flips = f" {FLIPPED}" if derived else ""
    heads = f"anomalies | n | AUROC | FPR at 95 % TPR | {flagged}best baseline, AUROC"
    return [
        f"How well `{evaluation.anomalies[0].default.score}`, the default score, separates "
        f"anomalies from the {evaluation.clean.n:,} clean images from {evaluation.clean.name}.",
        "",
        *table(heads, rows),
        "",
        "Parentheses hold 95 % intervals, by DeLong's method for the AUROC and by the bootstrap "
        "for the false-positive rate. The baselines need no network. Either end of a baseline may "
        f"be the anomalous one, so the larger of AUROC and 1 − AUROC counts.{flips}",
    ]


def _localization(evaluation: Evaluation) -> list[str]:
    """Lines about where the defects are; none for an evaluation without masks."""
    rows = []
    for anomalies in evaluation.anomalies:
        if (found := anomalies.localization) is None:
            continue
        peak = found.peak_in_defect
        rows.append(
            f"{set_cell(anomalies)} | {found.n:,} | {found.regions:,} | "
            f"{number(found.pixel_auroc)} | {number(found.region_overlap)} | {percent(peak.value)} "
            f"({percent(peak.low)}–{percent(peak.high)}) | {percent(found.defect_share)}"
        )
    if not rows:
        return []
    heads = "anomalies | masks | regions | pixel AUROC | per-region overlap"
    lines = [
        "### Where the defects are",
        "",
        "The map of the default score, which the service answers with `map=true`, by the masks.",
        "",
        *table(f"{heads} | peak in the defect | by chance", rows),
        "",
        "Pixels of the clean images count as pixels without a defect (Bergmann et al. 2021). "
        "Per-region overlap is the mean share of a connected region that is found, over "
        "false-positive rates up to 0.3 (Bergmann et al. 2020). The last columns are the share of "
        "images whose map is largest in the defect, and the mean share of the pixels that are "
        "defects, which a random peak would reach. All at the network's resolution, at which a "
        "cell with any defect pixel is a defect.",
        "",
    ]
    without = sum(
        found.without_mask
        for anomalies in evaluation.anomalies
        if not anomalies.part_of and (found := anomalies.localization) is not None
    )
    if without:
        lines += [
            numbered(without, "anomaly has", "anomalies have")
            + f" no mask, or an empty one, and {'does' if without == 1 else 'do'} not count here.",
            "",
        ]
    return lines


def set_cell(anomalies: Anomalies) -> str:
    """A set's name for a table; that of a kind is marked, as it stands below its set."""
    return ("· " if anomalies.part_of else "") + _cell(anomalies.images.name)


def percent(value: float | None) -> str:
    """A share in per cent, to a tenth where it is small; a dash for None.

    >>> percent(0.123), percent(0.0123), percent(None)
    ('12 %', '1.2 %', '–')
    """
    if value is None:
        return "–"
    return f"{100 * value:.{1 if 0 < value < 0.0995 else 0}f} %"


def _detections(detections: Iterable[Detection]) -> list[str]:
    rows = [
        f"{score_name(detection)} | {with_interval(detection.auroc)} | "
        f"{with_interval(detection.fpr_at_95_tpr)}"
        for detection in detections
    ]
    return table("score | AUROC | FPR at 95 % TPR", rows)


def score_name(detection: Detection) -> str:
    """A score's name as code; a baseline's in words, with its anomalous end."""
    if not detection.is_baseline:
        return f"`{detection.score}`"
    anomalous_end = "smaller" if detection.reversed else "larger"
    return f"baseline: {detection.score}, {anomalous_end} is more anomalous"


def number(value: float, digits: int = 4) -> str:
    """Format with four decimals, or `digits`, but never round up to 1.

    >>> number(0.98765), number(0.999999), number(1.0), number(0.9999, 3)
    ('0.9877', '0.9999', '1.0000', '0.999')
    """
    return f"{value if value == 1 else min(value, 1 - 10**-digits):.{digits}f}"


def with_interval(estimate: Estimate) -> str:
    """A figure, with its interval in parentheses."""
    return f"{number(estimate.value)} ({number(estimate.low)}–{number(estimate.high)})"


def table(heads: str, rows: Iterable[str]) -> list[str]:
    """Lines of a Markdown table, with cells separated by ` | `; all but the first hold numbers."""
    rule = " | ".join(["---", *["---:"] * heads.count(" | ")])
    return [f"| {row} |" for row in (heads, rule, *rows)]


def _cell(name: str) -> str:
    """Escape a data set's name for a table cell."""
    return " ".join(name.split()).replace("|", r"\|")
