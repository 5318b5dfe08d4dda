"""`python -m model import`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from model.commands.common import HelpFormatter, check_name, check_target
from model.config import Head
from model.evaluation.card import model_card
from model.training.import_checkpoint import import_checkpoint


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "import",
        help="convert a checkpoint of the tutorial's code to a bundle",
        description="Convert a state dict saved by torch.save(vae.state_dict(), path) to a bundle. "
        "It may be within a checkpoint, as in {'model': …, 'epoch': 3}, and its names may have a "
        "prefix such as module. or _orig_mod.; the file is loaded with weights_only=True, so it "
        "cannot run code.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="the .pt file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory to write the bundle to"
    )
    parser.add_argument(
        "--key",
        help="which state dict to take if the file holds several, as in --key state_dict.ema",
    )
    parser.add_argument("--name", help="name of the bundle (default: that of its directory)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle in --out")
    parser.add_argument(
        "--head",
        choices=get_args(Head),
        default="relu",
        help="head of the encoder; the tutorial's code has relu",
    )
    parser.add_argument(
        "--image-shape",
        type=int,
        nargs=3,
        metavar=("C", "H", "W"),
        help="channels, height and width of an image (default: one channel, square)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Load the checkpoint, and write the bundle."""
    check_name(arguments.name)
    check_target(arguments.out, overwrite=arguments.overwrite)
    bundle = import_checkpoint(
        arguments.checkpoint,
        name=arguments.name or arguments.out.resolve().name,
        head=arguments.head,
        image_shape=tuple(arguments.image_shape) if arguments.image_shape else None,
        key=arguments.key,
        report=print,
    )
    bundle.save(arguments.out, model_card(bundle))
    print(f"wrote {arguments.out}, version {bundle.version}")
    return 0
