"""The worst mistakes as a picture: anomalies that look normal, clean images that do not."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from model.evaluation.figures import Evaluation
from model.evaluation.observations import Observations, Observed
from model.evaluation.plot_style import COLOURS, heading, shown
from model.scores.calibration import COMMON_ALPHAS

MAX_MISTAKES: Final = 12

COLUMNS: Final = 6

TILE_INCHES: Final = 1.7

MAX_LINE: Final = 22
"""Maximum length of a line above an image, in characters."""

MISSED, RIGHT, OUTLINE = COLOURS[3], "#444444", COLOURS[4]


class _Tile(NamedTuple):
    """One image of the picture."""

    image: NDArray[np.uint8]  # (C, H, W)
    mask: NDArray[np.bool_] | None  # (H, W)
    folder: str
    """Its folder below that of the set, or the set's name."""
    name: str
    score: float
    p_value: float | None


def mistakes(observations: Observations, evaluation: Evaluation) -> Figure:
    """The anomalies that scored lowest, and below them the clean images that scored highest.

    Each with its folder, its file's name and its p-value, in red if the verdict is wrong, and with
    its mask outlined. Images are as the network sees them. Anomalies are those that were given, or
    the derived ones if none was.
    """
    anomalies = [tile for found in observations.judged for tile in _tiles(observations, found)]
    misses = sorted(anomalies, key=lambda tile: tile.score)[:MAX_MISTAKES]
    clean = _tiles(observations, observations.clean)
    alarms = sorted(clean, key=lambda tile: -tile.score)[:MAX_MISTAKES]
    rows = [-(-len(tiles) // COLUMNS) for tiles in (misses, alarms)]
    figure = Figure(
        figsize=(COLUMNS * TILE_INCHES, sum(rows) * (TILE_INCHES + 0.5) + 1.5),
        layout="constrained",
    )
    figure.suptitle(heading(evaluation, "worst mistakes"))
    above, below = figure.subfigures(2, 1, height_ratios=rows, squeeze=False)[:, 0]
    alpha = COMMON_ALPHAS[0]
    _draw(
        above,
        misses,
        f"misses: the {len(misses)} of {len(anomalies):,} anomalies that scored lowest "
        f"({_share(misses, above=True)})",
        wrong_above=True,
    )
    _draw(
        below,
        alarms,
        f"false alarms: the {len(alarms)} of {len(clean):,} clean images that scored highest "
        f"({_share(alarms, above=False)})",
        wrong_above=False,
    )
    figure.supxlabel(f"red: wrong at α = {alpha:g}", fontsize="small", color=MISSED)
    return figure


def _share(tiles: list[_Tile], *, above: bool) -> str:
    """How many of the images are really wrong at the usual alpha."""
    alpha = COMMON_ALPHAS[0]
    p_values = [tile.p_value for tile in tiles if tile.p_value is not None]
    if len(p_values) < len(tiles):
        return "no calibration, so no p-values"
    wrong = sum((p > alpha) == above for p in p_values)
    return f"{'all' if wrong == len(tiles) else wrong} with p {'>' if above else '≤'} {alpha:g}"


def _tiles(observations: Observations, observed: Observed) -> list[_Tile]:
    p_values = observations.p_values(observed)
    return [
        _Tile(
            image=observed.images[i],
            mask=None if observed.masks is None else observed.masks[i],
            folder="/".join(name.split("/")[:-1]) or observed.facts.name,
            name=name.split("/")[-1],
            score=float(observed.default[i]),
            p_value=None if p_values is None else float(p_values[i]),
        )
        for i, name in enumerate(observed.names)
    ]


def _draw(part: SubFigure, tiles: list[_Tile], title: str, *, wrong_above: bool) -> None:
    part.suptitle(title, fontsize="medium")
    axes = part.subplots(-(-len(tiles) // COLUMNS), COLUMNS, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, tile in zip(axes.flat, tiles, strict=False):
        _draw_tile(panel, tile, wrong_above=wrong_above)


def _draw_tile(panel: Axes, tile: _Tile, *, wrong_above: bool) -> None:
    pixels = tile.image.transpose(1, 2, 0)
    panel.imshow(
        pixels.squeeze(2) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255
    )
    if tile.mask is not None and tile.mask.any() and not tile.mask.all():
        panel.contour(tile.mask, levels=[0.5], colors=[OUTLINE], linewidths=1)
    wrong = tile.p_value is not None and (tile.p_value > COMMON_ALPHAS[0]) == wrong_above
    p_value = "" if tile.p_value is None else f"p = {tile.p_value:.2g}"
    panel.set_title(
        f"{_end(tile.folder)}\n{_end(tile.name)}\n{p_value}".rstrip(),
        fontsize=8,
        color=MISSED if wrong else RIGHT,
        pad=3,
    )


def _end(name: str) -> str:
    """A name's end, which says more than its start."""
    text = name.encode(errors="backslashreplace").decode()
    return shown(text if len(text) <= MAX_LINE else f"…{text[1 - MAX_LINE :]}")
