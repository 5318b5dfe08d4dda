"""Which folders are taken for normal images, and which folder is named instead of the others."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

import pytest

from model.datasets.folder import Folder, ImageFile, scan
from model.datasets.layout import (
    MASK_NAME,
    find_masks,
    holds_masks,
    is_defect,
    is_normal,
    masks_beside,
    normal_folders,
    why_not_normal,
    words,
)
from model.datasets.load import DataError, check_normal
from tests.unit.model.datasets.image_folders import write_images

Files = Mapping[str, str]
"""Modes by name."""


def layout(files: Files | Iterable[str], path: str = "data") -> Folder:
    """A folder as it is scanned, without any file."""
    modes = files if isinstance(files, Mapping) else dict.fromkeys(files, "RGB")
    formats = {"jpg": "JPEG", "bmp": "BMP"}
    images = [
        ImageFile(
            path=Path(path) / name,
            name=name,
            format=formats.get(name.rpartition(".")[2].lower(), "PNG"),
            mode=mode,
            width=64,
            height=48,
        )
        for name, mode in sorted(modes.items())
    ]
    return Folder(path=Path(path), images=tuple(images), left_out=())


def numbered(*folders: str, suffix: str = ".png", mode: str = "RGB", n: int = 3) -> Files:
    """`n` files in each folder."""
    return {f"{folder}/{i:03}{suffix}": mode for folder, i in product(folders, range(n))}


def options(message: str) -> list[str]:
    """The paths after --data in a message."""
    return re.findall(r"--data (\S+)", message)


# Layouts that people have

MVTEC: Files = {
    **numbered("train/good", "test/good", "test/broken_large", "test/contamination"),
    **numbered("ground_truth/broken_large", suffix="_mask.png", mode="L"),
    **numbered("ground_truth/contamination", suffix="_mask.png", mode="L"),
}

VISA: Files = {
    **numbered("Data/Images/Normal", "Data/Images/Anomaly", suffix=".JPG"),
    **numbered("Data/Masks/Anomaly", mode="L"),
}

BTAD: Files = {
    **numbered("train/ok", "test/ok", "test/ko", suffix=".bmp"),
    **numbered("ground_truth/ko", mode="L"),
}

KOLEKTOR: Files = {
    **{f"kos{i:02}/Part{j}.jpg": "L" for i, j in product(range(3), range(4))},
    **{f"kos{i:02}/Part{j}_label.bmp": "L" for i, j in product(range(3), range(4))},
}

MT: Files = {
    **numbered("MT_Free/Imgs", "MT_Blowhole/Imgs", "MT_Crack/Imgs", suffix=".jpg", mode="L"),
    **numbered("MT_Free/Imgs", "MT_Blowhole/Imgs", "MT_Crack/Imgs", mode="1"),
}

CHESTS = numbered(
    *("/".join(parts) for parts in product(("train", "test", "val"), ("NORMAL", "PNEUMONIA"))),
    suffix=".jpg",
    mode="L",
)

TILES: Files = {
    **numbered("train/tile-000", "train/tile-001", "test-normal/tile-002", suffix=".jpg", mode="L"),
    **numbered("test-anomalous/fray", "test-anomalous/break", suffix=".jpg", mode="L"),
    **numbered("masks/fray", "masks/break", mode="1"),
}

IMAGENET = numbered("train/n01440764", "train/n01443537", "val/n01440764", "val/n01443537")

PLANTS = numbered("Tomato___healthy", "Tomato___Late_blight", "Tomato___Leaf_Mold")

CASTINGS = numbered("train/ok_front", "train/def_front", "test/ok_front", "test/def_front")


@pytest.mark.parametrize(
    ("files", "reason", "trains", "unseen"),
    [
        (MVTEC, "a test set in test/", ["train/good"], ["test/good"]),
        (VISA, "3 masks", ["Data/Images/Normal"], ["Data/Images/Normal"]),
        (BTAD, "a test set in test/", ["train/ok"], ["test/ok"]),
        (MT, "9 masks", ["MT_Free"], ["MT_Free"]),
        (CHESTS, "a test set in test/", ["train/NORMAL"], ["test/NORMAL", "val/NORMAL"]),
        (TILES, "a test set in test-anomalous/", ["train"], ["test-normal"]),
        (IMAGENET, "a test set in val/", ["train"], ["val"]),
        (PLANTS, "Tomato___Late_blight/", ["Tomato___healthy"], ["Tomato___healthy"]),
        (CASTINGS, "a test set in test/", ["train/ok_front"], ["test/ok_front"]),
        (KOLEKTOR, "12 masks, such as kos00/Part0_label.bmp", [], []),
        (numbered("good", "bad"), "bad/", ["good"], ["good"]),
        (numbered("ok", "NG"), "NG/ beside ok/", ["ok"], ["ok"]),
        (numbered("OK", "NOK"), "NOK/", ["OK"], ["OK"]),
        (numbered("pass", "fail"), "fail/", ["pass"], ["pass"]),
        (numbered("no_defect", "defect"), "defects in defect/", ["no_defect"], ["no_defect"]),
        (numbered("ok", "not_ok"), "defects in not_ok/", ["ok"], ["ok"]),
        (numbered("clean", "dirty"), "dirty/ beside clean/", ["clean"], ["clean"]),
        (numbered("healthy", "rust", "rot"), "rot/, rust/ beside healthy/", *[["healthy"]] * 2),
        (numbered("train", "test/scratch", "test/dent"), "a test set", ["train"], ["test"]),
        (numbered("good", "test"), "a test set in test/", ["good"], ["test"]),
        (numbered("trainset", "testset"), "a test set in testset/", ["trainset"], ["testset"]),
        (numbered("train_good", "test_good"), "test set", ["train_good"], ["test_good"]),
        (numbered("train2017", "val2017"), "test set", ["train2017"], ["val2017"]),
        ({**numbered("images"), **numbered("masks", mode="L")}, "3 masks", [], []),
        ({**numbered("images"), **numbered("labels", mode="L")}, "3 masks", [], []),
        ({**numbered("imgs", suffix=".jpg"), **numbered("gt")}, "3 masks", [], []),
        ({**numbered("images"), **numbered("masks")}, "3 masks", [], []),
        ({"a.png": "RGB", "a_mask.png": "L"}, "1 mask, such as a_mask.png", [], []),
        ({"a.png": "L", "a_mask.png": "L"}, "1 mask", [], []),
        ({"a.jpg": "RGB", "a_GT.png": "RGB"}, "1 mask", [], []),
        ({"a.jpg": "RGB", "a.png": "P"}, "1 mask", [], []),
        ({"1.png": "RGB", "defects/2.png": "RGB"}, "defects in defects/", [], []),
        ({"1.png": "RGB", "test/2.png": "RGB"}, "a test set in test/", [], ["test"]),
        (numbered("good", "bad/ok", "bad/ko"), "defects in bad/", ["good"], ["good"]),
        (numbered("MT_Free", "MT_Fray"), "MT_Fray/ beside MT_Free/", ["MT_Free"], ["MT_Free"]),
        (
            {**numbered("good", "dent"), **numbered("ground_truth/good", mode="L")},
            "3 masks",
            ["good"],
            ["good"],
        ),
    ],
)
def test_a_root_is_refused_and_the_folder_that_was_meant_is_named(
    files: Files, reason: str, trains: list[str], unseen: list[str]
) -> None:
    folder = layout(files, "bottle")
    assert reason in str(why_not_normal(folder))
    for wants_unseen, meant in ((False, trains), (True, unseen)):
        assert normal_folders(folder, unseen=wants_unseen) == [Path("bottle") / m for m in meant]
        with pytest.raises(DataError) as raised:
            check_normal(folder, unseen=wants_unseen)
        assert str(raised.value).startswith("bottle holds ")
        assert reason in str(raised.value)
        assert options(str(raised.value)) == [f"bottle/{m}" for m in meant]
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("files", [MVTEC, VISA, BTAD, MT, CHESTS, TILES, IMAGENET, CASTINGS])
@pytest.mark.parametrize("unseen", [True, False])
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_what_is_named_is_not_refused_in_its_turn(
    files: Files, unseen: bool, levels: int, tmp_path: Path
) -> None:
    """Whether the root itself was given, or a folder of several such roots."""
    categories = ["a/bottle", "a/cable", "b/screw"][: 3 if levels else 1]
    for category in categories:
        write_images(tmp_path / category, files)
    root = tmp_path / ["a/bottle", "a", "."][levels]
    meant = normal_folders(scan(root), unseen=unseen)
    assert len(meant) >= (1, 2, 3)[levels]
    for path in meant:
        check_normal(scan(path), unseen=unseen)


def test_a_root_of_many_categories_names_the_first_and_counts_the_others() -> None:
    names = [f"cat{i:02}" for i in range(15)]
    files = {f"{name}/{file}": mode for name in names for file, mode in MVTEC.items()}
    with pytest.raises(DataError) as raised:
        check_normal(layout(files, "mvtec"))
    assert options(str(raised.value)) == ["mvtec/cat00/train/good", "mvtec/cat01/train/good"]
    assert "13 more" in str(raised.value)


def test_the_command_can_be_copied() -> None:
    with pytest.raises(DataError) as raised:
        check_normal(layout(numbered("good ones", "bad"), "it's mine"))
    command = str(raised.value).partition("--data")[2]
    assert shlex.split(command) == ["it's mine/good ones"]


def test_the_message_has_one_line_whatever_the_names() -> None:
    with pytest.raises(DataError) as raised:
        check_normal(layout(numbered("good", "bad"), "a\nb\udcff"))
    assert len(str(raised.value).splitlines()) == 1
    str(raised.value).encode()


def test_training_images_are_never_named_as_unseen_ones_nor_the_reverse() -> None:
    folder = layout(numbered("train/good", "test/broken"))
    assert normal_folders(folder, unseen=True) == []
    assert normal_folders(folder) == [Path("data/train/good")]
    folder = layout(numbered("train/good", "train/scratch", "test/good"))
    assert normal_folders(folder, unseen=True) == [Path("data/test/good")]
    folder = layout(numbered("train/bad", "test/good"))
    assert normal_folders(folder) == []


# Folders that are no such root

INNOCENT: dict[str, Files] = {
    "flat": {"a.png": "RGB", "b.jpg": "RGB"},
    "empty": {},
    "digits": numbered(*map(str, range(10)), mode="L"),
    "cats and dogs": numbered("cat", "dog"),
    "parts": numbered("tile-000", "tile-001", "tile-002"),
    "dates": numbered("2024-01-01", "2024-01-02/morning", "2024-01-02/evening"),
    "normal images of several parts": numbered("part1/good", "part2/good", "part3/good"),
    "MVTec without tests": numbered("train/good"),
    "several such": numbered("bottle/train/good", "cable/train/good"),
    "only normal ones": numbered("good", "normal", "ok"),
    "train alone": numbered("train/cat", "train/dog"),
    "a test set alone": numbered("test/a", "test/b"),
    "vehicles": numbered("bus", "car", "train", "truck"),
    "face masks": numbered("with_mask", "without_mask", suffix=".jpg"),
    "face masks, as PNG": numbered("with_mask", "without_mask"),
    "face masks, briefly": numbered("mask", "nomask", suffix=".jpg"),
    "face masks, briefly, as PNG": numbered("mask", "face"),
    "pairs of faces": {"bob.jpg": "RGB", "bob_mask.jpg": "RGB", "eve.jpg": "RGB"},
    "carnival": numbered("venice/masks", "venice/boats", suffix=".jpg"),
    "labels of bottles": numbered("label", "cap", mode="L"),
    "labels of bottles, in pairs": {"1.png": "L", "1_label.png": "L"},
    "a Ford": numbered("Ford GT Coupe 2006", "Audi TT", suffix=".jpg"),
    "chemistry": numbered("test_tubes", "beakers"),
    "crash tests": numbered("crash-test-1", "crash-test-2"),
    "trial shots": numbered("test1", "test2"),
    "the latest contest": numbered("latest", "contest"),
    "the Alps": numbered("pass", "valley", "summit"),
    "more of the Alps": numbered("mountain_pass", "val_d_isere"),
    "car parks": numbered("free", "busy"),
    "drinks": numbered("sugar_free", "cola"),
    "rooms": numbered("clean_room", "kitchen"),
    "towns": numbered("bad_homburg", "bad_ems", "broken_hill"),
    "languages": numbered("en", "ja", "ko", "ng"),
    "validity": numbered("valid", "invalid"),
    "geology": numbered("fault_line", "fold"),
    "sharpness": numbered("high_def", "low_def"),
    "pictures in two formats": {"a.jpg": "RGB", "a.png": "RGB", "b.jpg": "RGB"},
    "one grey picture in two formats": {f"{i}.jpg": "L" for i in range(5)} | {"1.png": "L"},
}


@pytest.mark.parametrize("name", INNOCENT)
def test_an_ordinary_folder_is_taken_as_it_is(name: str) -> None:
    folder = layout(INNOCENT[name])
    assert why_not_normal(folder) is None
    check_normal(folder)
    check_normal(folder, unseen=True)
    assert find_masks(folder.images) == []


@pytest.mark.parametrize("path", ["test", "bottle/test", "masks", "defects", "val", "ground_truth"])
def test_the_name_of_the_given_folder_refuses_nothing(path: str) -> None:
    assert why_not_normal(layout({"a.png": "RGB", "sub/b.png": "L"}, path)) is None


def test_a_grey_twin_of_another_size_is_no_mask() -> None:
    folder = layout({"a.jpg": "RGB", "a.png": "L"})
    image, twin = folder.images
    assert masks_beside([image, twin]) == [twin]
    thumbnail = ImageFile(
        path=twin.path, name=twin.name, format="PNG", mode="L", width=16, height=12
    )
    assert masks_beside([image, thumbnail]) == []


@pytest.mark.parametrize("path", ["MT_Free", "MT_Free/Imgs", "good", "x/normal/images"])
def test_masks_of_normal_images_are_empty_and_no_reason(path: str) -> None:
    files = {"a.jpg": "L", "a.png": "1"}
    assert why_not_normal(layout(files, path)) is None
    assert why_not_normal(layout(files, "MT_Crack/Imgs")) is not None


# Masks


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("000_mask", "000"),
        ("a_b-mask", "a_b"),
        ("Part0_label", "Part0"),
        ("x.GT", "x"),
        ("x_Ground_Truth", "x"),
        ("x_groundtruth", "x"),
        ("x_segmentation", "x"),
    ],
)
def test_names_of_masks(name: str, image: str) -> None:
    match = MASK_NAME.match(name)
    assert match is not None
    assert match["image"] == image


@pytest.mark.parametrize(
    "name", ["mask", "_mask", "unmask", "a_masked", "mask_a", "relabel", "000"]
)
def test_names_that_are_none_of_masks(name: str) -> None:
    assert MASK_NAME.match(name) is None


def test_masks_are_found_beside_and_elsewhere() -> None:
    for files, n in ((MVTEC, 6), (VISA, 3), (BTAD, 3), (KOLEKTOR, 12), (MT, 9), (TILES, 6)):
        masks = find_masks(layout(files).images)
        assert len(masks) == n
        kinds = {(mask.format, mask.mode) for mask in masks}
        assert kinds <= {("PNG", "L"), ("PNG", "1"), ("BMP", "L")}


def test_a_mask_needs_its_image_in_the_same_folder() -> None:
    assert masks_beside(layout({"a/1.png": "RGB", "b/1_mask.png": "L"}).images) == []
    assert len(masks_beside(layout({"b/1.png": "RGB", "b/1_mask.png": "L"}).images)) == 1


# Names


@pytest.mark.parametrize(
    "name",
    [
        "good",
        "Normal",
        "NORMAL",
        "ok",
        "train_good",
        "test-normal",
        "MT_Free",
        "defect_free",
        "no_defect",
        "non-defective",
        "without defects",
        "not_broken",
        "good2",
        "ok_front",
        "clean",
    ],
)
def test_names_of_normal_images(name: str) -> None:
    assert is_normal(name)
    assert not is_defect(name)


@pytest.mark.parametrize(
    "name",
    [
        "bad",
        "Anomaly",
        "test-anomalous",
        "abnormal",
        "defects",
        "not_ok",
        "not good",
        "NOK",
        "bad images",
        "defect_type_1",
        "damaged_cars",
        "non-normal",
        "test_bad",
        "unhealthy",
    ],
)
def test_names_of_images_with_defects(name: str) -> None:
    assert is_defect(name)
    assert not is_normal(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0",
        "cat",
        "tile-000",
        "2024-01-01",
        "goodyear",
        "abnormally",
        "bad_homburg",
        "broken_hill",
        "free_kick",
        "passport",
        "good_and_defective",
        "clean_room",
        "Normandy",
        "日本",
    ],
)
def test_names_that_say_nothing(name: str) -> None:
    assert not is_normal(name)
    assert not is_defect(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("masks", True),
        ("ground_truth", True),
        ("groundTruth", True),
        ("GT", True),
        ("no_mask", False),
        ("unmasked", False),
        ("background", False),
    ],
)
def test_names_of_masks_folders(name: str, said: bool) -> None:
    assert holds_masks(name) is said


def test_words_are_of_any_alphabet() -> None:
    assert words("größe-12b, GuteTeile_3") == ["größe", "b", "gute", "teile"]
