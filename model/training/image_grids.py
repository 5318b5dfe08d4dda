"""Plots that are made of images: reconstructions, samples, walks through the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.results import Floats
from model.training.evaluate import Observations
from model.training.evaluation import Evaluation
from model.training.plot_style import heading, set_name

MAX_COLUMNS: Final = 12
"""Images side by side."""

SAMPLE_ROWS: Final = 8

MAX_TRAVERSED: Final = 10
"""Latent dimensions, those of largest KL."""

TRAVERSAL: Final = np.linspace(-3, 3, 13)
"""Values of a latent dimension, whose prior is N(0, 1)."""

MANIFOLD: Final = 20
"""Rows and columns of the manifold."""

GAP_SHARE: Final = 14
"""An image's side is so many times the white gap beside it."""

TILE_INCHES, SMALL_TILE_INCHES = 0.5, 0.35
"""Of the longer side of an image; the manifold's many are small."""

TINY: Final = 1e-12
"""Where a variance may be 0, and its logarithm is taken."""


def reconstructions(observations: Observations, evaluation: Evaluation) -> Figure:
    """Some images of each set, and what the decoder makes of them."""
    rows, names = [], []
    for found in (observations.clean, *observations.anomalies):
        chosen = np.linspace(0, found.facts.n - 1, min(MAX_COLUMNS, found.facts.n)).astype(int)
        images = found.images[chosen]
        rebuilt = observations.engine.reconstruct(images).images
        rows += [images.astype(np.float32) / 255, rebuilt]
        names.append(set_name(found))
    title = heading(evaluation, "images above, reconstructions below")
    figure, panel, centres = _image_grid(rows, title, rows_together=2)
    panel.set_yticks([(a + b) / 2 for a, b in zip(centres[::2], centres[1::2], strict=True)], names)
    return figure


def samples(observations: Observations, evaluation: Evaluation) -> Figure:
    """Images that the decoder makes of draws from the prior."""
    shape = (SAMPLE_ROWS * MAX_COLUMNS, evaluation.latent_size)
    z = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    images = observations.engine.decode(z).images
    rows = np.split(images, SAMPLE_ROWS)
    return _image_grid(rows, heading(evaluation, "decoded from z ~ N(0, I)"))[0]


def traversals(observations: Observations, evaluation: Evaluation) -> Figure:
    """One latent dimension at a time, from −3 to 3, the others as they are in one image."""
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
    which = f"the {len(rows)} of {total} dimensions of largest KL" if total > len(rows) else "all"
    title = heading(evaluation, f"one latent dimension changed at a time ({which})")
    figure, panel, centres = _image_grid(rows, title)
    panel.set_yticks(centres, [f"z{d}, {kl[d]:.1f} nats" for d in dimensions])
    columns = _centres(len(TRAVERSAL), observations.clean.images.shape[3])
    panel.set_xticks(columns, [_minus(f"{value:g}") for value in TRAVERSAL])
    panel.set_xlabel("value of that dimension, whose prior is N(0, 1)")
    return figure


def manifold(observations: Observations, evaluation: Evaluation) -> Figure:
    """A latent space of two dimensions, decoded on a grid of equal shares of the prior.

    The picture of Kingma and Welling 2014, appendix A.
    """
    if evaluation.latent_size != 2:
        raise ValueError(f"latent size is {evaluation.latent_size}, a manifold takes 2")
    shares = (np.arange(MANIFOLD) + 0.5) / MANIFOLD
    quantiles = [NormalDist().inv_cdf(share) for share in shares]
    across, up = np.meshgrid(quantiles, quantiles[::-1])
    z = np.stack([across.ravel(), up.ravel()], axis=1).astype(np.float32)
    rows = np.split(observations.engine.decode(z).images, MANIFOLD)
    title = heading(evaluation, "the latent space, over the quantiles of N(0, I)")
    figure, panel, centres = _image_grid(rows, title, tile_inches=SMALL_TILE_INCHES)
    shown = [0, MANIFOLD // 4, MANIFOLD // 2, 3 * MANIFOLD // 4, MANIFOLD - 1]
    columns = _centres(MANIFOLD, observations.clean.images.shape[3])
    panel.set_xticks([columns[i] for i in shown], [_minus(f"{quantiles[i]:.2f}") for i in shown])
    panel.set_yticks(
        [centres[i] for i in shown], [_minus(f"{quantiles[-1 - i]:.2f}") for i in shown]
    )
    panel.set(xlabel="first latent dimension", ylabel="second latent dimension")
    return figure


def _image_grid(
    rows: Sequence[Floats], title: str, *, rows_together: int = 1, tile_inches: float = TILE_INCHES
) -> tuple[Figure, Axes, list[float]]:
    """Rows of images, (n, C, H, W) in [0, 1], as one picture; and the middle of each row.

    Every `rows_together` rows, a wider gap parts them.
    """
    _, channels, height, width = rows[0].shape
    down, across = height + _gap(height), width + _gap(width)
    parting = 2 * _gap(height) if rows_together > 1 else 0
    tops = [i * down + i // rows_together * parting for i in range(len(rows))]
    columns = max(map(len, rows))
    canvas = np.ones((tops[-1] + height, columns * across - _gap(width), channels), np.float32)
    for top, row in zip(tops, rows, strict=True):
        for left, image in zip(range(0, columns * across, across), row, strict=False):
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
    """Middles of `n` images in a row of `_image_grid`, in pixels."""
    return [i * (side + _gap(side)) + (side - 1) / 2 for i in range(n)]


def _minus(number: str) -> str:
    """With the sign that matplotlib writes."""
    return number.replace("-", "−")
