"""`python -m model train`."""

from __future__ import annotations

import argparse
import os
import platform
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch

from model.bundle.bundle import Bundle
from model.commands.common import (
    CHECKPOINT_NAME,
    DATA_HELP,
    INTERRUPTED,
    HelpFormatter,
    check_limits,
    check_name,
    check_target,
    find_data,
    standard_output,
    today,
    warn_if_few,
)
from model.commands.progress import TrainingProgress
from model.commands.training_images import (
    TrainingImages,
    group_of_each,
    plan,
    read_training_images,
    warn_of_near_copies,
)
from model.config import MAX_WIDTH, Architecture, Head, VAEConfig
from model.datasets.folder import numbered
from model.engine.device import resolve_device
from model.evaluation.card import model_card
from model.training.calibrate import calibrated, calibration_by_dtype
from model.training.chosen import CONV_LATENT_SIZE, PHOTO_SIDE, SMALL_SIDE, suitable_config
from model.training.cross_fit import as_bundle, cross_scores, on_common_scale, train_folds
from model.training.goodness_of_fit import evaluate_fit
from model.training.onnx_export import with_graphs
from model.training.split import MAX_CROSS_FITTED, Split
from model.training.train import BATCH_SIZES, MIN_STEPS, Trained, TrainOptions, train
from model.training.verdict import Verdict, as_metrics, judge

MAX_SIDE: Final = 2048
"""Longest side of a network's images."""

LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "folds": (1, 1_000),
    "latent_size": (1, MAX_WIDTH),
    "steps": (1, 100_000_000),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-9, 1),
    "augment": (0, 0.5),
    "seed": (0, 2**32 - 1),
    "threads": (1, 1024),
}
"""Minimum and maximum of the numeric options; `VAEConfig` checks the other sizes of the network."""

RECIPES: Final = Path(__file__).parents[1] / "training" / "recipes"
"""The options that the shipped bundles were trained with, one file each."""


def add(commands: Any) -> None:
    """Add the command and its options."""
    data = os.environ.get("VAE_DATA_DIR")
    options, config = TrainOptions(), VAEConfig()
    parser = commands.add_parser(
        "train",
        help="train a network on images and write a bundle",
        description="Train a network on normal images and write a bundle, calibrated on images "
        "that it was not trained on. Options that are left out are chosen to suit the images, and "
        "printed. Ctrl-C stops the training and keeps the best weights so far; --resume continues.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(data) if data else None,
        required=not data,
        metavar="PATH",
        help=f"{DATA_HELP}, which is itself the default",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory to write the bundle to (default: runs/NAME-OF-DATA)",
    )
    parser.add_argument("--name", help="name of the bundle (default: that of its directory)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle in --out")
    parser.add_argument(
        "--resume", action="store_true", help="continue a training that was stopped"
    )
    recipes = sorted(path.stem for path in RECIPES.glob("*.toml"))
    parser.add_argument(
        "--recipe",
        choices=recipes,
        metavar="NAME",
        help="use the options that a shipped bundle was trained with; flags override them: "
        f"{', '.join(recipes)}",
    )
    group = parser.add_argument_group("images")
    group.add_argument(
        "--group",
        metavar="HOW",
        help="keep all images of one part together, so that none of them calibrates a network "
        "trained on another: 'folder' takes each subfolder as a part; anything else is a regular "
        "expression for file names, with the part in parentheses, as in 'part(\\d+)_'",
    )
    group.add_argument(
        "--normal-label",
        type=int,
        metavar="N",
        help="train only on the images with this label, in data sets that have labels",
    )
    group.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="train N networks, each without a different Nth of the images, so that every image "
        "calibrates; 1 holds out a sixth instead (default: by the number of images; 1 above "
        f"{MAX_CROSS_FITTED:,})",
    )
    group = parser.add_argument_group("network")
    group.add_argument(
        "--arch",
        choices=get_args(Architecture),
        help="mlp: fully connected; conv: convolutional, for sides of 16 to 256 pixels (default: "
        f"mlp for grey pictures up to {SMALL_SIDE} pixels, conv for others)",
    )
    group.add_argument(
        "--size",
        metavar="N",
        help="longer side to resize image files to, at their median aspect ratio, or both sides as "
        f"HEIGHTxWIDTH (default: the images' own, but at most {PHOTO_SIDE})",
    )
    group.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        help="1: grey; 3: RGB (default: 3 if any image has colour)",
    )
    group.add_argument(
        "--latent-size",
        type=int,
        metavar="D",
        help=f"latent dimensions (default: {config.latent_size}; for conv, {CONV_LATENT_SIZE})",
    )
    group.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        metavar="WIDTH",
        help="widths of the layers between pixels and latents; for conv, the channels of its "
        "convolutions and the width of its last layer "
        f"(default: {' '.join(map(str, config.hidden_sizes))}; for conv, by the size)",
    )
    group.add_argument(
        "--head",
        choices=get_args(Head),
        default=config.head,
        help="head of the encoder; relu is that of the tutorial, with its loss, and collapses",
    )
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"maximum number of steps (default: by the number of images, at least {MIN_STEPS:,})",
    )
    length.add_argument(
        "--epochs", type=int, metavar="N", help="the same in passes over the images"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images per step (default: {} to {}, by the number of images)".format(*BATCH_SIZES),
    )
    group.add_argument(
        "--learning-rate",
        type=float,
        default=options.learning_rate,
        metavar="RATE",
        help="peak learning rate of Adam",
    )
    group.add_argument(
        "--augment",
        type=float,
        default=options.augment,
        metavar="SHARE",
        help="rotate, shear, scale and shift a random half of the images of each step, by about "
        "this share of their size",
    )
    group.add_argument("--seed", type=int, default=options.seed, metavar="N", help="random seed")
    group.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: as many as torch chooses)"
    )
    group.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")


