"""`python -m model demo`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any, Final

from model.commands.common import HelpFormatter, check_limits, standard_output
from model.datasets.folder import numbered
from model.datasets.rendered.camera import EXPOSURES
from model.datasets.rendered.defects import KINDS
from model.datasets.rendered.files import check_folder, write_files
from model.datasets.rendered.photographs import Sizes, photographs

LIMITS: Final = {
    "parts": (5, 300),  # up to 660 parts in all, so their numbers have three digits
    "seed": (0, 2**32 - 1),
}
"""Minimum and maximum of the options."""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "demo",
        help="write example images to try the commands on",
        description="Write a data set to try the other commands on: images of machined plates, "
        "several shots of each, without defects and with scratches, dents, stains, cracks and "
        "missing pieces, and masks of these. They are rendered, not photographed. Needs no "
        "network.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("name", choices=["photos"], metavar="NAME", help="what to write: photos")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-photos"), metavar="DIR", help="folder to write to"
    )
    parser.add_argument(
        "--parts",
        type=int,
        default=60,
        metavar="N",
        help=f"parts to train on, {len(EXPOSURES)} shots of each; a fifth as many to test with, "
        "and with each kind of defect",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed; the same one, the same images")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files that an earlier run wrote to --out; others are left alone",
    )


def run(arguments: argparse.Namespace) -> int:
    """Render the images, and then write them all."""
    check_limits(arguments, LIMITS)
    out = arguments.out
    check_folder(out, overwrite=arguments.overwrite)
    sizes = Sizes.of(arguments.parts)
    files = {"README.md": _readme(sizes, arguments.seed).encode()}
    files |= dict(photographs(sizes, arguments.seed))
    write_files(out, files)
    print_to = standard_output().print
    print_to(
        f"wrote {out}: rendered images, not photographs: "
        f"{sizes.train * len(EXPOSURES):,} of normal parts to train on, "
        f"{sizes.test_normal * len(EXPOSURES):,} of other normal parts, "
        f"{sizes.per_kind * len(KINDS):,} with defects"
    )
    print_to(f"train: {_train(out)}")
    print_to(f"evaluate: {_evaluate(out)}")
    return 0


def _train(out: Path) -> str:
    data = shlex.quote(str(out / "train"))
    return f"vae train --data {data} --group folder --out runs/demo"


def _evaluate(out: Path) -> str:
    normal, anomalous, masks = (
        shlex.quote(str(out / name)) for name in ("test-normal", "test-anomalous", "masks")
    )
    return (
        f"vae evaluate --bundle runs/demo --data {normal} --anomalies {anomalous} --masks {masks}"
    )


def _readme(sizes: Sizes, seed: int) -> str:
    """What the folder says about itself."""
    shots = len(EXPOSURES)
    here = Path()
    return f"""\
# Rendered images of machined plates

Made by `vae demo photos --parts {sizes.train} --seed {seed}`, to try the commands of
vae-service on. These are **not photographs**: a program computed them, and figures measured on
them say nothing about how a network does on yours.

| folder | contents |
| --- | --- |
| `train/` | {numbered(sizes.train, "normal part")}, a folder each, {shots} exposures of each |
| `test-normal/` | {numbered(sizes.test_normal, "other normal part")}, {shots} exposures of each |
| `test-anomalous/` | parts with a defect, {sizes.per_kind} of each kind: {", ".join(KINDS)} |
| `masks/` | where each defect is: 255, and 0 elsewhere |

In each folder of defects, the first file by name has the most obvious one and the last the
faintest. A mask covers the pixels that the defect changes by 3 grey levels of 255 or more, and
the gaps between them. Each part has its own tool marks, shade, wear and place, and each shot its
own lamp and sensor noise; nothing but the seed decides them.

Try them, from this folder:

```sh
{_train(here)}
{_evaluate(here)}
```

Licence: Apache-2.0, as vae-service itself.
"""
