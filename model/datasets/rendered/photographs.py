"""A data set of rendered photographs: every file's name and bytes, by a seed.

- `train/part-001/exp1.jpg`: shots of normal parts, to train on
- `test-normal/part-061/exp1.jpg`: shots of other normal parts
- `test-anomalous/scratch/part-073.jpg`: parts with a defect, from obvious to barely visible
- `masks/scratch/part-073.png`: where it is, 255, and 0 elsewhere
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count, islice
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from model.datasets.rendered.camera import EXPOSURES, develop, expose, jpeg, make_shot
from model.datasets.rendered.defects import KINDS
from model.datasets.rendered.plate import make_plate
from model.datasets.rendered.surface import Field

WEAKEST: Final = 0.12
"""Strength of the last defect of each kind; the first has 1, and the others lie evenly between."""

VISIBLE_LEVELS: Final = 3.0
"""Grey levels, in any channel, by which a pixel has to differ to belong to the defect."""

CLOSING: Final = 5
"""Gaps in a mask of fewer pixels than this belong to it."""

MIN_PIXELS: Final = 12
MIN_PEAK_LEVELS: Final = 8.0
"""What a defect has to change, or another is drawn: one in the dark may not show at all."""

MAX_TRIES: Final = 50


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many parts there are of each sort. Each has a number of its own."""

    train: int
    test_normal: int
    per_kind: int

    @classmethod
    def of(cls, parts: int) -> Sizes:
        """For so many parts to train on: a fifth of them to test with, and of each kind."""
        fifth = max(1, parts // 5)
        return cls(train=parts, test_normal=fifth, per_kind=fifth)


@dataclass(frozen=True, kw_only=True)
class DefectPhoto:
    """A part with a defect, and the same part without it under the same light."""

    levels: Field
    """Without noise, (3, H, W), in grey levels."""
    clean_levels: Field
    mask: NDArray[np.bool_]
    """(H, W): where the two differ by `VISIBLE_LEVELS`, and the gaps within."""
    pixels: NDArray[np.uint8]
    """The photograph, (H, W, 3)."""


def normal_photos(seed: int, number: int) -> Iterator[NDArray[np.uint8]]:
    """The shots of a part, (H, W, 3), from the shortest exposure to the longest."""
    rng = np.random.default_rng([seed, number])
    plate = make_plate(rng)
    for exposure in EXPOSURES:
        yield develop(rng, expose(plate.surface, make_shot(rng, exposure)))


def defect_photo(seed: int, number: int, kind: str, strength: float) -> DefectPhoto:
    """One shot of a part with a defect of a kind from `KINDS`; a strength of 1 is obvious."""
    rng = np.random.default_rng([seed, number])
    plate = make_plate(rng)
    shot = make_shot(rng, rng.choice(EXPOSURES))
    clean_levels = expose(plate.surface, shot)
    levels = clean_levels
    for _ in range(MAX_TRIES):
        levels = expose(KINDS[kind](rng, plate, strength), shot)
        difference = np.abs(levels - clean_levels).max(axis=0)
        changed = difference >= VISIBLE_LEVELS
        if changed.sum() >= MIN_PIXELS and difference.max() >= MIN_PEAK_LEVELS:
            break
    return DefectPhoto(
        levels=levels,
        clean_levels=clean_levels,
        mask=_closed(changed),
        pixels=develop(rng, levels),
    )


def photographs(sizes: Sizes, seed: int) -> Iterator[tuple[str, bytes]]:
    """The files: their paths, with slashes, and their bytes.

    The same for the same seed, on one machine with the same versions of NumPy and Pillow.
    """
    numbers = count(1)
    for folder, parts in (("train", sizes.train), ("test-normal", sizes.test_normal)):
        for number in islice(numbers, parts):
            for shot, pixels in enumerate(normal_photos(seed, number), 1):
                yield f"{folder}/part-{number:03}/exp{shot}.jpg", jpeg(pixels)
    for kind in KINDS:
        for strength in np.geomspace(1, WEAKEST, sizes.per_kind):
            number = next(numbers)
            photo = defect_photo(seed, number, kind, float(strength))
            yield f"test-anomalous/{kind}/part-{number:03}.jpg", jpeg(photo.pixels)
            yield f"masks/{kind}/part-{number:03}.png", _mask_file(photo.mask)


def _closed(changed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the gaps in it: the lit and the shaded side of a dent have one between them."""
    grown = Image.fromarray(changed).convert("L").filter(ImageFilter.MaxFilter(CLOSING))
    return np.asarray(grown.filter(ImageFilter.MinFilter(CLOSING))) > 0


def _mask_file(mask: NDArray[np.bool_]) -> bytes:
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()
