"""Masks of defects: found by the names of their images, and read at the network's resolution."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.datasets.folder import Folder, numbered
from model.datasets.layout import MASK_NAME, TEST, holds_masks, masks_beside, words
from model.datasets.load import MASK, MAX_PIXELS, DataError, ImageSet
from model.images.preprocessing import TURNS, ImageError, open_image

MASK_PREFIX: Final = re.compile(
    r"(?i)^(mask|masks|label|labels|gt|groundtruth)[-_. ](?P<image>.+)$"
)
"""As `MASK_NAME`, with the affix in front: `mask_000`."""

PLAIN_FOLDERS: Final = TEST | {"image", "images", "img", "imgs"}
"""Words in the names of folders that images lie in and their masks do not, or the reverse."""

JPEG_THRESHOLD: Final = 127
"""Grey levels above this are defects in a mask stored as JPEG, which blurs edges. In other formats
all but black is."""

ASPECT_TOLERANCE: Final = 0.02
"""Relative difference in aspect ratio above which a mask is probably another image's."""

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """Which file holds which image's mask."""

    paths: tuple[tuple[Path | None, ...], ...]
    """For each set a path for each of its images; None for an image without a mask."""
    unused: tuple[str, ...]
    """Names of masks that belong to no image."""


def match_masks(sets: Sequence[ImageSet], folders: Sequence[Folder]) -> MaskFiles:
    """Match the masks in `folders`, and those that lie beside the images, with their images.

    A mask has its image's path relative to the folder, but for the suffix, for affixes such as
    `_mask`, and for folders such as `test` and `ground_truth`: `ground_truth/crack/000_mask.png` is
    the mask of `test/crack/000.jpg`. If no mask of a set has the same path, the end of the path
    decides where it fits one image alone: `crack/000.png` is the mask of `000.png` in a folder
    `crack`.

    Raises `DataError`, with a mask and an image, if there are folders and none of their masks fits.
    """
    known = {path.resolve() for data in sets for path in _paths(data)}
    given = [path for folder in folders for path in _mask_files(folder, known)]
    full = [_key(path.resolve().parts[1:]) for _, path in given]
    relative = [_key(PurePosixPath(name).parts) for name, _ in given]
    used: set[int] = set()
    paths = []
    for data in sets:
        found = _match(data, relative, full)
        used.update(found.values())
        masks = {i: given[j][1] for i, j in found.items()}
        beside = _beside(data)
        paths.append(tuple(masks.get(i, beside.get(i)) for i in range(len(data.images))))
    if folders and not used:
        _raise_unmatched(sets, folders, [name for name, _ in given])
    unused = tuple(name for j, (name, _) in enumerate(given) if j not in used)
    return MaskFiles(paths=tuple(paths), unused=unused)


