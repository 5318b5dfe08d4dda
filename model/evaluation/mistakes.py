"""The worst mistakes as a picture: anomalies that look normal, clean images that do not."""

from __future__ import annotations

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from model.datasets.folder import numbered
from model.evaluation.figures import Evaluation
from model.evaluation.image_tiles import Tile, caption, draw_image, draw_outline, tiles_of
from model.evaluation.observations import Observations
from model.evaluation.plot_style import COLOURS, heading
from model.scores.calibration import COMMON_ALPHAS

MAX_MISTAKES: Final = 12

COLUMNS: Final = 6

TILE_INCHES: Final = 1.7

MISSED, RIGHT, OUTLINE = COLOURS[3], "#444444", COLOURS[4]


def mistakes(observations: Observations, evaluation: Evaluation) -> Figure:
    """The anomalies that scored lowest, and below them the clean images that scored highest.

    Each with its folder, its file's name and its p-value, in red if the verdict is wrong, and with
    its mask outlined. Images are as the network sees them. Anomalies are those that were given, or
    the derived ones if none was.
    """
    anomalies = [tile for found in observations.judged for tile in tiles_of(observations, found)]
    misses = sorted(anomalies, key=lambda tile: tile.score)[:MAX_MISTAKES]
    clean = tiles_of(observations, observations.clean)
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
        f"misses: the {len(misses)} of {numbered(len(anomalies), 'anomaly', 'anomalies')} that "
        "scored lowest "
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


def _share(tiles: list[Tile], *, above: bool) -> str:
    """How many of the images are really wrong at the usual alpha."""
    alpha = COMMON_ALPHAS[0]
    p_values = [tile.p_value for tile in tiles if tile.p_value is not None]
    if len(p_values) < len(tiles):
        return "no calibration, so no p-values"
    wrong = sum((p > alpha) == above for p in p_values)
    return f"{'all' if wrong == len(tiles) else wrong} with p {'>' if above else '≤'} {alpha:g}"


def _draw(part: SubFigure, tiles: list[Tile], title: str, *, wrong_above: bool) -> None:
    part.suptitle(title, fontsize="medium")
    axes = part.subplots(-(-len(tiles) // COLUMNS), COLUMNS, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, tile in zip(axes.flat, tiles, strict=False):
        _draw_tile(panel, tile, wrong_above=wrong_above)


def _draw_tile(panel: Axes, tile: Tile, *, wrong_above: bool) -> None:
    draw_image(panel, tile)
    draw_outline(panel, tile, OUTLINE)
    wrong = tile.p_value is not None and (tile.p_value > COMMON_ALPHAS[0]) == wrong_above
    panel.set_title(caption(tile), fontsize=8, color=MISSED if wrong else RIGHT, pad=3)
