"""Which images train, which choose the weights, and which calibrate."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from model.datasets.folder import numbered
from model.images.copies import Indices

HELD_OUT_SHARE: Final = 1 / 6
"""Share of the images, at most `MAX_HELD_OUT`, kept from training to calibrate on."""

MAX_HELD_OUT: Final = 10_000

VALIDATION_SHARE: Final = 1 / 20
"""Share of the images, at most `MAX_VALIDATION`, that are not trained on but choose the best
weights and set the scale of the scores. Of MNIST's 60,000 images, 49,000 remain for training."""

MAX_VALIDATION: Final = 1_000

ENOUGH_VALIDATION: Final = 30
"""Of few images a larger share validates, up to this number: medians and tails need some."""

MAX_CROSS_FITTED: Final = 1_000
"""Up to this number of images, calibration goes across folds; above it, images enough for p-values
below 1/150 can be held out."""

FOLDS: Final = 10
CONV_FOLDS: Final = 6
"""Each fold is another training, and one of a convolutional network takes half a minute."""

SMALL_FOLDS: Final = 20
"""For fewer than `SMALL` images, where a tenth would be missed and a training takes a second."""

SMALL: Final = 150


class Split(NamedTuple):
    """Sorted indices of three disjoint sets."""

    train: Indices
    validation: Indices
    held_out: Indices


def split_indices(
    n: int, seed: int, groups: Indices | None = None, *, holds_out: bool = True
) -> Split:
    """Split `n` ≥ 3 images at random. The same arguments give the same split.

    Images of one group, by `groups`, (n,), stay together. Without `holds_out` no images are kept
    to calibrate on. Raises `ValueError` for fewer images, or groups, than sets.
    """
    sets = 3 if holds_out else 2
    if n < sets:
        images = numbered(n, "image")
        raise ValueError(f"{images} cannot be split: at least {sets} are needed")
    _, members = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    if (found := int(members.max()) + 1) < sets:
        raise ValueError(
            f"{n:,} images in {numbered(found, 'group')} cannot be split: at least {sets} "
            "groups are needed"
        )
    held_out = min(MAX_HELD_OUT, max(1, int(n * HELD_OUT_SHARE))) if holds_out else 0
    enough = min(ENOUGH_VALIDATION, n // 6)
    validation = min(MAX_VALIDATION, max(1, int(n * VALIDATION_SHARE), enough))
    rank = np.empty(found, np.int64)  # of each group, in a random order
    rank[np.random.default_rng(seed).permutation(found)] = np.arange(found)
    sizes = np.bincount(members)
    if sizes.max() > held_out + validation:  # so large that only training can take it
        rank[sizes.argmax()] = found
    order = np.argsort(rank[members], kind="stable")
    ends = np.cumsum(sizes[np.argsort(rank)])  # images in the first groups, for each number
    first = _whole_groups(ends, 0, held_out, sets - 1) if holds_out else 0
    second = _whole_groups(ends, first, held_out + validation, 1)
    parts = np.split(order, [first, second])
    return Split(*(np.sort(part) for part in reversed(parts)))


def _whole_groups(ends: Indices, start: int, wanted: int, to_spare: int) -> int:
    """Where to cut so that about `wanted` images, and at least a group after `start`, lie before.

    `to_spare` groups must remain.
    """
    candidates = ends[ends > start][:-to_spare]
    return int(candidates[np.argmin(np.abs(candidates - wanted))])


def count_folds(n: int, n_groups: int, architecture: str) -> int:
    """How many folds suit `n` images in `n_groups` groups; 1 if holding images out suits them."""
    if n > MAX_CROSS_FITTED:
        return 1
    usual = SMALL_FOLDS if n_groups < SMALL else FOLDS
    return min(usual if architecture == "mlp" else CONV_FOLDS, n_groups)


def fold_indices(groups: Indices, folds: int, seed: int) -> list[Indices]:
    """Divide images into `folds` sets of about the same size, whole `groups`, (n,), in each.

    Raises `ValueError` for fewer groups than folds.
    """
    _, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    if len(sizes) < folds:
        found = numbered(len(sizes), "group")
        raise ValueError(f"{found} cannot be divided into {folds} folds")
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    by_size = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    filled = np.zeros(folds, np.int64)
    fold_of = np.empty(len(sizes), np.int64)
    for group in by_size:  # the largest first, each to the fold with the fewest images
        fold = int(filled.argmin())
        fold_of[group] = fold
        filled[fold] += sizes[group]
    return [np.flatnonzero(fold_of[members] == fold) for fold in range(folds)]
