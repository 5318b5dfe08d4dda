"""`python -m model import`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from model.commands.common import HelpFormatter, check_name, check_target
from model.config import Head
from model.training.card import model_card
from model.training.import_checkpoint import import_checkpoint


def add(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "import",
        help="make a bundle of a checkpoint saved by the tutorial's code",
        description="Make a bundle of a state dict saved by torch.save(vae.state_dict(), path). "
        "The file is read with weights_only: it cannot run code.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", type=Path, help="the .pt file")
    parser.add_argument("--out", type=Path, required=True, help="directory of the bundle to write")
    parser.add_argument("--name", help="name of the bundle; the directory's by default")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle in --out")
    parser.add_argument(
        "--head", choices=get_args(Head), default="relu", help="the tutorial's code has relu"
    )
    parser.add_argument(
        "--image-shape",
        type=int,
        nargs=3,
        metavar=("C", "H", "W"),
        help="if not one square grey channel",
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the checkpoint, and write the bundle."""
    check_name(arguments.name)
    check_target(arguments.out, overwrite=arguments.overwrite)
    bundle = import_checkpoint(
        arguments.checkpoint,
        name=arguments.name or arguments.out.resolve().name,
        head=arguments.head,
        image_shape=tuple(arguments.image_shape) if arguments.image_shape else None,
    )
    bundle.save(arguments.out, model_card(bundle))
    print(f"wrote {arguments.out}, version {bundle.version}")
    return 0
