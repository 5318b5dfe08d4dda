"""Read what an evaluation needs: clean images, anomalies and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from model.commands.common import find_data
from model.commands.reading import show_read
from model.datasets.folder import numbered, scan, some
from model.datasets.load import (
    DataError,
    ImageSet,
    Split,
    load_images,
    load_unseen,
    take_label,
)
from model.evaluation.masks import load_masks, match_masks, other_aspect
from model.images.preprocessing import Preprocessing

INVERTED: Final = 0.5
"""Masks that mark more than this share of the pixels are probably inverted."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Images of one shape, and where they are from."""

    clean: ImageSet
    split: Split
    """The clean images' split: `train` for all of a folder."""
    anomalies: tuple[ImageSet, ...]
    masks: tuple[NDArray[np.bool_] | None, ...]
    """For each set of anomalies, (N, H, W), or None if no image has a mask."""
    training: NDArray[np.uint8] | None
    """The training images beside the clean ones, (N, C, H, W), if there are any."""


def read_inputs(
    console: Console,
    image_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    *,
    data: Path,
    anomalies: Sequence[Path],
    masks: Sequence[Path],
    normal_label: int | None,
) -> Inputs:
    """Load all images as (C, H, W) `image_shape` by a bundle's `preprocessing`.

    Prints what was read and what was left out.

    If a path is given both for clean images and for anomalies, the anomalies are its images with
    other labels than `normal_label`. Raises `DataError`.
    """
    path = find_data(data)
    clean, split = _read_clean(console, path, image_shape, preprocessing, normal_label)
    sets = []
    for given in map(find_data, anomalies):
        strange, _ = load_unseen(
            given, image_shape=image_shape, preprocessing=preprocessing, anomalous=True
        )
        if normal_label is not None and given.resolve() == path.resolve():
            strange = _without_label(console, strange, normal_label)
        else:
            show_read(console, strange)
        sets.append(strange)
    return Inputs(
        clean=clean,
        split=split,
        anomalies=tuple(sets),
        masks=_read_masks(console, sets, masks, image_shape),
        training=_training_images(path, split, image_shape, normal_label),
    )


def _read_clean(
    console: Console,
    path: Path,
    image_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    normal_label: int | None,
) -> tuple[ImageSet, Split]:
    data, split = load_unseen(path, image_shape=image_shape, preprocessing=preprocessing)
    if normal_label is None:
        show_read(console, data)
        return data, split
    chosen = take_label(data, normal_label)
    show_read(console, replace(data, labels=None))
    console.print(
        f"  clean: the {numbered(len(chosen.images), 'image')} with label {normal_label}; left "
        "out: the "
        f"{len(data.images) - len(chosen.images):,} with other labels"
    )
    return chosen, split


def _without_label(console: Console, data: ImageSet, label: int) -> ImageSet:
    if data.labels is None:
        return data
    others = np.flatnonzero(data.labels != label)
    if not len(others):
        raise DataError(f"{data.name} has no anomalies: all of its images have label {label}")
    n = numbered(len(others), "image")
    console.print(f"  anomalies: the {n} with other labels than {label}")
    return data.take(others)


def _training_images(
    path: Path, split: Split, image_shape: tuple[int, int, int], normal_label: int | None
) -> NDArray[np.uint8] | None:
    if split == "train":
        return None
    try:
        training = load_images(path, "train", image_shape=image_shape)
        return (training if normal_label is None else take_label(training, normal_label)).images
    except DataError:
        return None  # the test images alone are enough for an evaluation


def _read_masks(
    console: Console,
    sets: Sequence[ImageSet],
    folders: Sequence[Path],
    image_shape: tuple[int, int, int],
) -> tuple[NDArray[np.bool_] | None, ...]:
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"--masks {folder} is not a directory")
    files = match_masks(sets, [scan(folder) for folder in folders])
    loaded: list[NDArray[np.bool_] | None] = []
    for data, paths in zip(sets, files.paths, strict=True):
        if not any(paths):
            if folders:
                n = numbered(len(paths), "image")
                console.print(f"masks: 0 of {n} of {data.name}")
            loaded.append(None)
            continue
        masks = load_masks(paths, image_shape)
        _say_masks(console, data, paths, masks)
        loaded.append(masks)
    if files.unused:
        unused = numbered(len(files.unused), "mask has", "masks have")
        console.print(f"  {unused} no image: {some(files.unused)}")
    return tuple(loaded)


def _say_masks(
    console: Console,
    data: ImageSet,
    paths: Sequence[Path | None],
    masks: NDArray[np.bool_],
) -> None:
    """Print which images have a mask, and what is odd about the masks."""
    missing = [name for name, path in zip(data.names, paths, strict=True) if path is None]
    has_defect: NDArray[np.bool_] = np.any(masks, axis=(1, 2))
    empty = [
        name
        for name, path, found in zip(data.names, paths, has_defect, strict=True)
        if path is not None and not found
    ]
    n = numbered(len(paths), "image")
    console.print(f"masks: {len(paths) - len(missing):,} of {n} of {data.name}")
    if missing:
        subject = numbered(len(missing), "image has", "images have")
        console.print(f"  {subject} no mask: {some(missing)}")
    if empty:
        subject = numbered(len(empty), "mask is empty, and counts", "masks are empty, and count")
        console.print(f"  {subject} as none: {some(empty)}")
    if odd := other_aspect(paths, data):
        subject = numbered(
            len(odd),
            "mask has another aspect ratio than its image, so it does not lie over it",
            "masks have another aspect ratio than their images, so they do not lie over them",
        )
        console.print(f"warning: {subject}: {some(odd)}")
    if has_defect.any() and (share := masks[has_defect].mean()) > INVERTED:
        console.print(
            f"warning: the masks mark {share:.0%} of the pixels as defects; are they inverted? "
            "Black means no defect"
        )
