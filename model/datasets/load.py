"""Image sets from IDX files, .npz files or folders of image files, held in memory as uint8."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.datasets.folder import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    REASONS,
    Folder,
    ImageFile,
    LeftOut,
    counted,
    explained,
    numbered,
    printable,
    scan,
)
from model.datasets.idx import IDX_NAMES, LABEL_NAMES, find_idx, read_idx, read_idx_labels
from model.datasets.image_set import DataError, ImageSet, Split
from model.datasets.layout import (
    advice,
    find_masks,
    is_normal,
    is_test,
    is_train,
    why_not_normal,
)
from model.datasets.npz import has_npz_split, read_npz
from model.images.preprocessing import (
    WHOLE,
    ImageError,
    Note,
    Preprocessing,
    image_to_array,
    open_image,
)

__all__ = [
    "MAX_PIXELS",
    "DataError",
    "ImageSet",
    "Split",
    "check_normal",
    "load_images",
    "load_unseen",
    "no_images",
    "read_idx",
    "stored_shape",
    "take_label",
]


MASK: Final = "mask"
"""`LeftOut.kind` of masks beside the images of anomalies."""


def load_images(
    path: Path,
    split: Split,
    *,
    image_shape: tuple[int, int, int],
    preprocessing: Preprocessing = WHOLE,
    anomalous: bool = False,
    unseen: bool = False,
    folder: Folder | None = None,
) -> ImageSet:
    """Load the training or test images at `path`.

    - a directory with IDX files (`train-images-idx3-ubyte.gz`, `t10k-…`), gzipped or not
    - an .npz file with an array named in `NPZ_KEYS`, such as `images`, `x_train` or `x_test`:
      (N, H, W), (N, H, W, C) or (N, C, H, W)
    - a directory with image files at any depth. All are training images and are resized to
      `image_shape`, (C, H, W), by the rules of `preprocessing`, which must be those of the bundle
      if the images are for one. Broken files are left out and listed in `ImageSet.folder`, which
      may be given if the directory was scanned before. Of `anomalous` images, masks and folders of
      normal images are left out as well.

    Raises `DataError` if there are no such images, for IDX or .npz images of another shape, and for
    a directory with masks, defects or a test set unless `anomalous`; whether `unseen` images are
    wanted decides which folder it then names.
    """
    if _is_npz(path):
        npz = read_npz(path, split)
        data = ImageSet(
            name=printable(path.stem),
            images=npz.images,
            files={printable(path.name): hashlib.sha256(path.read_bytes()).hexdigest()},
            labels=npz.labels,
            array=npz.name,
            unread=npz.unread,
        )
    elif not path.is_dir():
        raise DataError(f"{path} {_why_no_data(path)}")
    elif idx := find_idx(path):
        data = _load_idx(path, idx, split)
    elif split == "test":
        raise DataError(
            f"{path} is a folder of images, which has no test split: all are for training"
        )
    else:
        folder = folder or scan(path)
        return _load_folder(folder, image_shape, preprocessing, anomalous=anomalous, unseen=unseen)
    if data.images.shape[1:] != image_shape:
        raise DataError(
            f"{path} holds images of shape {data.images.shape[1:]} (C, H, W), but {image_shape} is "
            "expected; only image files are resized"
        )
    return data


def load_unseen(
    path: Path,
    *,
    image_shape: tuple[int, int, int],
    preprocessing: Preprocessing = WHOLE,
    anomalous: bool = False,
) -> tuple[ImageSet, Split]:
    """Load the test images at `path`, or all images if there is no test split, as in a folder.

    Raises `DataError`, also for broken test images: training images must not silently replace them.
    """
    split: Split = "test" if has_test_split(path) else "train"
    data = load_images(
        path,
        split,
        image_shape=image_shape,
        preprocessing=preprocessing,
        anomalous=anomalous,
        unseen=True,
    )
    return data, split


def has_test_split(path: Path) -> bool:
    """Whether `path` holds test images beside its training images, as IDX and .npz files may."""
    return has_npz_split(path, "test") if _is_npz(path) else "test" in find_idx(path)


def check_normal(folder: Folder, *, unseen: bool = False) -> None:
    """Raise `DataError`, with the folder that was meant, unless all images look normal.

    Whether `unseen` images are wanted decides whether that is `train/good` or `test/good`.
    """
    if reason := why_not_normal(folder):
        raise DataError(f"{printable(str(folder.path))} {reason}; {advice(folder, unseen=unseen)}")


def take_label(data: ImageSet, label: int) -> ImageSet:
    """The images with this label alone. Raises `DataError` if there are no labels, or none such."""
    if data.labels is None:
        raise DataError(f"{data.name} has no labels to choose {label} from")
    chosen = np.flatnonzero(data.labels == label)
    if not len(chosen):
        known = np.unique(data.labels)
        listed = ", ".join(map(str, known[:20])) + (", …" if len(known) > 20 else "")
        raise DataError(f"{data.name} has no images with label {label}; its labels are {listed}")
    return data.take(chosen)


def stored_shape(path: Path) -> tuple[int, int, int] | None:
    """Shape (C, H, W) of the IDX or .npz images at `path`; None for anything else.

    Raises `DataError` for a damaged file.
    """
    if _is_npz(path):
        shape = read_npz(path, "train").images.shape
    elif path.is_dir() and (idx := find_idx(path)):
        shape = (0, 1, *read_idx(next(iter(idx.values()))).shape[1:])
    else:
        return None
    return (shape[1], shape[2], shape[3])


def no_images(folder: Folder) -> str:
    """What a folder without readable images holds instead, as an error."""
    message = (
        f"{printable(str(folder.path))} holds neither IDX files nor readable images "
        f"({', '.join(sorted(IMAGE_SUFFIXES))})"
    )
    if folder.left_out:
        named = [item for item in folder.left_out if item.kind in IMAGE_SUFFIXES]
        first = (named or folder.left_out)[0]
        kinds = counted(item.kind for item in folder.left_out)
        message += f"; left out: {kinds}, the first: {first.name}: {first.reason}"
    return message


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _why_no_data(path: Path) -> str:
    """Why what is no directory and not named as an .npz file cannot be read, as a predicate."""
    if not path.exists():
        return "does not exist"
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return f"is one image; give the folder that it is in: --data {path.parent}"
    hint = f" ({REASONS[suffix]})" if suffix in REASONS else ""
    return f"is neither a directory nor an .npz file{hint}"


def _load_idx(directory: Path, paths: dict[Split, Path], split: Split) -> ImageSet:
    if split not in paths:
        raise DataError(f"{directory} has no {IDX_NAMES[split]}(.gz)")
    path = paths[split]
    images = read_idx(path)[:, None]
    labels = None
    if label_path := find_idx(directory, LABEL_NAMES).get(split):
        labels = read_idx_labels(label_path)
        if len(labels) != len(images):
            raise DataError(
                f"{directory} holds {numbered(len(images), f'{split} image')}, but "
                f"{numbered(len(labels), 'label')}"
            )
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    return ImageSet(name=printable(directory.stem), images=images, files=files, labels=labels)


def _load_folder(
    folder: Folder,
    image_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    *,
    anomalous: bool,
    unseen: bool,
) -> ImageSet:
    if not anomalous:
        check_normal(folder, unseen=unseen)
    found, left_out = _chosen(folder.images, anomalous=anomalous)
    left_out += folder.left_out
    images: list[NDArray[np.uint8]] = []
    used: list[ImageFile] = []
    digest = hashlib.sha256()  # of the concatenated contents
    for file in found:
        try:
            data = file.path.read_bytes()
            image = open_image(data, max_pixels=MAX_PIXELS)
            notes: list[Note] = []
            images.append(
                image_to_array(image, image_shape, preprocessing=preprocessing, notes=notes)
            )
        except (ImageError, OSError) as error:
            reason = explained(error) if isinstance(error, OSError) else str(error)
            kind = file.path.suffix.lower()
            left_out.append(LeftOut(name=file.name, kind=kind, reason=printable(reason)))
        else:
            used.append(replace(file, notes=tuple(notes)))
            digest.update(data)
    left_out.sort(key=lambda item: item.name)
    folder = replace(folder, images=tuple(used), left_out=tuple(left_out))
    if not images:
        raise DataError(no_images(folder))
    n = len(used)
    return ImageSet(
        name=printable(folder.path.resolve().name),
        images=np.stack(images),
        files={f"{n} image file{'' if n == 1 else 's'}": digest.hexdigest()},
        folder=folder,
    )


def _chosen(
    images: Sequence[ImageFile], *, anomalous: bool
) -> tuple[list[ImageFile], list[LeftOut]]:
    """The images without masks, and of anomalies without normal images; and those left out."""
    masks = {image.name for image in find_masks(images)}
    has_test = any(map(is_test, (part for image in images for part in image.folder.split("/"))))
    kept, left_out = [], []
    for image in images:
        parts = image.folder.split("/")
        if image.name in masks:
            kind, reason = MASK, "masks are not images"
        elif anomalous and any(map(is_normal, parts)):
            kind, reason = "normal image", "normal, as the folder's name says"
        elif anomalous and has_test and any(is_train(part) and not is_test(part) for part in parts):
            kind, reason = "training image", "for training, as the folder's name says"
        else:
            kept.append(image)
            continue
        left_out.append(LeftOut(name=image.name, kind=kind, reason=reason))
    return kept, left_out
