"""What the labels of known data sets mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from model.datasets.download import DATA_SETS

CLASS_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
"""Of each label, from 0. Those of Fashion-MNIST are its README's
(https://github.com/zalandoresearch/fashion-mnist#labels)."""


def class_names(files: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names of the labels of the data set with these `files`, the sha256 of each by name.

    None if it is not one of those in `CLASS_NAMES`, whatever it is called.
    """
    for name, names in CLASS_NAMES.items():
        if not {file.sha256 for file in DATA_SETS[name].files}.isdisjoint(files.values()):
            return names
    return None
