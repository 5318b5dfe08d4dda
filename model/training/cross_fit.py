"""Scores of images by networks that were not trained on them, so that every image calibrates.

For few images: a part kept aside would be too small for small p-values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.datasets.folder import numbered
from model.images.copies import Indices
from model.scores.calibration import Floats
from model.training.calibrate import scores_by_dtype
from model.training.split import Split, fold_indices, split_indices
from model.training.statistics import fused_parts, fused_scale, mean_contrast
from model.training.train import Step, Trained, train

MIN_OUTSIDE: Final = 2
"""Groups outside a fold: one to train on, and one to choose the weights."""


def fold_splits(groups: Indices, folds: int, seed: int) -> list[Split]:
    """A split for each fold of images with these `groups`, (n,). The fold is held out.

    The first has the most images to train on: its network is the one that serves.

    Raises `ValueError` for fewer groups than folds, or than are needed to train and to validate
    without one fold.
    """
    splits = []
    for fold in fold_indices(groups, folds, seed):
        outside = np.setdiff1d(np.arange(len(groups)), fold)
        if len(np.unique(groups[outside])) < MIN_OUTSIDE:
            raise ValueError(
                f"{len(groups):,} images in {numbered(len(np.unique(groups)), 'group')} cannot be "
                f"divided into {numbered(folds, 'fold')}: {MIN_OUTSIDE} groups at least must be "
                "left without any one fold, to train and to validate"
            )
        inner = split_indices(len(outside), seed, groups[outside], holds_out=False)
        splits.append(Split(outside[inner.train], outside[inner.validation], fold))
    return sorted(splits, key=lambda split: len(split.held_out))


def train_folds(
    first: Trained,
    images: NDArray[np.uint8],
    splits: Sequence[Split],
    *,
    device: torch.device | None = None,
    on_step: Callable[[int, Step], None] = lambda *_: None,
) -> list[Trained]:
    """Train a network on uint8 `images`, (N, C, H, W), for each split, as the `first` one was.

    They stop after as many steps as its best weights have, so that all are alike. `on_step` is
    called with the number of the split as well. Ctrl-C ends with the networks that are complete.
    """
    options = replace(first.options, stop_after=first.step)
    networks = [first]
    for number, split in enumerate(splits):
        show = partial(on_step, number)
        trained = train(first.network.config, images, options, split, device=device, on_step=show)
        if not trained.finished:
            break
        networks.append(trained)
    return networks


def on_common_scale(folds: Sequence[Trained], images: NDArray[np.uint8]) -> list[Trained]:
    """The networks of all `folds` with scores that can be compared.

    A network's own scale comes from few images. Here `fused` has the scale of all uint8 `images`,
    (N, C, H, W), each by the network that has not seen it. The densities over latents, whose spaces
    differ, are shifted so that the median over the trained images is that of the first network.
    """
    flat = torch.from_numpy(images.reshape(len(images), -1))
    contrast = mean_contrast(flat)
    aligned: list[Trained] = []
    for fold in folds:
        if fold.statistics is None:
            return list(folds)
        mixture = fold.statistics.mixture
        trained = fused_parts(fold.network, flat[fold.split.train], contrast, mixture)
        middle = float(np.median(trained[:, 2]))
        if not aligned:
            first = middle
        weights = fold.statistics.mixture_log_weights + (middle - first)
        statistics = replace(fold.statistics, contrast=contrast, mixture_log_weights=weights)
        aligned.append(replace(fold, statistics=statistics))
    parts = [
        fused_parts(fold.network, flat[fold.split.held_out], contrast, fold.statistics.mixture)
        for fold in aligned
        if fold.statistics is not None
    ]
    median, tail = fused_scale(np.concatenate(parts))
    return [
        replace(
            fold,
            statistics=fold.statistics
            and replace(fold.statistics, fused_median=median, fused_tail=tail),
        )
        for fold in aligned
    ]


def cross_scores(
    folds: Sequence[Trained], images: NDArray[np.uint8]
) -> dict[str, dict[str, Floats]]:
    """Every score of the images of all `folds`, (n,) by dtype and name, in the folds' order."""
    parts = [scores_by_dtype(as_bundle(fold), images[fold.split.held_out]) for fold in folds]
    return {
        dtype: {name: np.concatenate([part[dtype][name] for part in parts]) for name in scores}
        for dtype, scores in parts[0].items()
    }


def as_bundle(trained: Trained, name: str = "fold", **fields: Any) -> Bundle:
    """A bundle of a trained network, without calibration."""
    return Bundle(
        name=name,
        config=trained.network.config,
        weights=trained.network.state_dict(),
        pixel_variance=trained.pixel_variance,
        statistics=trained.statistics,
        detector=trained.detector,
        **fields,
    )
