"""Maps as a picture: where the default score finds images unusual."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure, SubFigure

from model.engine.engine import Engine
from model.evaluation.figures import Evaluation
from model.evaluation.image_tiles import Tile, caption, draw_image, draw_outline, tiles_of
from model.evaluation.observations import Observations, Observed
from model.evaluation.plot_style import COLOURS, heading
from model.results import Floats
from model.training.calibrate import CHUNK_IMAGES

MAX_ANOMALIES, MAX_CLEAN = 12, 3

PAIRS: Final = 3
"""Images in a row. Each is drawn twice: as it is, and with its map and its mask over it."""

TILE_INCHES: Final = 1.9
"""Length of an image's longer side."""

TEXT_INCHES: Final = 0.55
"""Height of the lines above an image."""

TITLE_INCHES, BAR_INCHES, GAP_INCHES = 0.3, 0.6, 0.1

QUANTILE: Final = 0.999
"""Of clean places, has the full colour: the same as in `model.features.detector`."""

SCALE_IMAGES: Final = 256
"""Clean images that give the scale of a map of errors, at most."""

FULL_OPACITY: Final = 0.6

OVERLAY: Final = LinearSegmentedColormap.from_list(
    "overlay", [to_rgba(COLOURS[1], 0), to_rgba(COLOURS[1], FULL_OPACITY)]
)
"""Orange, as in the service's pictures, and clear at 0."""

OUTLINE, OUTLINE_POINTS = COLOURS[0], 1.8
"""Of masks: blue, which orange does not hide, and so wide that the palette keeps it."""


def maps(observations: Observations, evaluation: Evaluation) -> Figure:
    """The anomalies that scored highest, and a few clean images, each beside itself with its map.

    Anomalies come from each folder in turn, as the most obvious kind would else take all places;
    they are those that were given, or the derived ones if none was. Clean images are evenly spaced
    from the lowest score to the highest. Images are as the network sees them.
    """
    found = [tile for observed in observations.judged for tile in tiles_of(observations, observed)]
    anomalies = _in_turn(found)[:MAX_ANOMALIES]
    clean = _evenly_spaced(tiles_of(observations, observations.clean), MAX_CLEAN)
    drawn = [*anomalies, *clean]
    values = scaled_maps(observations.engine, observations.clean, drawn)
    height, width = values.shape[1:]
    tile_width, tile_height = (TILE_INCHES * side / max(height, width) for side in (width, height))
    rows = [-(-len(tiles) // PAIRS) for tiles in (anomalies, clean)]
    heights = [n * (tile_height + TEXT_INCHES) + TITLE_INCHES for n in rows]
    heights[1] += BAR_INCHES
    figure = Figure(
        figsize=(2 * PAIRS * (tile_width + GAP_INCHES), sum(heights) + TITLE_INCHES),
        layout="constrained",
    )
    figure.suptitle(heading(evaluation, f"maps of {evaluation.anomalies[0].default.score}"))
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    folders = len({tile.folder for tile in found})
    turns = "those that scored highest" + (", each folder in turn" if folders > 1 else "")
    _draw(above, anomalies, values[: len(anomalies)], f"anomalies: {turns}")
    title = "clean images: from the lowest score to the highest"
    _draw(below, clean, values[len(anomalies) :], title)
    bar = below.colorbar(
        ScalarMappable(Normalize(0, 1), OVERLAY),
        ax=below.axes,
        location="bottom",
        extend="max",
        shrink=0.4,
        aspect=40,
    )
    label = f"0: median of clean images, 1: their {100 * QUANTILE:g} % quantile"
    bar.set_label(label, fontsize="small")
    return figure


def scaled_maps(engine: Engine, clean: Observed, tiles: list[Tile]) -> Floats:
    """The maps of the default score on the scale of clean images, (n, H, W).

    0 is the median of clean places and 1 their `QUANTILE`. The maps of a detector are on that scale
    already. Those of other scores, squared errors, are brought to it by the clean images of this
    evaluation, as roots: like pixels, these can be told apart by eye.
    """
    images = np.stack([tile.image for tile in tiles])
    values = engine.score_map(images).anomaly_map.mean(axis=1)  # (n, H, W)
    if engine.scores[0] in engine.scaled_maps:
        return np.asarray(values, np.float32)
    n = len(clean.images)
    chosen = np.linspace(0, n - 1, min(SCALE_IMAGES, n)).round().astype(np.int64)
    parts = np.split(clean.images[chosen], range(CHUNK_IMAGES, len(chosen), CHUNK_IMAGES))
    errors = np.concatenate([engine.score_map(part).anomaly_map.mean(axis=1) for part in parts])
    median, full = np.quantile(np.sqrt(errors), [0.5, QUANTILE])
    scaled: Floats = (np.sqrt(values) - median) / ((full - median) or 1)
    return scaled


def _in_turn(tiles: list[Tile]) -> list[Tile]:
    """The highest score of each folder, then the second of each, and so on."""
    taken: Counter[str] = Counter()
    ranked = []
    for tile in sorted(tiles, key=lambda tile: -tile.score):
        ranked.append((taken[tile.folder], tile))
        taken[tile.folder] += 1
    return [tile for _, tile in sorted(ranked, key=lambda pair: pair[0])]


def _evenly_spaced(tiles: list[Tile], n: int) -> list[Tile]:
    ranked = sorted(tiles, key=lambda tile: tile.score)
    places = np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def _draw(part: SubFigure, tiles: list[Tile], maps_of: Floats, title: str) -> None:
    part.suptitle(title, fontsize="medium")
    axes = part.subplots(-(-len(tiles) // PAIRS), 2 * PAIRS, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for i, (tile, values) in enumerate(zip(tiles, maps_of, strict=True)):
        plain, drawn_over = axes.flat[2 * i : 2 * i + 2]
        draw_image(plain, tile)
        plain.set_title(caption(tile), fontsize=8, pad=3)
        draw_image(drawn_over, tile)
        drawn_over.imshow(values, cmap=OVERLAY, vmin=0, vmax=1, interpolation="nearest")
        draw_outline(drawn_over, tile, OUTLINE, OUTLINE_POINTS)
        drawn_over.set_title(f"up to {values.max():.1f}", fontsize=8, pad=3)
