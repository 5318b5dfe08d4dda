"""The images to train on: reading them, grouping them, and splitting them between the networks."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from model.commands.reading import show_read
from model.datasets.folder import Folder, numbered, scan
from model.datasets.groups import BY_FOLDER, GroupError, group_images, suggest
from model.datasets.idx import find_idx
from model.datasets.layout import holds_masks, is_defect, is_normal
from model.datasets.load import (
    DataError,
    ImageSet,
    has_test_split,
    load_images,
    no_images,
    stored_shape,
    take_label,
)
from model.datasets.near_copies import MAX_COMPARED, find_near_copies
from model.images.copies import Hashes, Indices, pixel_hashes, without_copies
from model.images.preprocessing import SCALED, WHOLE, Preprocessing
from model.training.backbone_weights import is_installed
from model.training.chosen import (
    DETECTOR_SIDE,
    PHOTO_SIDE,
    SMALL_SIDE,
    can_be_averaged,
    choose_channels,
    choose_sides,
    is_grey,
    is_photographs,
    longer_side,
    nearest_sides,
)
from model.training.cross_fit import fold_splits
from model.training.split import Split, count_folds, split_indices

MIN_IMAGES: Final = 3

ARCH_FEATURES: Final = "features"
"""The value of `--arch` that adds a detector to the network that suits the images."""

MAX_PIXEL_BYTES: Final = 1 << 30
"""Of all images together. If they take more at `DETECTOR_SIDE`, they are reduced further."""

MANY_NEAR_COPIES: Final = 0.2
"""Share of the calibration images with a near-copy among the training images to warn about. Of
5,000 clothes 5 % have one, and of 5,000 handwritten ones 15 %."""


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """The images without copies, and facts about how they were read."""

    data: ImageSet
    hashes: Hashes
    """Of the images' pixels, (N,)."""
    facts: Mapping[str, Any]
    """For the bundle's provenance."""
    test_images: ImageSet | None
    """Those that come with an array data set."""

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.data.name

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images were read, for the bundle; arrays are taken as they are."""
        return WHOLE if self.data.folder is None else SCALED

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of each file by name."""
        return self.data.files

    @property
    def images(self) -> NDArray[np.uint8]:
        """(N, C, H, W)."""
        return self.data.images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


def find_files(path: Path) -> Folder | None:
    """The image files in a folder, by their headers; None if `path` is none, or holds arrays."""
    return scan(path) if path.is_dir() and not find_idx(path) else None


def read_training_images(
    console: Console, arguments: argparse.Namespace, folder: Folder | None
) -> TrainingImages:
    """Read the images at `--data` in the shape asked for, or one that suits them, and print it.

    `folder` is that of `find_files`. Raises `DataError` for images that cannot be used or look like
    a test set.
    """
    path: Path = arguments.data
    if folder is not None:
        data = _read_folder(console, folder, arguments)
    elif (stored := stored_shape(path)) is not None:
        if arguments.channels not in (None, stored[0]) or arguments.size is not None:
            raise DataError(
                f"{path} holds images of shape {stored} (C, H, W), which stay as they are: --size "
                "and --channels are for image files"
            )
        data = load_images(path, "train", image_shape=stored)
    else:  # raises an error that says why there are none
        data = load_images(path, "train", image_shape=(1, 28, 28))
    if arguments.normal_label is not None:
        data = take_label(data, arguments.normal_label)
    show_read(console, data)
    if _is_turned_grey(data) and arguments.channels is None:
        console.print("no image has any colour, so all are read as grey")
    hashes = pixel_hashes(data.images)
    kept = without_copies(hashes)
    copies = len(data.images) - len(kept)
    if copies:
        console.print(
            f"left out {numbered(copies, 'duplicate')}, the same pixel by pixel: "
            f"{numbered(len(kept), 'different image')} remain{'s' if len(kept) == 1 else ''}"
        )
    if len(kept) < MIN_IMAGES:
        found = numbered(len(kept), "different image")
        raise DataError(f"{path} holds {found}, too few to train on: {MIN_IMAGES} is the minimum")
    facts = {
        "skipped_files": len(data.skipped),
        "copies_left_out": copies,
        **({} if arguments.normal_label is None else {"label": arguments.normal_label}),
        **({} if arguments.group is None else {"grouped_by": arguments.group}),
    }
    test = None
    if has_test_split(path):
        channels, height, width = data.images.shape[1:]
        test = load_images(path, "test", image_shape=(channels, height, width))
        if arguments.normal_label is not None:
            test = take_label(test, arguments.normal_label)
    return TrainingImages(data=data.take(kept), hashes=hashes[kept], facts=facts, test_images=test)


