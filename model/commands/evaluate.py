"""`python -m model evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.commands.common import (
    BUNDLE_HELP,
    DATA_HELP,
    HelpFormatter,
    standard_output,
    today,
    was_trained_on,
)
from model.commands.evaluation_inputs import Inputs, read_inputs
from model.commands.evaluation_tables import show_comparison, show_evaluation, show_judgement
from model.commands.progress import Stage
from model.datasets.folder import numbered
from model.engine.engine import Engine
from model.evaluation.card import model_card
from model.evaluation.figures import Evaluation
from model.evaluation.judgement import excess_of_alarms, judgement
from model.evaluation.report import report
from model.images.copies import pixel_hashes
from model.images.preprocessing import Preprocessing

if TYPE_CHECKING:  # it needs the extra
    from model.evaluation.observations import Observations

EXTRA: Final = ("matplotlib", "scipy", "sklearn")
"""Packages that no other command needs."""

EVALUATIONS: Final = Path("runs") / "evaluate"

Reading = tuple[tuple[int, int, int], Preprocessing]
"""The shape (C, H, W) and the rules by which a bundle's images are read."""

TRAINED_ON = (
    "The network was trained on {which}: on other images its errors are larger and its false "
    "alarms more frequent."
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
        description="Measure bundles on clean images and on sets of anomalies, next to simple "
        "scores that need no network. Writes evaluation.md, evaluation.json, scores.csv and "
        "plots/*.png; for several bundles also comparison.md and comparison.json.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument(
        "--bundle",
        required=True,
        nargs="+",
        metavar="BUNDLE",
        help=f"{BUNDLE_HELP}; several are compared",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help=f"clean images, only the test images if the set has any: {DATA_HELP}",
    )
    parser.add_argument(
        "--normal-label",
        type=int,
        metavar="N",
        help="take only those of the clean images that have this label",
    )
    parser.add_argument(
        "--anomalies",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="sets of anomalies, in the same formats; each subfolder is measured as a kind of its "
        "own too (without any, the clean images upside down and mirrored count as anomalies)",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="masks of the defects, named like the images, to measure where the defects are found; "
        "masks beside the images are found without this",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory to write to; for several bundles, each has a directory in it (default: "
        "runs/evaluate/NAME-OF-BUNDLE, for several runs/evaluate)",
    )
    parser.add_argument(
        "--update-card",
        action="store_true",
        help="also put the results and plots into each bundle's own model card",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write the results."""
    try:  # imported here, so that the other commands work without the extra
        from model.evaluation.comparison import Contender, compare
        from model.evaluation.observations import observe
        from model.evaluation.plots import save_plots
        from model.evaluation.score_table import write_scores
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise ValueError(
            f"evaluate needs {error.name}, which is not installed: "
            "pip install 'vae-service[evaluate]'"
        ) from error
    console = standard_output()
    directories = [find_bundle(given) for given in arguments.bundle]
    bundles = [load_bundle(directory) for directory in directories]
    names = _names(directories)
    out, places = _places(names, arguments.out)
    # The judgement comes first, so what was read is printed after it, or before an error.
    reading = StringIO()
    contenders = []
    try:
        with Stage(console, "reading the images"):
            inputs = _read(standard_output(reading), arguments, bundles)
        for name, directory, bundle, place in zip(names, directories, bundles, places, strict=True):
            found = inputs[bundle.config.image_shape, bundle.preprocessing]
            with Stage(console, bundle.name) as status:
                observations = observe(
                    Engine(bundle, device="cpu"),
                    found.clean,
                    found.anomalies,
                    training=found.training,
                    labels=found.clean.labels,
                    masks=found.masks,
                    on_set=partial(_report, status, bundle.name),
                )
                evaluation = _evaluate(observations, found)
                status.update(f"{bundle.name}: drawing …")
                targets = [place, directory] if arguments.update_card else [place]
                save_plots([target / "plots" for target in targets], observations, evaluation)
            write_scores(place / "scores.csv", observations)
            _write_json(place / "evaluation.json", evaluation.to_json())
            (place / "evaluation.md").write_text(report(evaluation), encoding="utf-8")
            if arguments.update_card:
                metrics = {**bundle.metrics, "evaluation": evaluation.to_json()}
                carded = replace(bundle, metrics=metrics)
                carded.save(directory, model_card(carded))
            contenders.append(Contender.of(name, observations, evaluation))
    except Exception:
        print(reading.getvalue(), end="")
        raise
    if len(contenders) == 1:
        evaluation = contenders[0].evaluation
        show_judgement(console, judgement(evaluation))
        print(reading.getvalue())
        show_evaluation(console, evaluation)
    else:
        comparison = compare(contenders)
        _write_json(out / "comparison.json", comparison.to_json())
        (out / "comparison.md").write_text(comparison.markdown(), encoding="utf-8")
        show_judgement(console, comparison.judgements())
        print(reading.getvalue())
        show_comparison(console, comparison)
    cards = ", ".join(map(str, directories))
    noun = "card" if len(directories) == 1 else "cards"
    console.print(f"wrote {out}" + f", and the {noun} of {cards}" * arguments.update_card)
    return 0


def _names(directories: Sequence[Path]) -> list[str]:
    """The bundles' directories' names, made unique. Raises `ValueError` for one given twice."""
    names: list[str] = []
    seen: set[Path] = set()
    for directory in directories:
        resolved = directory.resolve()
        if resolved in seen:
            raise ValueError(f"--bundle names {directory} twice")
        seen.add(resolved)
        name, number = resolved.name, 1
        while name in names:
            number += 1
            name = f"{resolved.name}-{number}"
        names.append(name)
    return names


def _places(names: Sequence[str], out: Path | None) -> tuple[Path, list[Path]]:
    """Where results go: all of them, and each bundle's.

    Raises `ValueError` if one of several bundles lies where its results would.
    """
    if len(names) == 1:
        place = out or EVALUATIONS / names[0]
        return place, [place]
    out = out or EVALUATIONS
    places = [out / name for name in names]
    for place in places:
        if (place / "config.json").exists():
            raise ValueError(f"{place} holds a bundle, not results: choose another --out")
    return out, places


def _read(
    console: Console, arguments: argparse.Namespace, bundles: Sequence[Bundle]
) -> dict[Reading, Inputs]:
    """The images in each way that a bundle needs them. What was read is printed once."""
    inputs: dict[Reading, Inputs] = {}
    for reading in dict.fromkeys((b.config.image_shape, b.preprocessing) for b in bundles):
        inputs[reading] = read_inputs(
            Console(file=StringIO()) if inputs else console,
            *reading,
            data=arguments.data,
            anomalies=arguments.anomalies,
            masks=arguments.masks,
            normal_label=arguments.normal_label,
        )
    shapes = dict.fromkeys(shape for shape, _ in inputs)
    if len(shapes) > 1:
        listed = " and ".join("×".join(map(str, shape)) for shape in shapes)
        console.print(f"the same files for all bundles, as {listed} (C×H×W)")
    return inputs


def _report(status: Stage, bundle: str, name: str) -> None:
    status.update(f"{bundle}: measuring {name} …")


def _evaluate(observations: Observations, inputs: Inputs) -> Evaluation:
    from model.evaluation.evaluate import evaluate, is_calibration_set

    bundle, calibration = observations.engine.bundle, observations.engine.bundle.calibration
    notes = []
    clean = inputs.clean
    if bundle.trained_on is not None:
        known = int(np.isin(pixel_hashes(clean.images), bundle.trained_on).sum())
        if known:
            which = f"{known:,} of these {numbered(len(clean.images), 'image')}"
            notes.append(TRAINED_ON.format(which=which))
    elif inputs.split == "train" and was_trained_on(bundle, clean):
        notes.append(TRAINED_ON.format(which="these images, or on some of them"))
    if calibration and is_calibration_set(calibration, observations.clean.scores):
        notes.append(CALIBRATED_ON)
    evaluation = evaluate(observations, date=today(), notes=notes)
    excess = excess_of_alarms(evaluation)
    return replace(evaluation, notes=(*notes, excess)) if excess else evaluation


def _write_json(path: Path, value: dict[str, Any]) -> None:
    content = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(content + "\n", encoding="utf-8")
