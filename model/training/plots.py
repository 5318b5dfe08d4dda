"""The pictures of an evaluation, as PNG files.

Drawn on matplotlib's own `Figure`, never through pyplot, whose state belongs to the whole process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure
from PIL import Image

from model.training.curves import histograms, latent_scatter, p_values, roc
from model.training.evaluate import Observations
from model.training.evaluation import Evaluation
from model.training.image_grids import manifold, reconstructions, samples, traversals
from model.training.report import picture_names

DPI: Final = 80
GREY_PALETTE, RGB_PALETTE = 64, 256
"""Colours in the pictures of a bundle for grey or RGB images. A palette makes a file a third as
large; the pictures of a bundle are to stay under 400 kB."""

Plot = Callable[[Observations, Evaluation], Figure]

PLOTS: Final[Mapping[str, Plot]] = {
    "reconstructions": reconstructions,
    "samples": samples,
    "p_values": p_values,
    "roc": roc,
    "histograms": histograms,
    "latent_scatter": latent_scatter,
    "traversals": traversals,
    "manifold": manifold,
}
"""By the names of their files, which are those of `model.training.report.PICTURES`."""


def save_plots(
    directories: Sequence[Path], observations: Observations, evaluation: Evaluation
) -> None:
    """Write the pictures that this evaluation has, and delete older ones that it has not."""
    names = picture_names(evaluation)
    is_grey = observations.clean.images.shape[1] == 1
    files = {
        f"{name}.png": _png(
            PLOTS[name](observations, evaluation), GREY_PALETTE if is_grey else RGB_PALETTE
        )
        for name in names
    }
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
        for name in PLOTS.keys() - set(names):
            (directory / f"{name}.png").unlink(missing_ok=True)
        for file, data in files.items():
            (directory / file).write_bytes(data)


def _png(figure: Figure, colours: int) -> bytes:
    """A file, with so many colours at most."""
    drawn, small = BytesIO(), BytesIO()
    with warnings.catch_warnings():
        # A set may be named in letters that the font has not: it shows boxes then.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    image = Image.open(drawn).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return small.getvalue()
