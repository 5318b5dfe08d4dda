"""`python -m model evaluate`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.commands.common import (
    BUNDLE_HELP,
    DATA_HELP,
    HelpFormatter,
    find_data,
    show_skipped,
    today,
    was_trained_on,
)
from model.engine.engine import Engine
from model.scores.calibration import COMMON_ALPHAS
from model.training.card import model_card
from model.training.data import (
    DataError,
    ImageSet,
    Split,
    load_images,
    load_labels,
    load_unseen,
)
from model.training.evaluation import Anomalies, Evaluation
from model.training.report import number, report

EXTRA: Final = ("matplotlib", "scipy", "sklearn")
"""Packages that no other command needs."""

TRAINED_ON = (
    "The network was trained on these images, or on some of them: on other images its errors are "
    "larger and its false alarms more frequent."
)
CALIBRATED_ON = (
    "The clean images are the calibration images: their false-alarm rates are right by "
    "construction, which proves nothing."
)


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "evaluate",
        help="measure errors, false alarms and anomaly detection, with plots",
        description="Measure a bundle on clean images and on sets of anomalies, next to simple "
        "scores that need no network. Writes evaluation.json, evaluation.md and plots/*.png.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("--bundle", required=True, help=BUNDLE_HELP)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help=f"clean images, only the test images if the set has any: {DATA_HELP}",
    )
    parser.add_argument(
        "--anomalies",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="sets of anomalies, in the same formats; the clean images upside down and mirrored "
        "are added as two more",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory to write to (default: runs/evaluate/NAME-OF-BUNDLE)",
    )
    parser.add_argument(
        "--update-card",
        action="store_true",
        help="also put the results and plots into the bundle's own model card",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write the results."""
    try:  # imported here, so that the other commands work without the extra
        from model.training.evaluate import evaluate, is_calibration_set, observe
        from model.training.plots import save_plots
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise ValueError(
            f"evaluate needs {error.name}, which is not installed: "
            "pip install 'vae-service[evaluate]'"
        ) from error
    console = Console(markup=False, highlight=False)
    directory = find_bundle(arguments.bundle)
    bundle = load_bundle(directory)
    out = arguments.out or Path("runs") / "evaluate" / directory.resolve().name
    path = find_data(arguments.data)
    clean, split = _load(console, path, bundle)
    labels = _labels(path, split, len(clean.images))
    anomalies = [_load(console, find_data(given), bundle)[0] for given in arguments.anomalies or []]
    notes = [TRAINED_ON] if split == "train" and was_trained_on(bundle, clean) else []
    with console.status("") as status:
        observations = observe(
            Engine(bundle, device="cpu"),
            clean,
            anomalies,
            training=_training_images(path, split, bundle),
            labels=labels,
            on_set=lambda name: status.update(f"measuring {name} …"),
        )
        calibration = bundle.calibration
        if calibration and is_calibration_set(calibration, observations.clean.scores):
            notes.append(CALIBRATED_ON)
        evaluation = evaluate(observations, date=today(), notes=notes)
        status.update("drawing …")
        places = [out, directory] if arguments.update_card else [out]
        save_plots([place / "plots" for place in places], observations, evaluation)
    content = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "evaluation.json").write_text(content + "\n", encoding="utf-8")
    (out / "evaluation.md").write_text(report(evaluation), encoding="utf-8")
    if arguments.update_card:
        bundle = replace(bundle, metrics={**bundle.metrics, "evaluation": evaluation.to_json()})
        bundle.save(directory, model_card(bundle))
    _show(console, evaluation)
    console.print(
        f"wrote {out}" + (f", and the card of {directory}" if arguments.update_card else "")
    )
    return 0


def _load(console: Console, path: Path, bundle: Bundle) -> tuple[ImageSet, Split]:
    data, split = load_unseen(path, image_shape=bundle.config.image_shape)
    show_skipped(console, data)
    return data, split


def _labels(path: Path, split: Split, n: int) -> NDArray[np.uint8] | None:
    labels = load_labels(path, split)
    if labels is not None and len(labels) != n:
        raise DataError(f"{path} holds {n:,} {split} images, but {len(labels):,} labels for them")
    return labels


def _training_images(path: Path, split: Split, bundle: Bundle) -> NDArray[np.uint8] | None:
    if split == "train":
        return None
    try:
        return load_images(path, "train", image_shape=bundle.config.image_shape).images
    except DataError:
        return None  # the test images alone are enough for an evaluation


def _show(console: Console, evaluation: Evaluation) -> None:
    """Print the results as tables."""
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
    for anomalies in evaluation.anomalies:
        console.print(_detections_table(anomalies))
    console.print(
        "* share of clean images above the score that 95 % of the anomalies reach\n"
        "↑ ↓ baselines, which need no network: larger (↑) or smaller (↓) values are more anomalous"
    )
    for note in evaluation.notes:
        console.print(f"warning: {note}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(columns[0], min_width=26)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


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
        f"{anomalies.images.name}: {anomalies.images.n:,} images",
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
            f"{number(area.low)}–{number(area.high)}",
            number(rate.value),
            f"{number(rate.low)}–{number(rate.high)}",
            style="" if i else "bold",
        )
    return table