def load_mask(path: Path, sides: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a mask and resize it to `sides`, (H, W). A cell with any defect pixel is a defect.

    Raises `DataError` for a file that cannot be read.
    """
    return cells_with_any(_read(path), sides)


def load_masks(
    paths: Iterable[Path | None], image_shape: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """The masks of a set's images, (N, H, W). They are empty for images without a mask."""
    _, *sides = image_shape
    empty = np.zeros(sides, np.bool_)
    return np.stack([empty if p is None else load_mask(p, (sides[0], sides[1])) for p in paths])


def cells_with_any(mask: NDArray[np.bool_], sides: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether each cell of a grid of `sides`, (H, W), laid over `mask` holds a True pixel."""
    for axis, cells in enumerate(sides):
        n = mask.shape[axis]
        starts = np.arange(cells) * n // cells
        stops = -(-np.arange(1, cells + 1) * n // cells)
        counts = np.concatenate(
            [np.zeros_like(mask.take([0], axis), np.int64), mask.cumsum(axis, np.int64)], axis
        )
        mask = counts.take(stops, axis) > counts.take(starts, axis)
    return mask


def other_aspect(paths: Sequence[Path | None], data: ImageSet) -> list[str]:
    """Names of images whose masks have another aspect ratio, so that they do not lie over them."""
    if data.folder is None:
        return []
    odd = []
    for path, image in zip(paths, data.folder.images, strict=True):
        if path is None:
            continue
        width, height = _open(path).size
        ratio = (width * image.height) / (height * image.width)
        if max(ratio, 1 / ratio) > 1 + ASPECT_TOLERANCE:
            odd.append(image.name)
    return odd


def _paths(data: ImageSet) -> list[Path]:
    return [] if data.folder is None else [image.path for image in data.folder.images]


def _mask_files(folder: Folder, images: set[Path]) -> list[tuple[str, Path]]:
    """Name and path of each mask in a folder, which may hold the images as well."""
    files = [file for file in folder.images if file.path.resolve() not in images]
    beside = {file.name for file in masks_beside(folder.images)}
    named = [
        file
        for file in files
        if file.name in beside or any(map(holds_masks, file.folder.split("/")))
    ]
    return [(file.name, file.path) for file in named or files]


def _beside(data: ImageSet) -> dict[int, Path]:
    """The masks that lie among a set's own images, by the images' indices."""
    if data.folder is None:
        return {}
    names = [item.name for item in data.folder.left_out if item.kind == MASK]
    relative = [_key(PurePosixPath(name).parts) for name in names]
    return {i: data.folder.path / names[j] for i, j in _same(_keys(data), relative).items()}


def _match(data: ImageSet, relative: Sequence[Key], full: Sequence[Key]) -> dict[int, int]:
    """For a set's images, by index, the indices of their masks: by the first rule that fits any."""
    if data.folder is None:
        return {}
    own = _keys(data)
    whole = [_key(path.resolve().parts[1:]) for path in _paths(data)]
    rules: tuple[Callable[[], dict[int, int]], ...] = (
        lambda: _same(own, relative),
        lambda: _ends(whole, relative),
        lambda: {i: j for j, i in _ends(full, own).items()},
    )
    return next((found for rule in rules if (found := rule())), {})


def _same(images: Sequence[Key], masks: Sequence[Key]) -> dict[int, int]:
    """Indices of masks by those of images with the same key; of several masks, the last."""
    by_key = {key: j for j, key in enumerate(masks)}
    return {i: by_key[key] for i, key in enumerate(images) if key in by_key}


def _ends(long: Sequence[Key], short: Sequence[Key]) -> dict[int, int]:
    """Pairs of a long and a short key where the short one ends the long one, and no other does."""
    by_key = {key: j for j, key in enumerate(short)}
    pairs = [
        (i, by_key[key[start:]])
        for i, key in enumerate(long)
        for start in range(len(key))
        if key[start:] in by_key
    ]
    longs, shorts = (Counter(side) for side in zip(*pairs, strict=True)) if pairs else ({}, {})
    return {i: j for i, j in pairs if longs[i] == 1 and shorts[j] == 1}


def _keys(data: ImageSet) -> list[Key]:
    return [_key(PurePosixPath(name).parts) for name in data.names]


def _key(parts: Sequence[str]) -> Key:
    """The parts of a path that an image and its mask share."""
    *folders, file = parts
    kept = []
    for folder in folders:
        if set(words(folder)) <= PLAIN_FOLDERS and words(folder):
            continue
        match = MASK_NAME.match(folder)
        if match or not holds_masks(folder):
            kept.append(match["image"] if match else folder)
    stem = PurePosixPath(file).stem
    match = MASK_NAME.match(stem) or MASK_PREFIX.match(stem)
    return (*kept, match["image"] if match else stem)


def _raise_unmatched(
    sets: Sequence[ImageSet], folders: Sequence[Folder], masks: Sequence[str]
) -> None:
    places = ", ".join(str(folder.path) for folder in folders)
    if not masks:
        raise DataError(f"{places} holds no masks")
    images = [name for data in sets if data.folder is not None for name in data.names]
    if not images:
        raise DataError("--masks needs anomalies in a folder, whose file names the masks share")
    raise DataError(
        f"{places} holds {numbered(len(masks), 'mask')}, such as {masks[0]}, but none with the "
        f"name of an image, such as {images[0]}; expected the same path below the folder, with or "
        "without _mask"
    )


def _read(path: Path) -> NDArray[np.bool_]:
    """Which pixels of a mask are defects, (H, W), upright."""
    image = _open(path)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise a dozen types, all for bad files
        raise DataError(f"mask {path} is damaged: {error}") from error
    threshold = JPEG_THRESHOLD if image.format == "JPEG" else 0
    if (turn := TURNS.get(image.info["orientation"])) is not None:
        image = image.transpose(turn)
    if image.mode == "P" or image.has_transparency_data:
        image = image.convert("RGBA")
    pixels: NDArray[Any] = np.atleast_3d(np.asarray(image))  # (H, W, C)
    if image.mode == "RGBA":
        pixels = pixels[..., :3] * (pixels[..., 3:] > 0)
    defect: NDArray[np.bool_] = np.any(pixels > threshold, axis=2)
    return defect


def _open(path: Path) -> Image.Image:
    try:
        return open_image(path.read_bytes(), max_pixels=MAX_PIXELS)
    except (ImageError, OSError) as error:
        raise DataError(f"mask {path} cannot be read: {error}") from error