def has_detector(arguments: argparse.Namespace, data: TrainingImages) -> bool:
    """Whether the network of these images gets a detector.

    With `--arch features` it does. By default photographs in folders do, if a backbone's weights
    are available.
    """
    if not wants_detector(arguments):
        return False
    is_folder = data.data.folder is not None
    return arguments.arch == ARCH_FEATURES or (is_folder and is_photographs(data.images))


def expects_detector(arguments: argparse.Namespace, folder: Folder | None) -> bool | None:
    """`has_detector` before any image is decoded; None if only the pixels can tell.

    `folder` is that of `find_files`.
    """
    if not wants_detector(arguments):
        return False
    if arguments.arch == ARCH_FEATURES:
        return True
    if folder is None or not folder.images:
        return False
    return True if max(_sides(folder, arguments)) > SMALL_SIDE else None


def wants_detector(arguments: argparse.Namespace) -> bool:
    """Whether the options give photographs a detector."""
    if arguments.arch is None:
        is_relu = arguments.head == "relu"
        return not is_relu and (arguments.backbone is not None or is_installed())
    return bool(arguments.arch == ARCH_FEATURES)


def _read_folder(console: Console, folder: Folder, arguments: argparse.Namespace) -> ImageSet:
    if not folder.images:
        raise DataError(no_images(folder))
    channels = _channels(folder, arguments)
    sides = _sides(folder, arguments)
    shape = (channels, *sides)
    data = load_images(folder.path, "train", image_shape=shape, preprocessing=SCALED, folder=folder)
    _report_rounding(console, folder, arguments, max(sides))
    _warn_of_name(console, folder.path)
    if channels == 3 and arguments.channels is None and is_grey(data.images):
        return replace(data, images=data.images[:, :1].copy())  # each channel is the grey one
    return data


def _channels(folder: Folder, arguments: argparse.Namespace) -> int:
    channels: int = arguments.channels or choose_channels(folder)
    return channels


def _sides(folder: Folder, arguments: argparse.Namespace) -> tuple[int, int]:
    """Height and width of the images of a folder that has some.

    Raises `DataError` for a `--size` that the network beside a detector could not divide into
    squares to average: it would be fully connected and have a hundred million weights, or take
    hours.
    """
    size: int | tuple[int, int] | None = arguments.size
    if not isinstance(size, tuple):
        return choose_sides(folder, size, _max_side(folder, arguments))
    if wants_detector(arguments) and arguments.head != "relu" and not can_be_averaged(size):
        better = "x".join(map(str, nearest_sides(size)))
        raise DataError(
            f"--size is {size[0]}x{size[1]}, but the network beside a detector averages squares of "
            f"pixels, and none fits both sides: {better} is the nearest size that works"
        )
    return size


