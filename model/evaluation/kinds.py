"""Kinds of anomalies: the subfolders of a folder of anomalies."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from model.datasets.load import ImageSet


def name_and_kinds(data: ImageSet) -> tuple[str, dict[str, NDArray[np.int64]]]:
    """The name of a set of anomalies, and the indices of each kind's images by the kind's name.

    A kind is a subfolder, with all that lies below it, where the images' paths first differ. There
    are none for an array, or if all images lie in one folder; the set then has that folder's name.
    """
    if data.folder is None:
        return data.name, {}
    folders = [image.folder.split("/") if image.folder else [] for image in data.folder.images]
    levels = zip(*folders, strict=False)
    shared = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)]
    here = shared[-1] if shared else data.name
    groups: dict[str, list[int]] = {}
    for i, parts in enumerate(folders):
        below = parts[len(shared) :]
        groups.setdefault(below[0] if below else f"directly in {here}", []).append(i)
    if len(groups) < 2:
        return here, {}
    return data.name, {name: np.array(indices) for name, indices in sorted(groups.items())}
