"""Image sets from IDX files, .npz files or folders of image files, held in memory as uint8."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from model.images.preprocessing import ImageError, image_to_array, open_image

Split = Literal["train", "test"]

IDX_NAMES: Final[Mapping[Split, str]] = {
    "train": "train-images-idx3-ubyte",
    "test": "t10k-images-idx3-ubyte",
}
"""Names of the MNIST family's image files, which may end in .gz."""

LABEL_NAMES: Final[Mapping[Split, str]] = {
    "train": "train-labels-idx1-ubyte",
    "test": "t10k-labels-idx1-ubyte",
}
"""Names of the label files beside them."""

NPZ_KEYS: Final[Mapping[Split, tuple[str, ...]]] = {
    "train": ("images", "x_train", "train_images"),
    "test": ("x_test", "test_images"),
}
"""Names of the array in an .npz file, in order of preference."""

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

MAX_PIXELS: Final = 89_478_485
"""Maximum number of pixels in an image file. Above it, Pillow warns of a decompression bomb."""


class DataError(Exception):
    """There are no usable images. The message names the file and the problem."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images and where they come from."""

    name: str
    images: NDArray[np.uint8]  # (N, C, H, W)
    files: Mapping[str, str]
    """sha256 of each file by name; for a folder of images, one sha256 over all of them."""
    skipped: tuple[str, ...] = ()
    """A line for each file that could not be read: its name and the reason."""


def load_images(path: Path, split: Split, *, image_shape: tuple[int, int, int]) -> ImageSet:
    """Load the training or test images at `path`.

    - a directory with IDX files (`train-images-idx3-ubyte.gz`, `t10k-…`), gzipped or not
    - an .npz file with an array named in `NPZ_KEYS`, such as `images`, `x_train` or `x_test`:
      (N, H, W), (N, H, W, C) or (N, C, H, W)
    - a directory with image files at any depth. All are training images and are resized to
      `image_shape`, (C, H, W). Broken files are skipped and listed in `ImageSet.skipped`.

    Raises `DataError` if there are no such images, or IDX or .npz images of another shape.
    """
    if path.suffix == ".npz":
        images = _load_npz(path, split)
        files = {path.name: _sha256([path])}
    elif not path.is_dir():
        raise DataError(f"{path} is neither a directory nor an .npz file")
    elif idx := _find_idx(path):
        if split not in idx:
            raise DataError(f"{path} has no {IDX_NAMES[split]}(.gz)")
        images = read_idx(idx[split])[:, None]
        files = {idx[split].name: _sha256([idx[split]])}
    else:
        if split == "test":
            raise DataError(
                f"{path} is a folder of images, which has no test split: all are for training"
            )
        return _load_folder(path, image_shape)
    if images.shape[1:] != image_shape:
        raise DataError(
            f"{path} holds images of shape {images.shape[1:]} (C, H, W), but {image_shape} is "
            "expected; only image files are resized"
        )
    return ImageSet(name=path.stem, images=images, files=files)


def load_unseen(path: Path, *, image_shape: tuple[int, int, int]) -> tuple[ImageSet, Split]:
    """Load the test images at `path`, or all images if there is no test split, as in a folder.

    Raises `DataError`, also for broken test images: training images must not silently replace them.
    """
    split: Split = "test" if _has_test_split(path) else "train"
    return load_images(path, split, image_shape=image_shape), split


def load_labels(path: Path, split: Split) -> NDArray[np.uint8] | None:
    """Labels of the images that `load_images` returns, (N,); None without IDX images and labels.

    Raises `DataError` for a damaged file.
    """
    files = _find_idx(path, LABEL_NAMES)
    if split not in files or split not in _find_idx(path):
        return None
    return _read_idx(files[split], 1)