def _max_side(folder: Folder, arguments: argparse.Namespace) -> int:
    """Longer side that larger images are reduced to."""
    if not wants_detector(arguments):
        return PHOTO_SIDE
    n = _channels(folder, arguments) * len(folder.images)
    return max(PHOTO_SIDE, min(DETECTOR_SIDE, math.isqrt(MAX_PIXEL_BYTES // n)))


def _report_rounding(
    console: Console, folder: Folder, arguments: argparse.Namespace, longer: int
) -> None:
    """Print that the longer side was rounded, if it was."""
    wanted = longer_side(folder) if arguments.size is None else arguments.size
    is_reduced = arguments.size is None and wanted > _max_side(folder, arguments)
    if isinstance(wanted, tuple) or is_reduced or wanted == longer:
        return
    console.print(
        f"the longer side is {longer} pixels instead of {wanted}, so that the network can average "
        "squares of pixels"
    )


def _warn_of_name(console: Console, path: Path) -> None:
    """Print a warning if the folder's own name says that its images are not for training."""
    name = path.resolve().name
    if is_defect(name) or (holds_masks(name) and not is_normal(name)):
        console.print(
            f"warning: the network learns that what is in {name} is normal, although its name says "
            "otherwise"
        )


def _is_turned_grey(data: ImageSet) -> bool:
    """Whether grey images were read from files that could hold colour."""
    return (
        data.folder is not None and data.images.shape[1] == 1 and choose_channels(data.folder) == 3
    )


def group_of_each(console: Console, data: TrainingImages, by: str | None) -> Indices:
    """The group of each image, (N,), by `--group`; without it, each is its own."""
    if by is None:
        return np.arange(len(data.images))
    if data.data.folder is None:
        raise GroupError("--group is for folders of image files, whose names say what they show")
    groups = group_images(data.data.folder.images, by)
    how = "each subfolder" if by == BY_FOLDER else f"the images of each {shlex.quote(by)}"
    console.print(f"kept together: {how}, {numbered(int(groups.max()) + 1, 'group')}")
    return groups


def plan(groups: Indices, architecture: str, folds: int | None, seed: int) -> list[Split]:
    """A split for each network to train: one for each fold, or one that holds images out.

    Raises `ValueError` for more `folds` than groups, or too few groups.
    """
    n_groups = int(groups.max()) + 1
    found = numbered(n_groups, "group" if n_groups < len(groups) else "image")
    if n_groups < MIN_IMAGES:
        raise ValueError(
            f"{found} cannot be split into images to train on, to validate and to calibrate: "
            f"{MIN_IMAGES} groups is the minimum"
        )
    folds = folds or count_folds(len(groups), n_groups, architecture)
    if folds == 1:
        return [split_indices(len(groups), seed, groups)]
    if folds > n_groups:
        raise ValueError(f"--folds is {folds:,}, but there are only {found}")
    try:
        return fold_splits(groups, folds, seed)
    except ValueError as error:  # one fold has all groups but one
        raise ValueError(
            f"--folds is {folds:,}, too few for {found}: use --folds {n_groups}"
        ) from error


def warn_of_near_copies(
    console: Console, data: TrainingImages, splits: Sequence[Split], by: str | None = None
) -> None:
    """Print a warning if many calibration images look like copies of training images.

    The advice is another one if they are grouped already, by `--group`.
    """
    near = find_near_copies(data.images)
    compared = [split.held_out[split.held_out < MAX_COMPARED] for split in splits]
    trained = [np.concatenate([split.train, split.validation]) for split in splits]
    found = [near.across(*sets) for sets in zip(compared, trained, strict=True)]
    n, count = sum(map(len, compared)), sum(map(len, found))
    if not count or count < MANY_NEAR_COPIES * n:
        return
    split = next(i for i, images in enumerate(found) if len(images))
    pair = found[split][0], near.across(trained[split], found[split][:1])[0]
    one, other = (data.data.names[i] for i in pair)
    folder = data.data.folder
    better = None if folder is None else suggest(folder.images, near)
    if better is not None and better != by:
        advice = f"--group {shlex.quote(better)} keeps them together"
    elif by is not None:
        advice = f"--group {shlex.quote(by)} puts them into different groups"
    elif folder is not None:
        advice = (
            "no pattern in the file names tells them apart. If each subfolder shows one part, add "
            f"--group {BY_FOLDER}; otherwise sort the shots of each part into a subfolder first"
        )
    else:
        advice = "keep one of each"
    console.print(
        f"warning: {count:,} of {numbered(n, 'calibration image')} "
        f"{'looks' if count == 1 else 'look'} almost the same as images that the network is "
        f"trained on, such as {one} and {other}. If these show the same part, new parts will have "
        f"larger errors, and more false alarms than alpha: {advice}"
    )