def with_recipe(arguments: argparse.Namespace, argv: list[str]) -> argparse.Namespace:
    """Parse `argv` again with the recipe's values as defaults, so that flags override them."""
    recipe = tomllib.loads((RECIPES / f"{arguments.recipe}.toml").read_text(encoding="utf-8"))
    arguments.parser.set_defaults(**recipe)
    parsed: argparse.Namespace = arguments.parser.parse_args(argv)
    return parsed


def run(arguments: argparse.Namespace) -> int:
    """Train, and write the bundle."""
    if arguments.recipe:
        arguments = with_recipe(arguments, arguments.argv)
    console = standard_output()
    check_name(arguments.name)
    check_limits(arguments, LIMITS)
    arguments.size = None if arguments.size is None else _size(arguments.size)
    arguments.data = find_data(arguments.data)
    arguments.out = arguments.out or Path("runs") / arguments.data.resolve().stem
    checkpoint = arguments.out / CHECKPOINT_NAME
    resumes = arguments.resume and checkpoint.exists()
    check_target(arguments.out, overwrite=arguments.overwrite or resumes)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    data = read_training_images(console, arguments)
    config = suitable_config(
        data.image_shape,
        architecture=arguments.arch,
        hidden_sizes=tuple(arguments.hidden or ()) or None,
        latent_size=arguments.latent_size,
        head=arguments.head,
    )
    options = TrainOptions(
        steps=arguments.steps,
        epochs=None if arguments.steps else arguments.epochs,  # the recipe's, with a flag --steps
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        augment=arguments.augment,
        seed=arguments.seed,
    )
    groups = group_of_each(console, data, arguments.group)
    splits = plan(groups, config.architecture, arguments.folds, arguments.seed)
    warn_of_near_copies(console, data, splits, arguments.group)
    console.print(_network(config))
    console.print(_training(options.resolved(len(splits[0].train)), splits))
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.resume and not checkpoint.exists():
        console.print(f"there is no {checkpoint} to resume from: starting from scratch")
    with TrainingProgress(console, len(splits)) as progress:
        first = train(
            config,
            data.images,
            options,
            splits[0],
            device=device,
            checkpoint=checkpoint,
            resume=arguments.resume,
            data_id=_identity(data, splits),
            on_step=progress.show,
        )
        networks = [first]
        if first.finished and len(splits) > 1:
            progress.steps_per_fold = first.step
            networks = train_folds(
                first, data.images, splits[1:], device=device, on_step=progress.show_fold
            )
            networks = on_common_scale(networks, data.images)
    finished = first.finished and len(networks) == len(splits)
    with console.status("scoring the images that calibrate"):  # in three dtypes: it takes a while
        verdict = judge(networks, data.images)
        bundle = _bundle(
            arguments, data, networks, verdict, finished=finished, report=console.print
        )
    bundle.save(arguments.out, model_card(bundle))
    if first.finished and first.history[-1][0] < (first.options.steps or 0):
        console.print(
            "training ended early, as the validation images no longer improved: the weights after "
            f"{first.step:,} steps are kept"
        )
    console.print(verdict.figures)
    if "test" in bundle.metrics:
        test = bundle.metrics["test"]
        console.print(f"test images: MSE {test['mse']:.5f}, KL {test['kl']:.2f} nats")
    assert bundle.calibration is not None  # noqa: S101 - for mypy: it was just calibrated
    warn_if_few(console, bundle.calibration.n)
    console.print(f"wrote {arguments.out}, version {bundle.version}")
    if finished:
        checkpoint.unlink(missing_ok=True)
    else:
        console.print("stopped early; the same command with --resume continues")
    console.print(verdict.judgement)
    return 0 if finished else INTERRUPTED


