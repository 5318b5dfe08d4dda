"""Tell a folder of normal images from the root of a data set with defects, masks or a test set.

Judged by names and headers. A wrong refusal costs a person a rename, and a wrong acceptance hides
the defects that were trained on; but common words alone refuse nothing, as photographs of masks,
labels, mountain passes and test tubes exist.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from model.datasets.folder import Folder, ImageFile, numbered, printable, some

NORMAL: Final = frozenset(
    {"good", "goods", "normal", "normals", "ok", "healthy", "nominal", "intact"}
    | {"unbroken", "undamaged", "flawless", "faultless"}
)
"""Words in the name of a folder that say that its images are normal."""

NORMAL_LAST: Final = frozenset({"clean", "free", "pass", "passed"})
"""Words that do so at its end only, as in `MT_Free`."""

DEFECT: Final = frozenset(
    {"abnormal", "abnormals", "abnormality", "anomalies", "anomalous", "anomaly", "damaged"}
    | {"defect", "defective", "defects", "faulty", "nok", "rejected", "unhealthy"}
)
"""Words that say that its images are not normal."""

DEFECT_ALONE: Final = frozenset(
    {"bad", "broken", "fail", "failed", "failures", "fault", "faults", "reject", "rejects"}
)
"""Words that do so if the name says nothing else: Bad Homburg is a town."""

NEGATIONS: Final = frozenset({"no", "non", "not", "without"})
"""Words that turn the next one into its opposite, as in `no_defect` and `not_ok`."""

TRAIN: Final = frozenset({"train", "training", "trainset"})
TEST: Final = frozenset({"test", "testing", "tests", "testset"})
TEST_BESIDE_TRAIN: Final = TEST | {"eval", "evaluation", "val", "valid", "validation"}
"""Words of test sets that need a training set beside them to be understood as such."""

IMAGES: Final = frozenset({"image", "images", "img", "imgs", "photo", "photos", "pictures"})
NEUTRAL: Final = IMAGES | {"data", "dataset", "sample", "samples", "set", "part", "parts"}
"""Words that say nothing about images."""

MASKS: Final = frozenset({"mask", "masks", "segmentation", "segmentations"})
MAYBE_MASKS: Final = frozenset({"annotation", "annotations", "gt", "label", "labels"})
"""Words for masks that are more often something else."""

MASK_NAME: Final = re.compile(
    r"(?i)^(?P<image>.+?)[-_. ](?P<word>masks?|labels?|gt|ground[-_. ]?truth|seg|segmentation)$"
)
"""File names, without suffix, of masks beside their images: `000_mask`."""

GREY: Final = frozenset({"1", "L", "P", "I", "I;16"})
"""Pillow's modes of masks."""


def words(name: str) -> list[str]:
    """The words of a file's or folder's name, in lower case.

    >>> words("MT_Free"), words("groundTruth2"), words("test-normal")
    (['mt', 'free'], ['ground', 'truth'], ['test', 'normal'])
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", spaced.lower())


def is_normal(folder: str) -> bool:
    """Whether a folder's name says that its images are normal.

    >>> is_normal("test-normal"), is_normal("no_defect"), is_normal("not_ok")
    (True, True, False)
    """
    return _verdicts(folder) == {True}


def is_defect(folder: str) -> bool:
    """Whether a folder's name says that its images have defects.

    >>> is_defect("abnormal"), is_defect("not_ok"), is_defect("defect-free"), is_defect("bad_ems")
    (True, True, False, False)
    """
    return _verdicts(folder) == {False}


def _verdicts(folder: str) -> set[bool]:
    """What the words of a name say: True for normal and False for defects."""
    said = words(folder)
    verdicts = set()
    for before, word, after in zip(["", *said], said, [*said[1:], ""], strict=False):
        negated = before in NEGATIONS
        if word in NORMAL or (word in NORMAL_LAST and not after):
            verdicts.add(not negated)
        elif word in DEFECT | DEFECT_ALONE and (negated or after == "free"):
            verdicts.add(True)
        elif word in DEFECT or (
            word in DEFECT_ALONE and not set(said) - {word} - NEUTRAL - TRAIN - TEST_BESIDE_TRAIN
        ):
            verdicts.add(False)
    return verdicts


def holds_masks(folder: str) -> bool:
    """Whether a folder's name says that it holds masks, as `ground_truth`; it may be wrong.

    >>> holds_masks("ground_truth"), holds_masks("Masks"), holds_masks("without_mask")
    (True, True, False)
    """
    said = words(folder)
    return _is_ground_truth(folder) or any(
        word in MASKS | MAYBE_MASKS and before not in NEGATIONS
        for before, word in zip(["", *said], said, strict=False)
    )


def _is_ground_truth(folder: str) -> bool:
    return "groundtruth" in "".join(words(folder))


def is_test(folder: str) -> bool:
    """Whether a folder's name says that it is a test set, if there is a training set beside it."""
    return bool(set(words(folder)) & TEST_BESIDE_TRAIN)


