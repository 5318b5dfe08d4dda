"""The plots of an evaluation, as PNG files.

They are drawn on matplotlib's `Figure`, not through pyplot, whose state is global.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure
from PIL import Image

from model.evaluation.curves import histograms, latent_scatter, p_values, roc
from model.evaluation.figures import Evaluation
from model.evaluation.image_grids import manifold, reconstructions, samples, traversals
from model.evaluation.map_sheet import maps
from model.evaluation.mistakes import mistakes
from model.evaluation.observations import Observations
from model.evaluation.report import picture_names

DPI: Final = 80
GREY_PALETTE, RGB_PALETTE = 64, 256
"""Palette sizes for bundles of grey and of RGB images. A palette cuts a file to a third of its
size; a bundle's plots should stay under 400 kB together."""

COLOURFUL: Final = ("maps", "mistakes")
"""Plots with colours over grey images, which a small palette would tint."""

Plot = Callable[[Observations, Evaluation], Figure]

PLOTS: Final[Mapping[str, Plot]] = {
    "reconstructions": reconstructions,
    "samples": samples,
    "p_values": p_values,
    "roc": roc,
    "histograms": histograms,
    "maps": maps,
    "mistakes": mistakes,
    "latent_scatter": latent_scatter,
    "traversals": traversals,
    "manifold": manifold,
}
"""Plots by file name, the same names as in `model.evaluation.report.PICTURES`."""


def save_plots(
    directories: Sequence[Path], observations: Observations, evaluation: Evaluation
) -> None:
    """Write this evaluation's plots to each directory. Delete old ones that it does not have."""
    names = picture_names(evaluation)
    is_grey = observations.clean.images.shape[1] == 1
    files = {
        f"{name}.png": _png(
            PLOTS[name](observations, evaluation),
            GREY_PALETTE if is_grey and name not in COLOURFUL else RGB_PALETTE,
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
    """Render `figure` as a PNG file with a palette of at most `colours` colours."""
    rendered, compressed = BytesIO(), BytesIO()
    with warnings.catch_warnings():
        # The font may lack letters of a set's name; it then shows boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(rendered, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    image = Image.open(rendered).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    image.save(compressed, "PNG", optimize=True)
    return compressed.getvalue()
