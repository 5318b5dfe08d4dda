"""Near-copies: several shots of one part, or frames of one film, that look alike.

If one is trained on and another calibrates, the calibration images look easier than new ones will,
and false alarms become more frequent than they should be.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images.copies import Indices

SIDE: Final = 32
"""Pixels along a side of the thumbnails that are compared."""

MIN_CORRELATION: Final = 0.95
"""Of near-copies' thumbnails, each less its own mean and the mean image."""

MAX_RATIO: Final = 0.2
"""Of near-copies' distance to that of an image as far off as `NEIGHBOUR`: digits and clothes, which
are all alike, have few neighbours so much closer than the others."""

SURE_CORRELATION: Final = 0.985
"""A pair like this is one of near-copies however close other images are: a part may have a hundred
shots. Of 5,000 clothes .2 % have such a neighbour, and of tiles with six shots of each half."""

NEIGHBOUR: Final = 20
NEIGHBOUR_SHARE: Final = 1 / 20
"""An image's distance to its neighbours is that to the one of this rank, or share of all images if
that is more: beyond the other shots of its part."""

MAX_COMPARED: Final = 5_000
"""Of more images, only the first are compared: the time grows with their square."""

CHUNK: Final = 1_000

Floats = NDArray[np.float32]


class NearCopies(NamedTuple):
    """Pairs of images that look alike, each once."""

    first: Indices
    second: Indices

    def across(self, one: Indices, other: Indices) -> Indices:
        """The images of `one` that have a near-copy in `other`, sorted."""
        pairs = np.concatenate([np.stack(self, 1), np.stack(self[::-1], 1)])
        chosen = np.isin(pairs[:, 0], one) & np.isin(pairs[:, 1], other)
        found: Indices = np.unique(pairs[chosen, 0])
        return found


def find_near_copies(images: NDArray[np.uint8]) -> NearCopies:
    """Near-copies among the first `MAX_COMPARED` of uint8 `images`, (N, C, H, W)."""
    thumbnails = _thumbnails(images[:MAX_COMPARED])
    n = len(thumbnails)
    rank = min(max(NEIGHBOUR, int(n * NEIGHBOUR_SHARE)), n - 2)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, n if rank >= 1 else 0, CHUNK):
        similarity = thumbnails[start : start + CHUNK] @ thumbnails.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -1  # an image is not its own copy
        usual = -np.partition(-similarity, rank, axis=1)[:, rank, None]
        near = 1 - similarity <= MAX_RATIO * (1 - usual)
        close = (similarity >= MIN_CORRELATION) & (near | (similarity >= SURE_CORRELATION))
        pairs.append(np.sort(np.argwhere(close) + np.array([start, 0]), axis=1))
    return NearCopies(*np.unique(np.concatenate(pairs), axis=0).T)


def _thumbnails(images: NDArray[np.uint8]) -> Floats:
    """Small grey copies less their mean and the mean image, of length 1: (N, `SIDE`²)."""
    grey = (image.astype(np.float32).mean(axis=0) for image in images)
    small = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))
            for image in grey
        ]
    ).reshape(len(images), -1)
    small = _unit(small - small.mean(axis=1, keepdims=True))
    mean = _unit(small.mean(axis=0, keepdims=True))
    return _unit(small - small @ mean.T * mean)


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = rows / np.maximum(length, np.float32(1e-6))
    return scaled
