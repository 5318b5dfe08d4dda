"""Images and labels in .npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.datasets.folder import is_file, numbered, printable
from model.datasets.image_set import DataError, Split

NPZ_KEYS: Final[Mapping[Split, Mapping[str, str]]] = {
    "train": {"images": "labels", "x_train": "y_train", "train_images": "train_labels"},
    "test": {"x_test": "y_test", "test_images": "test_labels"},
}
"""Names of the array of images, in order of preference, and of the array with their labels."""


@dataclass(frozen=True, kw_only=True)
class NpzImages:
    """What was read from an .npz file."""

    name: str
    """Of the array."""
    images: NDArray[np.uint8]  # (N, C, H, W)
    labels: NDArray[np.int64] | None
    """(N,); None if there are none, or not one number for each image."""
    unread: tuple[str, ...]
    """Other arrays, except for the images and labels of the other split."""


def has_npz_split(path: Path, split: Split) -> bool:
    """Whether a file has images of this split; false for a file that is damaged."""
    try:
        if not is_file(path) or not zipfile.is_zipfile(path):  # np.load would leave it open
            return False
        with np.load(path, allow_pickle=False) as archive:
            return any(key in archive for key in NPZ_KEYS[split])
    except Exception:  # zipfile and numpy raise a dozen types; reading will report it
        return False


def read_npz(path: Path, split: Split) -> NpzImages:
    """Read the images of an .npz file, and their labels. Raises `DataError`."""
    try:
        if not path.exists():
            raise DataError(f"{path} does not exist")
        # A FIFO would block; np.load would complain about a pickle.
        if not is_file(path) or not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not an .npz file")
        with np.load(path, allow_pickle=False) as archive:
            name = next((key for key in NPZ_KEYS[split] if key in archive), None)
            if name is None:
                names = ", ".join(map(repr, archive.files)) or "nothing"
                raise DataError(
                    f"{path} holds {names}; expected one of {', '.join(NPZ_KEYS[split])}"
                )
            array: NDArray[Any] = archive[name]
            images = _to_nchw(_to_uint8(array, f"{path}: {name}"), f"{path}: {name}")
            label_name = NPZ_KEYS[split][name]
            labels = None
            if label_name in archive:
                labels = _labels(archive, label_name, len(images), str(path))
            read = {name, *_of_the_other(archive.files, split)}
            if labels is not None:
                read.add(label_name)
            unread = tuple(printable(key) for key in archive.files if key not in read)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged files
        raise DataError(
            f"{path} cannot be read: it is damaged, or holds something other than numbers"
        ) from error
    return NpzImages(name=name, images=images, labels=labels, unread=unread)


def _of_the_other(keys: list[str], split: Split) -> tuple[str, ...]:
    """The names of the other split's images and labels, which are read when they are needed."""
    other = NPZ_KEYS["test" if split == "train" else "train"]
    name = next((key for key in other if key in keys), None)
    return () if name is None else (name, other[name])


def _labels(archive: Any, name: str, n: int, source: str) -> NDArray[np.int64] | None:
    """The labels as whole numbers, (N,); None if they are names, vectors or the like.

    Raises `DataError` if their number is wrong.
    """
    try:
        array: NDArray[Any] = archive[name]
    except Exception:  # Python objects, or damaged: the images can do without
        return None
    if array.ndim == 2 and array.shape[1] == 1:  # as in MedMNIST
        array = array[:, 0]
    if array.ndim >= 1 and len(array) != n:
        found = numbered(len(array), "label")
        raise DataError(f"{source} holds {numbered(n, 'image')}, but {found} in {name}")
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        return None
    with np.errstate(invalid="ignore"):
        labels: NDArray[np.int64] = array.astype(np.int64)
    return labels if np.array_equal(labels, array) else None


def _to_uint8(array: NDArray[Any], source: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        pixels: NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
        return pixels
    raise DataError(f"{source} is {array.dtype}; expected uint8, or floats in [0, 1]")


def _to_nchw(array: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{source} has shape {array.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W) "
            "with 1 or 3 channels"
        )
    return np.ascontiguousarray(array)