def stored_shape(path: Path) -> tuple[int, int, int] | None:
    """Shape (C, H, W) of the IDX or .npz images at `path`; None for anything else.

    Raises `DataError` for a damaged file.
    """
    if path.suffix == ".npz":
        shape = _load_npz(path, "train").shape
    elif path.is_dir() and (idx := _find_idx(path)):
        shape = (0, 1, *read_idx(next(iter(idx.values()))).shape[1:])
    else:
        return None
    return (shape[1], shape[2], shape[3])


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of uint8 images, gzipped or not: (N, H, W).

    Format: two zero bytes, 8 for uint8, the number of dimensions, the size of each dimension as a
    big-endian uint32, then the values. Raises `DataError`.
    """
    return _read_idx(path, 3)


def _read_idx(path: Path, dimensions: Literal[1, 3]) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    start = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < start:
        contents = "images" if dimensions == 3 else "labels"
        raise DataError(
            f"{path} is no IDX file of {contents}: it starts with {data[:4].hex(' ')!r}"
        )
    shape: tuple[int, ...] = struct.unpack_from(f">{dimensions}I", data, 4)
    if len(data) - start != math.prod(shape) or 0 in shape:
        unit = "pixels" if dimensions == 3 else "labels"
        raise DataError(
            f"{path} holds {len(data) - start:,} {unit}, but its header says {shape}, "
            f"{math.prod(shape):,} in all"
        )
    # torch needs a writable array.
    values: NDArray[np.uint8] = np.frombuffer(data, np.uint8, offset=start).copy()
    return values.reshape(shape)


def _find_idx(directory: Path, names: Mapping[Split, str] = IDX_NAMES) -> dict[Split, Path]:
    paths: dict[Split, Path] = {}
    for split, name in names.items():
        for path in (directory / name, directory / f"{name}.gz"):
            if path.is_file():
                paths[split] = path
                break
    return paths


def _has_test_split(path: Path) -> bool:
    if path.suffix != ".npz":
        return "test" in _find_idx(path)
    try:
        if not zipfile.is_zipfile(path):  # np.load would leave it open
            return False
        with np.load(path, allow_pickle=False) as archive:
            return any(key in archive for key in NPZ_KEYS["test"])
    except Exception:  # zipfile and numpy raise a dozen types; loading will report it
        return False


def _load_npz(path: Path, split: Split) -> NDArray[np.uint8]:
    try:
        if not path.exists():
            raise DataError(f"{path} does not exist")
        if not zipfile.is_zipfile(path):  # np.load would complain about a pickle
            raise DataError(f"{path} is not an .npz file")
        with np.load(path, allow_pickle=False) as archive:
            name = next((key for key in NPZ_KEYS[split] if key in archive), None)
            if name is None:
                names = ", ".join(map(repr, archive.files)) or "nothing"
                raise DataError(
                    f"{path} holds {names}; expected one of {', '.join(NPZ_KEYS[split])}"
                )
            array: NDArray[Any] = archive[name]
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged files
        raise DataError(
            f"{path} cannot be read: it is damaged, or holds something other than numbers"
        ) from error
    return _to_nchw(_to_uint8(array, f"{path}: {name}"), f"{path}: {name}")


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


def _load_folder(directory: Path, image_shape: tuple[int, int, int]) -> ImageSet:
    paths = sorted(p for p in directory.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    images: list[NDArray[np.uint8]] = []
    used: list[Path] = []
    skipped: list[str] = []
    for path in paths:
        try:
            image = open_image(path.read_bytes(), max_pixels=MAX_PIXELS)
            images.append(image_to_array(image, image_shape))
            used.append(path)
        except (ImageError, OSError) as error:
            skipped.append(f"{path.relative_to(directory)}: {error}")
    if not images:
        broken = f"; {len(skipped)} broken, the first: {skipped[0]}" if skipped else ""
        raise DataError(
            f"{directory} holds neither IDX files nor readable images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}){broken}"
        )
    return ImageSet(
        name=directory.resolve().name,
        images=np.stack(images),
        files={f"{len(used)} image files": _sha256(used)},
        skipped=tuple(skipped),
    )


def _sha256(paths: Iterable[Path]) -> str:
    """sha256 of the concatenated contents, in hex."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
