"""Single images in a plot: which they are, and how they are drawn."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from model.evaluation.observations import Observations, Observed
from model.evaluation.plot_style import shown

MAX_LINE: Final = 22
"""Maximum length of a line above an image, in characters."""


class Tile(NamedTuple):
    """One image."""

    image: NDArray[np.uint8]  # (C, H, W)
    mask: NDArray[np.bool_] | None  # (H, W)
    folder: str
    """Its folder below that of the set, or the set's name."""
    name: str
    score: float
    p_value: float | None


def tiles_of(observations: Observations, observed: Observed) -> list[Tile]:
    """All images of a set, in its order."""
    p_values = observations.p_values(observed)
    return [
        Tile(
            image=observed.images[i],
            mask=None if observed.masks is None else observed.masks[i],
            folder="/".join(name.split("/")[:-1]) or observed.facts.name,
            name=name.split("/")[-1],
            score=float(observed.default[i]),
            p_value=None if p_values is None else float(p_values[i]),
        )
        for i, name in enumerate(observed.names)
    ]


def draw_image(panel: Axes, tile: Tile) -> None:
    """Draw the image, without axes."""
    pixels = tile.image.transpose(1, 2, 0)
    panel.set_axis_off()
    panel.imshow(
        pixels.squeeze(2) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255
    )


def draw_outline(panel: Axes, tile: Tile, colour: str, width: float = 1) -> None:
    """Draw the outline of the mask, if there is one that marks a part of the image.

    `width` is in points.
    """
    if tile.mask is not None and tile.mask.any() and not tile.mask.all():
        panel.contour(tile.mask, levels=[0.5], colors=[colour], linewidths=width)


def caption(tile: Tile) -> str:
    """Folder, file and p-value, a line each."""
    p_value = "" if tile.p_value is None else f"p = {tile.p_value:.2g}"
    return f"{_end(tile.folder)}\n{_end(tile.name)}\n{p_value}".rstrip()


def _end(name: str) -> str:
    """A name's end, which says more than its start."""
    text = name.encode(errors="backslashreplace").decode()
    return shown(text if len(text) <= MAX_LINE else f"…{text[1 - MAX_LINE :]}")
