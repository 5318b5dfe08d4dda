"""`python -m model train`."""

from __future__ import annotations

import argparse
import os
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

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
    show_skipped,
    today,
    warn_if_few,
)
from model.config import Architecture, Head, VAEConfig, conv_sizes
from model.engine.device import resolve_device
from model.training.calibrate import calibrated
from model.training.card import model_card
from model.training.data import DataError, ImageSet, load_images, stored_shape
from model.training.goodness_of_fit import Fit, evaluate_fit
from model.training.train import Step, Trained, TrainOptions, train

LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "size": (1, 2048),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-9, 1),
    "augment": (0, 0.5),
    "seed": (0, 2**32 - 1),
    "threads": (1, 1024),
}
"""Minimum and maximum of the numeric options; `VAEConfig` checks those of the network."""

RECIPES: Final = Path(__file__).parents[1] / "training" / "recipes"
"""The options that the shipped bundles were trained with, one file each."""


def add(commands: Any) -> None:
    """Add the command and its options."""
    data = os.environ.get("VAE_DATA_DIR")
    options, config = TrainOptions(), VAEConfig()
    parser = commands.add_parser(
        "train",
        help="train a network on images and write a bundle",
        description="Train a network on images and write a bundle, calibrated on images that "
        "training does not see. Ctrl-C stops the training and keeps the best weights so far; "
        "--resume continues from the last complete epoch.",
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
        help="the options that a bundle that ships was trained with, each overridden by its flag: "
        f"{', '.join(recipes)}",
    )
    group = parser.add_argument_group("network")
    group.add_argument(
        "--arch",
        choices=get_args(Architecture),
        default=config.architecture,
        help="mlp: fully connected; conv: convolutional, for sides of 16 to 256 pixels",
    )
    group.add_argument(
        "--size", type=int, metavar="N", help="side that image files are resized to (default: 28)"
    )
    group.add_argument("--channels", type=int, choices=(1, 3), help="1: grey; 3: RGB (default: 1)")
    group.add_argument(
        "--latent-size",
        type=int,
        default=config.latent_size,
        metavar="D",
        help="latent dimensions",
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
    group.add_argument(
        "--epochs", type=int, default=options.epochs, metavar="N", help="passes over the images"
    )
    group.add_argument(
        "--batch-size", type=int, default=options.batch_size, metavar="N", help="images per step"
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
    console = Console(markup=False, highlight=False)  # file names may contain brackets
    check_name(arguments.name)
    check_limits(arguments, LIMITS)
    arguments.data = find_data(arguments.data)
    arguments.out = arguments.out or Path("runs") / arguments.data.resolve().stem
    resumes = arguments.resume and (arguments.out / CHECKPOINT_NAME).exists()
    check_target(arguments.out, overwrite=arguments.overwrite or resumes)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    config = _config(arguments)
    options = TrainOptions(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        augment=arguments.augment,
        seed=arguments.seed,
    )
    data = load_images(arguments.data, "train", image_shape=config.image_shape)
    show_skipped(console, data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.out / CHECKPOINT_NAME
    if arguments.resume and not checkpoint.exists():
        console.print(f"there is no {checkpoint} to resume from: starting from scratch")
    with _progress(console) as progress:
        task = progress.add_task("", total=None, loss="", mse="", kl="", epoch="")

        def show(step: Step) -> None:
            progress.update(
                task,
                total=step.steps,
                completed=step.step,
                epoch=f"{step.epoch}/{options.epochs}",
                loss=f"{step.loss:.1f}" if abs(step.loss) >= 1 else f"{step.loss:.4f}",
                mse=f"{step.mse:.4f}",
                kl=f"{step.kl:.1f}",
            )

        trained = train(
            config,
            data.images,
            options,
            device=device,
            checkpoint=checkpoint,
            resume=arguments.resume,
            data_id=dict(data.files),
            on_step=show,
        )
    bundle = _bundle(arguments, data, options, trained)
    bundle.save(arguments.out, model_card(bundle))
    for split, fit in bundle.metrics.items():
        console.print(
            f"{split.replace('_', ' ')} images: MSE {fit['mse']:.5f}, KL {fit['kl']:.2f} nats"
        )
    warn_if_few(console, len(trained.split.held_out))
    console.print(f"wrote {arguments.out}, version {bundle.version}")
    if not trained.finished:
        console.print("stopped early; the same command with --resume continues")
        return INTERRUPTED
    checkpoint.unlink(missing_ok=True)
    return 0


def _config(arguments: argparse.Namespace) -> VAEConfig:
    stored = stored_shape(arguments.data) or (1, 28, 28)
    shape = (
        arguments.channels or stored[0],
        arguments.size or stored[1],
        arguments.size or stored[2],
    )
    usual = conv_sizes(shape) if arguments.arch == "conv" else VAEConfig().hidden_sizes
    return VAEConfig(
        architecture=arguments.arch,
        image_shape=shape,
        hidden_sizes=tuple(arguments.hidden or usual),
        latent_size=arguments.latent_size,
        head=arguments.head,
    )


def _bundle(
    arguments: argparse.Namespace, data: ImageSet, options: TrainOptions, trained: Trained
) -> Bundle:
    pixels = trained.network.config.pixels
    split = trained.split

    def figures(fit: Fit, n: int) -> dict[str, Any]:
        variance = trained.pixel_variance
        elbo = None if variance is None else fit.negative_elbo(pixels, variance)
        return {"n": n, **asdict(fit), "negative_elbo": elbo}

    metrics = {"held_out": figures(trained.fit, len(split.held_out))}
    provenance: dict[str, Any] = {
        "data_set": data.name,
        "files_sha256": dict(data.files),
        "skipped_files": len(data.skipped),
        "images_trained_on": len(split.train),
        "images_validated_on": len(split.validation),
        "images_held_out": len(split.held_out),
        **asdict(options),
        "best_epoch": trained.epoch,
        "finished": trained.finished,
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
    try:
        test = load_images(arguments.data, "test", image_shape=trained.network.config.image_shape)
    except DataError:
        pass  # no test images, as in any folder of image files: the held-out images are enough
    else:
        flat = torch.from_numpy(test.images.reshape(len(test.images), -1))
        metrics["test"] = figures(evaluate_fit(trained.network, flat), len(flat))
        provenance["files_sha256"] |= test.files
    bundle = Bundle(
        name=arguments.name or arguments.out.resolve().name,
        config=trained.network.config,
        weights=trained.network.state_dict(),
        pixel_variance=trained.pixel_variance,
        statistics=trained.statistics,
        provenance=provenance,
        metrics=metrics,
    )
    return calibrated(
        bundle,
        data.images[split.held_out],
        data_set=f"{data.name}, training images held out",
        date=today(),
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]}  MSE {task.fields[mse]}  KL {task.fields[kl]}"),
        TimeRemainingColumn(),
        console=console,
    )
