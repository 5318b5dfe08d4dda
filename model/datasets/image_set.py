"""Images in memory, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from model.datasets.folder import IMAGE_SUFFIXES, Folder, LeftOut

Split = Literal["train", "test"]


class DataError(Exception):
    """There are no usable images. The message names the file and the problem."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images and where they come from."""

    name: str
    images: NDArray[np.uint8]  # (N, C, H, W)
    files: Mapping[str, str]
    """sha256 of each file by name; for a folder of images, one sha256 over all of them."""
    folder: Folder | None = None
    """The image files, one for each of `images`, and what was left out; None for arrays."""
    labels: NDArray[np.int64] | None = None
    """The labels stored with an array, (N,). They are not used unless asked for."""
    array: str = ""
    """The name of the array in an .npz file."""
    unread: tuple[str, ...] = ()
    """Other arrays of the .npz file, except for the images and labels of its other split."""

    @property
    def skipped(self) -> tuple[LeftOut, ...]:
        """The image files that could not be read."""
        left_out = () if self.folder is None else self.folder.left_out
        return tuple(item for item in left_out if item.kind in IMAGE_SUFFIXES)

    @property
    def names(self) -> tuple[str, ...]:
        """The images' file names, relative to the folder; numbers for arrays."""
        if self.folder is None:
            return tuple(map(str, range(len(self.images))))
        return tuple(image.name for image in self.folder.images)

    def take(self, indices: NDArray[np.int64]) -> Self:
        """The images at these indices alone."""
        folder = self.folder
        if folder is not None:
            folder = replace(folder, images=tuple(folder.images[i] for i in indices))
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], folder=folder, labels=labels)
