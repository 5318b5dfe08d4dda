"""The kinds of anomalies in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.datasets.folder import Folder, ImageFile
from model.datasets.load import ImageSet
from model.evaluation.kinds import name_and_kinds


def image_set(*names: str) -> ImageSet:
    files = [
        ImageFile(path=Path("bad") / name, name=name, format="PNG", mode="L", width=4, height=4)
        for name in names
    ]
    folder = Folder(path=Path("bad"), images=tuple(files), left_out=())
    images = np.zeros((len(names), 1, 4, 4), np.uint8)
    return ImageSet(name="bad", images=images, files={}, folder=folder)


@pytest.mark.parametrize(
    ("names", "name", "kinds"),
    [
        (("a.png", "b.png"), "bad", {}),
        (("crack/a.png", "crack/b.png"), "crack", {}),
        (("crack/a.png", "dent/b.png", "crack/c.png"), "bad", {"crack": [0, 2], "dent": [1]}),
        (("test/crack/a.png", "test/dent/b.png"), "bad", {"crack": [0], "dent": [1]}),
        (("crack/1/a.png", "crack/2/b.png", "dent/c.png"), "bad", {"crack": [0, 1], "dent": [2]}),
        (("a.png", "dent/b.png"), "bad", {"dent": [1], "directly in bad": [0]}),
    ],
)
def test_a_kind_is_a_subfolder(
    names: tuple[str, ...], name: str, kinds: dict[str, list[int]]
) -> None:
    found_name, found = name_and_kinds(image_set(*names))
    assert found_name == name
    assert {key: list(indices) for key, indices in found.items()} == kinds


def test_arrays_have_none() -> None:
    images = np.zeros((3, 1, 4, 4), np.uint8)
    assert name_and_kinds(ImageSet(name="x", images=images, files={})) == ("x", {})
