"""Plots made of images: reconstructions, samples and latent traversals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.evaluation.figures import Evaluation
from model.evaluation.observations import Observations
from model.evaluation.plot_style import drawn_sets, heading, set_name
from model.results import Floats

MAX_COLUMNS: Final = 12
"""Maximum number of images in a row of reconstructions or samples."""

SAMPLE_ROWS: Final = 8

MAX_TRAVERSED: Final = 10
"""Maximum number of latent dimensions in the traversals: those with the largest KL."""

TRAVERSAL: Final = np.linspace(-3, 3, 13)
"""Values that a latent dimension takes in its traversal; its prior is N(0, 1)."""

MANIFOLD: Final = 20
"""Number of rows, and of columns, in the manifold plot."""

GAP_SHARE: Final = 14
"""Ratio of an image's side to the white gap beside it."""

TILE_INCHES, SMALL_TILE_INCHES = 0.5, 0.35
"""Length of an image's longer side. The manifold has many images, so they are small."""

TINY: Final = 1e-12
"""Added to a variance, which may be 0, before taking its logarithm."""


def reconstructions(observations: Observations, evaluation: Evaluation) -> Figure:
    """Some images of each set, each above its reconstruction through z = μ."""
    rows, names = [], []
    sets = [observed for observed, _ in drawn_sets(observations, evaluation)]
    for observed in (observations.clean, *sets):
        n = observed.facts.n
        chosen = np.linspace(0, n - 1, min(MAX_COLUMNS, n)).astype(int)
        images = observed.images[chosen]
        reconstructed = observations.engine.reconstruct(images).images
        rows += [images.astype(np.float32) / 255, reconstructed]
        names.append(set_name(observed))
    title = heading(evaluation, "images above, reconstructions below")
    figure, panel, centres = _image_grid(rows, title, rows_together=2)
    panel.set_yticks([(a + b) / 2 for a, b in zip(centres[::2], centres[1::2], strict=True)], names)
    return figure


def samples(observations: Observations, evaluation: Evaluation) -> Figure:
    """Images decoded from draws of the prior."""
    shape = (SAMPLE_ROWS * MAX_COLUMNS, evaluation.latent_size)
    z = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    images = observations.engine.decode(z).images
    rows = np.split(images, SAMPLE_ROWS)
    return _image_grid(rows, heading(evaluation, "decoded from z ~ N(0, I)"))[0]


def traversals(observations: Observations, evaluation: Evaluation) -> Figure:
    """One latent dimension varied at a time, from −3 to 3; the others as in one image."""
    mu, sigma = (values.astype(np.float64) for values in observations.encoding)
    variance = np.square(sigma) + TINY
    kl = 0.5 * (np.square(mu) + variance - np.log(variance) - 1).mean(axis=0)  # (D,), nats
    dimensions = np.argsort(-kl)[:MAX_TRAVERSED]
    rows = []
    for dimension in dimensions:
        z = np.repeat(observations.encoding.mu[:1], len(TRAVERSAL), axis=0)
        z[:, dimension] = TRAVERSAL
        rows.append(observations.engine.decode(z).images)
    total = evaluation.latent_size
    subset = "all"
    if total > len(rows):
        subset = f"the {len(rows)} of {total} dimensions with the largest KL"
    title = heading(evaluation, f"one latent dimension changed at a time ({subset})")
    figure, panel, centres = _image_grid(rows, title)
    panel.set_yticks(centres, [f"z{d}, {kl[d]:.1f} nats" for d in dimensions])
    columns = _centres(len(TRAVERSAL), observations.clean.images.shape[3])
    panel.set_xticks(columns, [_minus(f"{value:g}") for value in TRAVERSAL])
    panel.set_xlabel("value of that dimension, whose prior is N(0, 1)")
    return figure


def manifold(observations: Observations, evaluation: Evaluation) -> Figure:
    """A two-dimensional latent space, decoded on a grid of equal probability under the prior.

    As in Kingma and Welling 2014, appendix A. Raises `ValueError` for another latent size.
    """
    if evaluation.latent_size != 2:
        raise ValueError(f"latent size is {evaluation.latent_size}, but a manifold plot needs 2")
    shares = (np.arange(MANIFOLD) + 0.5) / MANIFOLD
    quantiles = [NormalDist().inv_cdf(share) for share in shares]
    across, up = np.meshgrid(quantiles, quantiles[::-1])
    z = np.stack([across.ravel(), up.ravel()], axis=1).astype(np.float32)
    rows = np.split(observations.engine.decode(z).images, MANIFOLD)
    title = heading(evaluation, "the latent space, over the quantiles of N(0, I)")
    figure, panel, centres = _image_grid(rows, title, tile_inches=SMALL_TILE_INCHES)
    ticks = [0, MANIFOLD // 4, MANIFOLD // 2, 3 * MANIFOLD // 4, MANIFOLD - 1]
    columns = _centres(MANIFOLD, observations.clean.images.shape[3])
    panel.set_xticks([columns[i] for i in ticks], [_minus(f"{quantiles[i]:.2f}") for i in ticks])
    panel.set_yticks(
        [centres[i] for i in ticks], [_minus(f"{quantiles[-1 - i]:.2f}") for i in ticks]
    )
    panel.set(xlabel="first latent dimension", ylabel="second latent dimension")
    return figure


def _image_grid(
    rows: Sequence[Floats], title: str, *, rows_together: int = 1, tile_inches: float = TILE_INCHES
) -> tuple[Figure, Axes, list[float]]:
    """Draw rows of images, (n, C, H, W) in [0, 1]; return the figure, its axes and row centres.

    Centres are y coordinates in pixels. A wider gap follows every `rows_together` rows.
    """
    _, channels, height, width = rows[0].shape
    row_step, column_step = height + _gap(height), width + _gap(width)
    group_gap = 2 * _gap(height) if rows_together > 1 else 0
    tops = [i * row_step + i // rows_together * group_gap for i in range(len(rows))]
    columns = max(map(len, rows))
    canvas = np.ones((tops[-1] + height, columns * column_step - _gap(width), channels), np.float32)
    for top, row in zip(tops, rows, strict=True):
        for left, image in zip(range(0, columns * column_step, column_step), row, strict=False):
            canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    scale = tile_inches / max(height, width)
    size = (canvas.shape[1] * scale + 1.2, canvas.shape[0] * scale + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    panel.imshow(canvas.squeeze(2) if channels == 1 else canvas, cmap="gray", vmin=0, vmax=1)
    panel.set_title(title, fontsize="medium")
    panel.set(xticks=[], yticks=[])
    panel.tick_params(length=0, labelsize="small")
    for spine in panel.spines.values():
        spine.set_visible(False)
    return figure, panel, [top + (height - 1) / 2 for top in tops]


def _gap(side: int) -> int:
    return max(1, side // GAP_SHARE)


def _centres(n: int, side: int) -> list[float]:
    """X coordinates of the centres of `n` images in a row of `_image_grid`, in pixels."""
    return [i * (side + _gap(side)) + (side - 1) / 2 for i in range(n)]


def _minus(number: str) -> str:
    """Replace hyphens with minus signs, as matplotlib does."""
    return number.replace("-", "−")