def is_train(folder: str) -> bool:
    """Whether a folder's name says that it is for training."""
    return bool(set(words(folder)) & TRAIN)


def masks_beside(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Files that are masks of other files in the same folder, by their names and headers.

    They are named as in `MASK_NAME`; or most JPEGs of the folder have a grey file of another format
    beside them with the same name and size, as `a.png` beside `a.jpg`.
    """
    by_stem = defaultdict(list)
    for image in images:
        by_stem[image.stem].append(image)
    masks: set[str] = set()
    twins: dict[str, list[str]] = defaultdict(list)
    jpegs: dict[str, int] = defaultdict(int)
    for image in images:
        jpegs[image.folder] += image.format == "JPEG"
        if match := MASK_NAME.match(PurePosixPath(image.stem).name):
            stem = str(PurePosixPath(image.stem).with_name(match["image"]))
            is_sure = not set(words(match["word"])) & MAYBE_MASKS
            if any(
                _looks_like_mask(image, other, is_sure=is_sure)
                or (is_sure and image.format != "JPEG")
                for other in by_stem.get(stem, ())
            ):
                masks.add(image.name)
        elif image.format != "JPEG" and image.mode in GREY:
            size = (image.width, image.height)
            if any(
                other.format == "JPEG" and (other.width, other.height) == size
                for other in by_stem[image.stem]
            ):
                twins[image.folder].append(image.name)
    for folder, names in twins.items():
        if len(names) >= jpegs[folder] / 2:
            masks.update(names)
    return [image for image in images if image.name in masks]


def find_masks(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Files that are masks: `masks_beside` others, or in a folder of masks.

    Such a folder `holds_masks` by its name, and half of its files or more are named as an image
    elsewhere and look like a mask of it. `ground_truth` needs no such proof.
    """
    masks = {image.name for image in masks_beside(images)}
    mask_folders: dict[str, list[ImageFile]] = defaultdict(list)
    others: dict[str, list[ImageFile]] = defaultdict(list)
    for image in images:
        parts = image.folder.split("/")
        depth = next((i for i, part in enumerate(parts, 1) if holds_masks(part)), None)
        if depth is None:
            others[PurePosixPath(image.stem).name].append(image)
        else:
            mask_folders["/".join(parts[:depth])].append(image)
    children = _children(images)
    for folder, files in mask_folders.items():
        parent, _, name = folder.rpartition("/")
        is_beside_images = any(set(words(other) or "-") <= IMAGES for other in children[parent])
        is_sure = bool(set(words(name)) & MASKS)
        proved = 0
        for file in files:
            stem = PurePosixPath(file.stem).name
            match = MASK_NAME.match(stem)
            named = others.get(stem) or (others.get(match["image"]) if match else None) or ()
            proved += any(
                is_beside_images or _looks_like_mask(file, other, is_sure=is_sure or bool(match))
                for other in named
            )
        if _is_ground_truth(name) or proved >= len(files) / 2:
            masks.update(file.name for file in files)
    return [image for image in images if image.name in masks]


def _looks_like_mask(mask: ImageFile, image: ImageFile, *, is_sure: bool) -> bool:
    """Whether the headers allow that one file is the mask of the other.

    If the names leave doubt, their kinds have to differ: a mask is grey, and no JPEG beside one.
    """
    if mask.format != "JPEG" and image.format == "JPEG":
        return True
    return mask.mode in GREY and (is_sure or mask.mode != image.mode or mask.format != image.format)


def why_not_normal(folder: Folder) -> str | None:
    """Why `folder` cannot be taken as a folder of normal images, as a predicate; None if it can.

    Judged by what lies below it, so a test set itself may be named: `test/good`. Masks are no
    reason if its own name says that it is normal, as they are then empty.
    """
    images = folder.images
    children = _children(images)
    for parent, names in sorted(children.items()):
        if test := sorted(filter(is_test, names)):
            if any(is_train(name) and not is_test(name) for name in names):
                return f"holds a test set in {_path(parent, test[0])}"
            is_loose = any(image.folder == parent for image in images)
            alone = [name for name in test if _is_test_alone(name)]
            if alone and (is_loose or any(not is_test(name) for name in names)):
                return f"holds a test set in {_path(parent, alone[0])}"
    if not says_normal(folder.path) and (masks := find_masks(images)):
        return f"holds {numbered(len(masks), 'mask')}, such as {masks[0].name}"
    for parent, names in sorted(children.items()):
        if defects := sorted(filter(is_defect, names)):
            return f"holds images with defects in {_path(parent, defects[0])}"
    for parent, names in sorted(children.items()):
        normal = sorted(filter(is_normal, names))
        others = sorted(names - set(normal))
        if normal and others and _contrasts(normal[0], others):
            beside = some([_path(parent, name) for name in others])
            return f"holds {beside} beside {_path(parent, normal[0])}, so not all is normal"
    return None


def says_normal(path: Path) -> bool:
    """Whether the path of a folder says that all below it is normal: `MT_Free`, `MT_Free/Imgs`."""
    *_, above, name = ("", *path.absolute().parts)
    return is_normal(name) or (set(words(name)) <= NEUTRAL and is_normal(above))


def _is_test_alone(name: str) -> bool:
    """Whether the name says that this is a test set and nothing else, unlike `test_tubes`."""
    said = set(words(name))
    return bool(said & TEST) and said - TEST <= NEUTRAL | NORMAL | DEFECT | DEFECT_ALONE


def _contrasts(normal: str, others: Iterable[str]) -> bool:
    """Whether folders beside one that says it is normal are thereby said not to be.

    They are not beside a mountain pass, but beside `MT_Free` if they are called `MT_…`.
    """
    said = words(normal)
    if set(said) - NEUTRAL - TRAIN - TEST_BESIDE_TRAIN == {"clean"}:
        return True
    if said[-1] not in NORMAL_LAST or set(said[:-1]) & (NORMAL | DEFECT | DEFECT_ALONE):
        return True
    return len(said) > 1 and any(words(other)[:1] == said[:1] for other in others)


def _children(images: Iterable[ImageFile]) -> dict[str, set[str]]:
    """The names of the subfolders of each folder that has any."""
    children: dict[str, set[str]] = defaultdict(set)
    for folder in {image.folder for image in images} - {""}:
        parts = folder.split("/")
        for depth, part in enumerate(parts):
            children["/".join(parts[:depth])].add(part)
    return children


def _path(parent: str, name: str) -> str:
    return f"{parent}/{name}/" if parent else f"{name}/"


def normal_folders(folder: Folder, *, unseen: bool = False) -> list[Path]:
    """The folders below `folder` that were probably meant: of normal images, the best guesses.

    For training these are `train/good`, or `train` if it holds no defects itself; for `unseen`
    images `test/good`. None of them is refused in its turn.
    """
    masks = {image.name for image in find_masks(folder.images)}
    unmasked = {image.folder + "/" for image in folder.images if image.name not in masks}
    ranked: list[tuple[bool, bool, str]] = []
    for parent, names in _children(folder.images).items():
        for last in names:
            name = _path(parent, last).rstrip("/")
            parts = name.split("/")
            tests = any(map(is_test, parts))
            trains = any(map(is_train, parts)) and not tests
            is_candidate = is_normal(last) or (is_test(last) if unseen else is_train(last))
            if (
                is_candidate
                and not (trains if unseen else tests)
                and not any(map(is_defect, parts))
                and any(other.startswith(f"{name}/") for other in unmasked)
                and why_not_normal(_below(folder, name)) is None
            ):
                ranked.append((not (tests if unseen else trains), not is_normal(last), name))
    return [folder.path / name for *rank, name in sorted(ranked) if (*rank,) == min(ranked)[:2]]


def _below(folder: Folder, name: str) -> Folder:
    """The subfolder `name` of `folder`."""
    images = tuple(
        replace(image, name=image.name.removeprefix(f"{name}/"))
        for image in folder.images
        if image.name.startswith(f"{name}/")
    )
    return Folder(path=folder.path / name, images=images, left_out=())


def advice(folder: Folder, *, unseen: bool = False) -> str:
    """What to give instead of a folder that is refused, as the option on the command line."""
    meant = normal_folders(folder, unseen=unseen)
    if not meant:
        return "give a folder of normal images alone, or rename what is misnamed"
    options = [f"--data {shlex.quote(printable(str(path)))}" for path in meant]
    if len(options) == 1:
        return f"give the normal images alone: {options[0]}"
    rest = f" (or one of {len(options) - 2:,} more)" if len(options) > 2 else ""
    return f"give one folder of normal images: {' or '.join(options[:2])}{rest}"