def _size(text: object) -> int | tuple[int, int]:
    """`64`, the longer side, or `48x64`, height and width. Raises `ValueError`."""
    match [int(side) if side.isdecimal() else 0 for side in re.split("[xX×]", str(text))]:
        case [longer] if 1 <= longer <= MAX_SIDE:
            return longer
        case [height, width] if 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE:
            return height, width
    raise ValueError(
        f"--size is {text}, expected the longer side, 1 to {MAX_SIDE:,} pixels, or height and "
        "width, as in 48x64"
    )


def _network(config: VAEConfig) -> str:
    channels, height, width = config.image_shape
    layers = ", ".join(map(str, config.hidden_sizes))
    return (
        f"network: {config.architecture} ({layers}), latent size {config.latent_size}, for "
        f"{'grey' if channels == 1 else 'RGB'} images of {width}×{height} (width×height)"
    )


def _training(options: TrainOptions, splits: Sequence[Split]) -> str:
    line = f"training: at most {options.steps:,} steps of {options.batch_size} images"
    n = sum(len(split.held_out) for split in splits)
    if len(splits) == 1:
        return f"{line}; calibrated on {numbered(n, 'image')} held out"
    return (
        f"{line}; calibrated on all {n:,} images, each scored by the one of {len(splits)} networks "
        "that was not trained on it"
    )


def _identity(data: TrainingImages, splits: Sequence[Split]) -> dict[str, Any]:
    """What --resume must find unchanged, beside the options of the training.

    Otherwise the network would go on with other images, and some of those that it has been trained
    on would calibrate it.
    """
    return {
        **data.files,
        "folds": len(splits),
        **{key: data.facts[key] for key in ("label", "grouped_by") if key in data.facts},
    }


def _bundle(
    arguments: argparse.Namespace,
    data: TrainingImages,
    networks: Sequence[Trained],
    verdict: Verdict,
    *,
    finished: bool,
    report: Callable[[str], object],
) -> Bundle:
    first = networks[0]
    split = first.split
    seen = np.concatenate([split.train, split.validation])
    metrics = {"held_out": as_metrics(verdict)}
    provenance: dict[str, Any] = {
        "data_set": data.name,
        "files_sha256": dict(data.files),
        **data.facts,
        "images_trained_on": len(split.train),
        "images_validated_on": len(split.validation),
        "images_held_out": len(split.held_out),
        "networks": len(networks),
        **{key: value for key, value in asdict(first.options).items() if value is not None},
        "best_step": first.step,
        "finished": finished,
        "threads": torch.get_num_threads(),
        "device": arguments.device,
        "date": today(),
        "versions": {
            "vae-service": version("vae-service"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    if (test := data.test_images) is not None:
        flat = torch.from_numpy(test.images.reshape(len(test.images), -1))
        fit = evaluate_fit(first.network, flat)
        elbo = first.negative_elbo(fit)
        metrics["test"] = {"n": len(flat), **asdict(fit), "negative_elbo": elbo}
        provenance["files_sha256"] |= test.files
    bundle = as_bundle(
        first,
        arguments.name or arguments.out.resolve().name,
        preprocessing=data.preprocessing,
        trained_on=np.sort(data.hashes[seen]),
        provenance=provenance,
        metrics=metrics,
    )
    bundle = with_graphs(bundle, report)  # before it is calibrated: by what will serve it
    if len(networks) == 1:
        held_out = data.images[split.held_out]
        return calibrated(
            bundle, held_out, data_set=f"{data.name}, training images held out", date=today()
        )
    calibration = calibration_by_dtype(
        cross_scores(networks, data.images),
        data_set=f"{data.name}, across {len(networks)} folds",
        date=today(),
        folds=len(networks),
    )
    return replace(bundle, calibration=calibration)
