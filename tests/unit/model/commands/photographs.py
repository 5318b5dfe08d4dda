"""Folders of made-up photographs: smooth random pictures, and several shots of one part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.unit.samples import encoded

FORMATS = {".jpg": "JPEG", ".png": "PNG"}


def picture(
    seed: int, size: tuple[int, int] = (28, 28), mode: str = "L", *, exposure: float = 1.0
) -> Image.Image:
    """A smooth picture of `size`, width and height. Each seed gives another; `exposure` dims it."""
    few = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)
    dimmed = (np.asarray(image) * exposure).round().astype(np.uint8)
    return Image.fromarray(dimmed).convert(mode)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, FORMATS[path.suffix]))


def folder_of(
    root: Path,
    names: Iterable[str],
    *,
    size: tuple[int, int] = (28, 28),
    mode: str = "L",
    first_seed: int = 0,
) -> Path:
    """Different pictures by these names, below `root`."""
    for seed, name in enumerate(names, first_seed):
        save(root / name, picture(seed, size, mode))
    return root


def folder_of_arrays(root: Path, images: NDArray[np.uint8], copies: int = 1) -> Path:
    """Grey images, (N, 1, H, W), each in so many files."""
    for number, image in enumerate(images):
        for copy in range(copies):
            save(root / f"{number:03}-{copy}.png", Image.fromarray(image[0]))
    return root


def shots(root: Path, name: str, parts: int = 24, per_part: int = 4) -> Path:
    """Parts at several exposures, by a name such as `{part:02}/{shot}.png`."""
    numbers = np.random.default_rng(0).permutation(parts * per_part)
    for part in range(parts):
        for shot in range(per_part):
            number = int(numbers[part * per_part + shot])
            path = root / name.format(part=part, shot=shot, number=number)
            save(path, picture(part, exposure=1 - shot / 10))
    return root
