"""`python -m model calibrate`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from model.bundle.bundle import PRETRAINED, Bundle, find_bundle, load_bundle
from model.commands.common import (
    BUNDLE_HELP,
    DATA_HELP,
    HelpFormatter,
    check_target,
    find_data,
    standard_output,
    today,
    warn_if_few,
    was_trained_on,
)
from model.commands.progress import Stage
from model.commands.reading import show_read
from model.datasets.folder import numbered, some
from model.datasets.load import DataError, ImageSet, Split, load_images, load_unseen, take_label
from model.evaluation.card import model_card
from model.images.copies import pixel_hashes, without_copies
from model.scores.calibration import COMMON_ALPHAS
from model.training.calibrate import calibrated
from model.training.latents import with_latents


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "calibrate",
        help="calibrate a bundle's p-values on your own clean images",
        description="Score clean images that the network was not trained on, and store the scores "
        "in the bundle. Its p-values and thresholds are then about images like these. The weights "
        "do not change. A bundle without posterior means of images, as older versions made them, "
        "gets those of some of these images.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("--bundle", required=True, help=BUNDLE_HELP)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help=f"clean images: {DATA_HELP}"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory to write to (default: the bundle's own, unless it is one that ships)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle in --out")
    parser.add_argument(
        "--split",
        choices=get_args(Split),
        help="which images of a data set to use (default: the test images, or all if it has none)",
    )
    parser.add_argument(
        "--normal-label",
        type=int,
        metavar="N",
        help="use only the images with this label, in data sets that have labels",
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, and write the bundle."""
    console = standard_output()
    directory = find_bundle(arguments.bundle)
    out: Path = arguments.out or directory
    if out.resolve() != directory.resolve():
        check_target(out, overwrite=arguments.overwrite)
    if out.resolve().is_relative_to(PRETRAINED):
        raise ValueError(
            f"{arguments.bundle!r} ships with the service and is not changed; use --out DIR"
        )
    bundle = load_bundle(directory)
    path = find_data(arguments.data)
    shape, preprocessing = bundle.config.image_shape, bundle.preprocessing
    with Stage(console, "reading the images"):
        if split := arguments.split:
            data = load_images(path, split, image_shape=shape, preprocessing=preprocessing)
        else:
            data, split = load_unseen(path, image_shape=shape, preprocessing=preprocessing)
    if arguments.normal_label is not None:
        data = take_label(data, arguments.normal_label)
    show_read(console, data)
    data = _unseen(console, bundle, data)
    if bundle.trained_on is None and split == "train" and was_trained_on(bundle, data):
        console.print(
            "warning: the network was trained on these images, so p-values of other images will be "
            "too small and false alarms too frequent"
        )
    if (old := bundle.calibration) is not None:
        console.print(f"replaces the calibration on {numbered(old.n, 'image')}: {old.data_set}")
    kept = bundle.latents
    with Stage(console, f"scoring {numbered(len(data.images), 'image')}"):
        bundle = calibrated(bundle, data.images, data_set=data.name, date=today())
        if kept is None:
            bundle = with_latents(bundle, data, np.arange(len(data.images)), "images calibrated on")
    if kept is None and (added := bundle.latents) is not None:
        console.print(
            "the bundle kept no posterior means of images: added those of "
            f"{numbered(added.n, 'image')} of {data.name}"
        )
    bundle.save(out, model_card(bundle))
    if out != directory and (directory / "plots").is_dir():  # the model card shows them
        shutil.copytree(directory / "plots", out / "plots", dirs_exist_ok=True)
    warn_if_few(console, len(data.images))
    assert bundle.calibration is not None  # noqa: S101 - for mypy: it was just calibrated
    name = next(iter(bundle.calibration.scores))
    for alpha in COMMON_ALPHAS:
        threshold = bundle.calibration.threshold(name, alpha)
        if threshold is not None:
            console.print(
                f"at alpha {alpha:g}, an image with {name} above {threshold:.4g} is an anomaly"
            )
    console.print(
        f"wrote {out}, calibrated on {numbered(len(data.images), 'image')} of {data.name}"
    )
    return 0


def _unseen(console: Console, bundle: Bundle, data: ImageSet) -> ImageSet:
    """The images that the network was not trained on, each once. Says how many are left out.

    Raises `DataError` if there are none.
    """
    hashes = pixel_hashes(data.images)
    kept = without_copies(hashes)
    if copies := len(hashes) - len(kept):
        console.print(f"left out {numbered(copies, 'duplicate')}, the same pixel by pixel")
    if bundle.trained_on is None:
        console.print(
            "warning: this bundle does not record which images it was trained on, so any of them "
            "among these are not left out"
        )
        return data.take(kept)
    known = np.isin(hashes[kept], bundle.trained_on)
    if known.all():
        raise DataError(
            f"the network was trained on every image of {data.name}; calibrate it on others"
        )
    if known.any():
        console.print(
            f"left out {numbered(int(known.sum()), 'image')} that the network was trained on "
            f"({some([data.names[i] for i in kept[known]])})"
        )
    return data.take(kept[~known])
