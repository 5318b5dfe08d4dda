"""Rendered photographs: the same by their seed, laid out as a data set, with masks that fit."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from model.datasets.folder import scan
from model.datasets.groups import group_images
from model.datasets.layout import why_not_normal
from model.datasets.load import load_images
from model.datasets.rendered.camera import EXPOSURES, jpeg
from model.datasets.rendered.defects import KINDS
from model.datasets.rendered.files import write_files
from model.datasets.rendered.photographs import (
    MIN_PEAK_LEVELS,
    MIN_PIXELS,
    VISIBLE_LEVELS,
    WEAKEST,
    DefectPhoto,
    Sizes,
    defect_photo,
    normal_photos,
    photographs,
)
from model.datasets.rendered.surface import SIDE
from model.evaluation.masks import load_mask, match_masks

ROOT = Path(__file__).parents[4]

SIZES = Sizes(train=3, test_normal=2, per_kind=2)

SHAPE = (3, SIDE, SIDE)

STRENGTHS = (1.0, 0.35, WEAKEST)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return dict(photographs(SIZES, seed=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    path = tmp_path_factory.mktemp("rendered")
    write_files(path, files)
    return path


@pytest.fixture(scope="module")
def photos() -> list[tuple[str, DefectPhoto]]:
    """Defects of each kind, strong and faint."""
    return [
        (kind, defect_photo(0, 100 * i + j, kind, strength))
        for i, kind in enumerate(KINDS)
        for j, strength in enumerate(STRENGTHS * 2)
    ]


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(data)))


def near(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """`mask`, and all that is at most `distance` pixels from it."""
    grey = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * distance + 1))
    return np.asarray(grey) > 0


def difference(photo: DefectPhoto) -> NDArray[np.float64]:
    """What the defect changed, (H, W), in grey levels."""
    changed: NDArray[np.float64] = np.abs(photo.levels - photo.clean_levels).max(axis=0)
    return changed


def test_a_seed_gives_the_same_bytes_in_another_process(files: dict[str, bytes]) -> None:
    code = (
        "from hashlib import sha256\n"
        "from model.datasets.rendered.photographs import Sizes, photographs\n"
        f"files = dict(photographs({SIZES!r}, seed=3))\n"
        "for name, data in files.items():\n"
        "    print(sha256(data).hexdigest(), name)\n"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    own = [f"{sha256(data).hexdigest()} {name}" for name, data in files.items()]
    assert done.stdout.splitlines() == own


def test_no_two_files_are_the_same_and_another_seed_gives_others(files: dict[str, bytes]) -> None:
    jpegs = [data for name, data in files.items() if name.endswith(".jpg")]
    others = [
        data
        for name, data in photographs(Sizes(train=1, test_normal=1, per_kind=1), seed=4)
        if name.endswith(".jpg")
    ]
    assert len({*jpegs, *others}) == len(jpegs) + len(others)


def test_more_parts_leave_the_first_as_they_were(files: dict[str, bytes]) -> None:
    first, *_ = photographs(Sizes(train=4, test_normal=2, per_kind=2), seed=3)
    assert files[first[0]] == first[1]


def test_every_part_is_in_one_place(files: dict[str, bytes]) -> None:
    places = {
        (PurePosixPath(name).parts[0], part)
        for name in files
        for part in PurePosixPath(name).with_suffix("").parts
        if part.startswith("part-") and not name.startswith("masks/")
    }
    parts = [part for _, part in places]
    assert len(set(parts)) == len(parts) == 3 + 2 + 2 * len(KINDS)


def test_the_files_are_small_colour_photographs(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        image = Image.open(BytesIO(data))
        is_mask = name.startswith("masks/")
        assert (image.format, image.mode) == (("PNG", "1") if is_mask else ("JPEG", "RGB"))
        assert image.size == (SIDE, SIDE)
        assert len(data) < 20_000


def test_shots_of_a_part_differ_by_exposure_and_parts_by_more() -> None:
    first, second = (np.array(list(normal_photos(0, number))) for number in (1, 2))
    assert len(first) == len(EXPOSURES)
    brightness = first.mean(axis=(1, 2, 3))
    assert np.all(np.diff(brightness) > 5)
    assert brightness[0] > 30
    assert np.mean(first[-1] == 255) < 0.01, "the longest exposure is not burnt out"
    marks = [np.diff(shot[50:110, 15:40].mean(axis=(1, 2))) for shot in (*first[1:3], second[2])]
    same, other = (np.corrcoef(marks[1], each)[0, 1] for each in marks[::2])
    assert same > 0.7
    assert other < 0.4


def test_a_mask_covers_what_the_defect_changed(photos: list[tuple[str, DefectPhoto]]) -> None:
    """All of it, and nothing farther from it than the gaps that were closed."""
    for kind, photo in photos:
        changed = difference(photo) >= VISIBLE_LEVELS
        assert photo.mask[changed].all(), kind
        assert near(changed, 2)[photo.mask].all(), kind
        assert changed.sum() > 0.5 * photo.mask.sum(), kind


def test_the_photograph_is_of_what_the_mask_was_made_from(
    photos: list[tuple[str, DefectPhoto]],
) -> None:
    for kind, photo in photos:
        seen = photo.pixels.transpose(2, 0, 1).astype(float)
        outside = np.abs(seen - photo.clean_levels)[:, ~photo.mask]
        assert outside.mean() < 3, kind
        inside = (seen - photo.clean_levels)[:, photo.mask]
        meant = (photo.levels - photo.clean_levels)[:, photo.mask]
        assert 0.6 < (inside * meant).sum() / (meant**2).sum() < 1.4, kind


def test_defects_are_local_and_from_obvious_to_faint(
    photos: list[tuple[str, DefectPhoto]],
) -> None:
    change: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind, photo in photos:
        assert MIN_PIXELS <= photo.mask.sum() < 0.06 * SIDE**2
        assert difference(photo).max() >= MIN_PEAK_LEVELS
        change[kind].append(float(difference(photo).sum()))
    for kind, sums in change.items():
        strong, _, faint = np.array(sums).reshape(-1, len(STRENGTHS)).mean(axis=0)
        assert strong > 2 * faint, kind


def test_the_first_file_of_a_kind_is_the_most_obvious(files: dict[str, bytes]) -> None:
    for number, strength in ((6, 1.0), (7, WEAKEST)):
        photo = defect_photo(3, number, "scratch", strength)
        assert files[f"test-anomalous/scratch/part-{number:03}.jpg"] == jpeg(photo.pixels)


def test_the_folder_is_read_as_a_data_set(folder: Path) -> None:
    train = load_images(folder / "train", "train", image_shape=SHAPE)
    assert train.images.shape == (3 * len(EXPOSURES), *SHAPE)
    assert why_not_normal(scan(folder / "train")) is None
    assert why_not_normal(scan(folder / "test-normal")) is None
    why = why_not_normal(scan(folder))
    assert why is not None
    assert "test" in why
    assert scan(folder / "train").left_out == ()


def test_a_part_is_a_group(folder: Path) -> None:
    groups = group_images(scan(folder / "train").images, "folder")
    assert sorted(Counter(groups).values()) == [len(EXPOSURES)] * 3


def test_every_mask_is_matched_with_its_image(folder: Path, files: dict[str, bytes]) -> None:
    anomalous = load_images(folder / "test-anomalous", "train", image_shape=SHAPE, anomalous=True)
    found = match_masks([anomalous], [scan(folder / "masks")])
    assert found.unused == ()
    (paths,) = found.paths
    assert len(paths) == 2 * len(KINDS)
    names = [image.name for image in scan(folder / "test-anomalous").images]
    for name, path in zip(names, paths, strict=True):
        assert path == folder / "masks" / PurePosixPath(name).with_suffix(".png")
        mask = load_mask(path, (SIDE, SIDE))
        mask_file = files[f"masks/{PurePosixPath(name).with_suffix('.png')}"]
        assert np.array_equal(mask, pixels(mask_file))
        assert mask.any()
