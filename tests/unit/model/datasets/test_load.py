"""Training images from IDX files, .npz archives and folders of image files."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model.datasets.folder import LeftOut, scan
from model.datasets.load import (
    DataError,
    ImageSet,
    load_images,
    load_unseen,
    read_idx,
    stored_shape,
    take_label,
)
from tests.unit.model.datasets.image_folders import write_image, write_images
from tests.unit.samples import assert_one_line, damaged, encoded, idx_bytes, write_idx

SHAPE = (1, 4, 5)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
IDX = idx_bytes(IMAGES[:, 0])


def refused(path: Path, split: str = "train") -> str:
    """The line with which the images at `path` are refused."""
    with pytest.raises(DataError) as raised:
        load_images(path, "train" if split == "train" else "test", image_shape=SHAPE)
    assert_one_line(raised.value, path)
    return str(raised.value)


# IDX


@pytest.mark.parametrize("gz", [True, False])
def test_idx_files_of_both_splits(gz: bool, tmp_path: Path) -> None:
    for name, images in (("train", IMAGES), ("t10k", IMAGES[:2])):
        data = idx_bytes(images[:, 0])
        path = tmp_path / f"{name}-images-idx3-ubyte{'.gz' if gz else ''}"
        path.write_bytes(gzip.compress(data) if gz else data)
    train = load_images(tmp_path, "train", image_shape=SHAPE)
    test = load_images(tmp_path, "test", image_shape=SHAPE)
    assert np.array_equal(train.images, IMAGES)
    assert np.array_equal(test.images, IMAGES[:2])
    assert train.name == test.name == tmp_path.name
    assert train.skipped == ()
    assert stored_shape(tmp_path) == SHAPE
    for path in tmp_path.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (train.files | test.files)[path.name] == digest  # type: ignore[operator]
    assert len(train.files) == len(test.files) == 1


def test_a_gz_is_known_by_its_bytes_and_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "plain.gz").write_bytes(IDX)
    (tmp_path / "zipped").write_bytes(gzip.compress(IDX))
    assert np.array_equal(read_idx(tmp_path / "plain.gz"), IMAGES[:, 0])
    assert np.array_equal(read_idx(tmp_path / "zipped"), IMAGES[:, 0])


def test_idx_pixels_may_be_written_to(tmp_path: Path) -> None:
    """torch.from_numpy warns where they may not."""
    (tmp_path / "idx").write_bytes(IDX)
    assert read_idx(tmp_path / "idx").flags.writeable


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no IDX file"),
        (IDX[:15], "no IDX file"),
        (b"\0\0\x08\x01" + IDX[4:], "00 00 08 01"),  # labels
        (b"\0\0\x0d\x03" + IDX[4:], "00 00 0d 03"),  # floats
        (b"\x01\0\x08\x03" + IDX[4:], "01 00 08 03"),
        (IDX[:-1], "holds 119 pixels, but its header says (6, 4, 5), 120"),
        (IDX + b"\0", "holds 121 pixels"),
        (IDX[:4] + b"\xff" * 12 + IDX[16:], "holds 120 pixels"),
        (idx_bytes(IMAGES[:0, 0]), "(0, 4, 5)"),
        (gzip.compress(IDX, mtime=0)[:-1], "cannot be read"),
        (gzip.compress(IDX, mtime=0)[:30], "cannot be read"),
        (gzip.compress(IDX, mtime=0)[:-5] + b"\0\0\0\0\0", "cannot be read"),
        (b"\x1f\x8b" + IDX, "cannot be read"),
        (gzip.compress(IDX[:-1], mtime=0), "holds 119 pixels"),
    ],
)
def test_a_broken_idx_file_is_reported(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)
    assert reason in refused(tmp_path)


def test_a_missing_split_is_reported(tmp_path: Path) -> None:
    write_idx(tmp_path, IMAGES)
    assert "t10k-images-idx3-ubyte" in refused(tmp_path, "test")
    (tmp_path / "train-images-idx3-ubyte.gz").rename(tmp_path / "t10k-images-idx3-ubyte.gz")
    assert "train-images-idx3-ubyte" in refused(tmp_path, "train")


def test_idx_images_of_another_shape_are_reported(tmp_path: Path) -> None:
    write_idx(tmp_path, IMAGES.transpose(0, 1, 3, 2))
    assert "(1, 5, 4)" in refused(tmp_path)
    assert str(SHAPE) in refused(tmp_path)


def write_labels(directory: Path, labels: list[int], split: str = "train") -> None:
    data = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + bytes(labels)
    (directory / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(data))


def test_idx_labels_go_with_their_images(tmp_path: Path) -> None:
    write_idx(tmp_path, IMAGES, IMAGES[:2])
    assert load_images(tmp_path, "train", image_shape=SHAPE).labels is None
    write_labels(tmp_path, [3, 1, 4, 1, 5, 200])
    write_labels(tmp_path, [2, 7], "t10k")
    train = load_images(tmp_path, "train", image_shape=SHAPE)
    test = load_images(tmp_path, "test", image_shape=SHAPE)
    assert train.labels is not None
    assert train.labels.tolist() == [3, 1, 4, 1, 5, 200]
    assert test.labels is not None
    assert test.labels.tolist() == [2, 7]
    assert train.names == ("0", "1", "2", "3", "4", "5")


def test_a_wrong_number_of_idx_labels_is_reported(tmp_path: Path) -> None:
    write_idx(tmp_path, IMAGES)
    write_labels(tmp_path, [1, 2, 3, 4, 5])
    assert "6 train images, but 5 labels" in refused(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(IDX)
    assert "no IDX file of labels" in refused(tmp_path)


# .npz

LAYOUTS: dict[str, NDArray[Any]] = {
    "N, H, W": IMAGES[:, 0],
    "N, H, W, 1": IMAGES.transpose(0, 2, 3, 1),
    "N, 1, H, W": IMAGES,
    "float16": (IMAGES / 255).astype(np.float16),
    "float32": (IMAGES / 255).astype(np.float32),
    "float64": IMAGES / 255,
    "Fortran order": np.asfortranarray(IMAGES),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["images", "x_train", "train_images"])
def test_npz_layouts(layout: str, save: Any, key: str, tmp_path: Path) -> None:
    path = tmp_path / "my.npz"
    save(path, **{key: LAYOUTS[layout], "labels": np.arange(6)})
    loaded = load_images(path, "train", image_shape=SHAPE)
    assert np.array_equal(loaded.images, IMAGES)
    assert loaded.images.dtype == np.uint8
    assert loaded.name == "my"
    assert loaded.files == {"my.npz": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert stored_shape(path) == SHAPE


def test_npz_floats_are_rounded(tmp_path: Path) -> None:
    floats = np.random.default_rng(0).random((6, 4, 5))
    np.savez(tmp_path / "my.npz", images=floats)
    loaded = load_images(tmp_path / "my.npz", "train", image_shape=SHAPE)
    np.testing.assert_allclose(loaded.images[:, 0], floats * 255, rtol=0, atol=0.5)


def test_npz_in_colour(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "last.npz", images=colour)
    np.savez(tmp_path / "first.npz", images=colour.transpose(0, 3, 1, 2))
    for name in ("last.npz", "first.npz"):
        loaded = load_images(tmp_path / name, "train", image_shape=(3, 8, 9))
        assert np.array_equal(loaded.images, colour.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("key", ["x_test", "test_images"])
def test_npz_test_images(key: str, tmp_path: Path) -> None:
    path = tmp_path / "my.npz"
    arrays: dict[str, Any] = {"x_train": IMAGES, key: IMAGES[:2]}
    np.savez(path, **arrays)
    assert len(load_images(path, "train", image_shape=SHAPE).images) == 6
    assert len(load_images(path, "test", image_shape=SHAPE).images) == 2


def test_npz_without_test_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", images=IMAGES)
    assert "holds 'images'" in refused(tmp_path / "my.npz", "test")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "nothing"),
        ({"pictures": IMAGES}, "holds 'pictures'"),
        ({"images": IMAGES.astype(np.int64)}, "int64"),
        ({"images": IMAGES > 127}, "bool"),
        ({"images": IMAGES.astype(np.float32)}, "float32"),
        ({"images": IMAGES / 255 - 0.1}, "[0, 1]"),
        ({"images": np.where(IMAGES > 128, np.nan, IMAGES / 255)}, "[0, 1]"),
        ({"images": IMAGES.astype(np.complex64)}, "complex64"),
        ({"images": np.array(["a", "b"])}, "expected uint8"),
        ({"images": np.array([{}], dtype=object)}, "cannot be read"),
        ({"images": IMAGES[0, 0]}, "(4, 5)"),
        ({"images": IMAGES.reshape(6, 20)}, "(6, 20)"),
        ({"images": np.zeros((2, 2, 4, 5), np.uint8)}, "(2, 2, 4, 5)"),
        ({"images": IMAGES[:0]}, "(0, 1, 4, 5)"),
        ({"images": IMAGES[None]}, "(1, 6, 1, 4, 5)"),
        ({"images": np.zeros((2, 5, 4), np.uint8)}, "(1, 5, 4)"),
    ],
)
def test_an_unusable_npz_is_reported(arrays: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "my.npz"
    np.savez(path, allow_pickle=True, **arrays)
    assert reason in refused(path)


LABELS = np.array([0, 7, 7, 3, 0, 7])


def loaded_npz(path: Path, split: Any = "train", **arrays: NDArray[Any]) -> ImageSet:
    np.savez(path, allow_pickle=True, **arrays)
    return load_images(path, split, image_shape=SHAPE)


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("images", "labels", "train"),
        ("x_train", "y_train", "train"),
        ("train_images", "train_labels", "train"),
        ("x_test", "y_test", "test"),
        ("test_images", "test_labels", "test"),
    ],
)
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_npz_labels(
    images: str, labels: str, split: str, shape: tuple[int, ...], dtype: Any, tmp_path: Path
) -> None:
    arrays = {images: IMAGES, labels: LABELS.reshape(shape).astype(dtype)}
    data = loaded_npz(tmp_path / "my.npz", split, **arrays)
    assert data.labels is not None
    assert data.labels.tolist() == LABELS.tolist()
    assert data.array == images
    assert data.unread == ()


def test_npz_labels_are_those_of_the_images_that_are_read(tmp_path: Path) -> None:
    """By name: y_train does not describe train_images."""
    data = loaded_npz(tmp_path / "my.npz", images=IMAGES, y_train=LABELS[:3], x_train=IMAGES[:3])
    assert data.labels is None
    assert data.unread == ("y_train", "x_train")


def test_medmnist(tmp_path: Path) -> None:
    """The other split is read when it is needed, and the validation images never."""
    arrays: dict[str, NDArray[Any]] = {}
    for split, n in (("train", 6), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = IMAGES[:n, 0]
        arrays[f"{split}_labels"] = LABELS[:n, None].astype(np.uint8)
    for split, n in (("train", 6), ("test", 3)):
        data = loaded_npz(tmp_path / "pneumoniamnist.npz", split, **arrays)
        assert data.unread == ("val_images", "val_labels")
        assert data.labels is not None
        assert data.labels.tolist() == LABELS[:n].tolist()


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a"] * 6),
        np.eye(6, 4),
        np.zeros((6, 2), np.int64),
        np.array([0.5] * 6),
        np.array([np.nan] * 6),
        np.array([{}] * 6),
        np.array(7),
    ],
)
def test_labels_that_are_no_numbers_are_not_read_and_said_so(
    labels: NDArray[Any], tmp_path: Path
) -> None:
    data = loaded_npz(tmp_path / "my.npz", images=IMAGES, labels=labels)
    assert data.labels is None
    assert data.unread == ("labels",)
    assert np.array_equal(data.images, IMAGES)


@pytest.mark.parametrize("n", [5, 7, 12])
@pytest.mark.parametrize("vector", [False, True])
def test_a_wrong_number_of_npz_labels_is_reported(n: int, vector: bool, tmp_path: Path) -> None:
    """Twice as many, too, which a reshape would fold."""
    np.savez(tmp_path / "my.npz", images=IMAGES, labels=np.zeros((n, 1) if vector else n))
    assert f"6 images, but {n} labels" in refused(tmp_path / "my.npz")


def test_a_suffix_in_capitals(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", x_train=IMAGES, x_test=IMAGES[:2])
    path = (tmp_path / "my.npz").rename(tmp_path / "MY.NPZ")
    data, split = load_unseen(path, image_shape=SHAPE)
    assert (len(data.images), split) == (2, "test")
    assert stored_shape(path) == SHAPE


def test_a_fifo_named_as_data_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "my.npz"
    os.mkfifo(path)
    refused(path)
    with pytest.raises(DataError):
        load_unseen(path, image_shape=SHAPE)
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    refused(tmp_path)


# One label


def test_images_of_one_label(tmp_path: Path) -> None:
    data = loaded_npz(tmp_path / "my.npz", images=IMAGES, labels=LABELS)
    taken = take_label(data, 7)
    assert np.array_equal(taken.images, IMAGES[[1, 2, 5]])
    assert taken.labels is not None
    assert taken.labels.tolist() == [7, 7, 7]
    assert taken.files == data.files


def test_an_unknown_label_is_reported(tmp_path: Path) -> None:
    data = loaded_npz(tmp_path / "my.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(DataError, match=r"my has no images with label 4; its labels are 0, 3, 7$"):
        take_label(data, 4)
    with pytest.raises(DataError, match="my has no labels to choose 4 from"):
        take_label(loaded_npz(tmp_path / "my.npz", images=IMAGES), 4)


@given(indices=st.lists(st.integers(0, 5)))
def test_what_is_taken_stays_together(
    indices: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An image, its name and its label."""
    root = tmp_path_factory.mktemp("taken")
    names = [f"{i}.png" for i in range(6)]
    write_images(root, names)
    data = load_images(root, "train", image_shape=SHAPE)
    marked = dataclasses.replace(data, images=IMAGES, labels=np.arange(6))
    taken = marked.take(np.array(indices, np.int64))
    assert taken.names == tuple(names[i] for i in indices)
    assert np.array_equal(taken.images, IMAGES[indices])
    assert taken.labels is not None
    assert taken.labels.tolist() == indices


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["array", "file"])
def test_a_pickle_is_not_opened(kind: str, tmp_path: Path) -> None:
    path, sprung = tmp_path / "my.npz", tmp_path / "sprung"
    if kind == "array":
        np.savez(path, images=np.array([Trap(sprung)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(Trap(sprung)))
    message = refused(path)
    assert not sprung.exists()
    assert "unsafely" not in message  # numpy advises to switch the safety off


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", b"\x93NUMPY"])
def test_a_file_that_is_no_npz_is_reported(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "my.npz").write_bytes(data)
    refused(tmp_path / "my.npz")


def test_an_npy_with_the_wrong_name_is_reported(tmp_path: Path) -> None:
    np.save(tmp_path / "my.npy", IMAGES)
    (tmp_path / "my.npy").rename(tmp_path / "my.npz")
    refused(tmp_path / "my.npz")


@pytest.mark.filterwarnings("ignore")  # numpy's and zipfile's
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_npz_is_reported_or_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    np.savez_compressed(path, images=IMAGES)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    try:
        load_images(path, "train", image_shape=SHAPE)
    except DataError as error:
        assert_one_line(error, path)


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of several sizes and formats, one of them broken, and a text."""
    directory = tmp_path / "pictures"
    (directory / "more" / "deep").mkdir(parents=True)
    (directory / "a.png").write_bytes(encoded(Image.fromarray(IMAGES[0, 0])))
    (directory / "b.JPG").write_bytes(encoded(Image.new("RGB", (9, 7), (255, 255, 255)), "JPEG"))
    (directory / "more" / "c.bmp").write_bytes(encoded(Image.new("L", (50, 30), 100), "BMP"))
    (directory / "more" / "deep" / "d.webp").write_bytes(encoded(Image.new("L", (1, 1)), "WEBP"))
    (directory / "more" / "broken.png").write_bytes(encoded(Image.fromarray(IMAGES[0, 0]))[:40])
    (directory / "notes.txt").write_text("not a picture")
    return directory


def test_a_folder_of_mixed_images(folder: Path) -> None:
    loaded = load_images(folder, "train", image_shape=SHAPE)
    assert loaded.images.shape == (4, *SHAPE)
    assert np.array_equal(loaded.images[0], IMAGES[0])
    assert loaded.images[1].min() > 250
    assert loaded.images[2].tolist() == np.full(SHAPE, 100).tolist()
    assert loaded.images[3].max() < 5
    assert loaded.name == "pictures"
    assert stored_shape(folder) is None


def test_a_broken_image_is_skipped_and_named(folder: Path) -> None:
    (item,) = load_images(folder, "train", image_shape=SHAPE).skipped
    assert item.name == "more/broken.png"
    assert item.kind == ".png"
    assert item.reason.isprintable()
    (folder / "a.png").write_bytes(b"")
    assert len(load_images(folder, "train", image_shape=SHAPE).skipped) == 2
    assert load_images(folder, "train", image_shape=SHAPE).images.shape == (3, *SHAPE)


def test_a_folder_in_colour(folder: Path) -> None:
    assert load_images(folder, "train", image_shape=(3, 6, 6)).images.shape == (4, 3, 6, 6)


def test_a_folders_hash_follows_its_images(folder: Path) -> None:
    before = load_images(folder, "train", image_shape=SHAPE).files
    assert list(before) == ["4 image files"]
    (folder / "notes.txt").write_text("changed")
    assert load_images(folder, "train", image_shape=SHAPE).files == before
    (folder / "a.png").write_bytes(encoded(Image.fromarray(IMAGES[1, 0])))
    assert load_images(folder, "train", image_shape=SHAPE).files != before


def test_the_order_is_that_of_the_names(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(folder))
    one, other = (load_images(path, "train", image_shape=SHAPE) for path in (folder, copy))
    assert np.array_equal(one.images, other.images)
    assert one.files == other.files


def test_a_folder_has_no_test_images(folder: Path) -> None:
    assert "for training" in refused(folder, "test")


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    assert ".png" in refused(tmp_path)
    (tmp_path / "notes.txt").write_text("not a picture")
    refused(tmp_path)


def test_a_folder_of_broken_images_is_reported(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"broken")
    (tmp_path / "two.png").write_bytes(b"broken")
    message = refused(tmp_path)
    assert "left out: 2 .png" in message
    assert "one.png: not an image" in message


@pytest.mark.parametrize("name", ["nowhere", "nowhere.npz"])
def test_a_missing_path_is_reported(name: str, tmp_path: Path) -> None:
    message = refused(tmp_path / name)
    assert re.search("no such|not exist|neither", message, re.IGNORECASE)


def test_what_is_neither_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(encoded(Image.fromarray(IMAGES[0, 0])))
    refused(tmp_path / "file.png")
    (tmp_path / "directory.npz").mkdir()
    refused(tmp_path / "directory.npz")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.png", "is one image; give the folder that it is in: --data "),
        ("a.zip", "unpack it"),
        ("a.npy", ".npz files only"),
        ("a.txt", "neither a directory nor an .npz file"),
    ],
)
def test_a_file_is_refused_with_advice(name: str, reason: str, tmp_path: Path) -> None:
    write_image(tmp_path / name)
    assert reason in refused(tmp_path / name)


def test_a_folder_that_was_scanned_is_not_scanned_again(folder: Path) -> None:
    scanned = scan(folder)
    write_image(folder / "new.png")
    data = load_images(folder, "train", image_shape=SHAPE, folder=scanned)
    assert "new.png" not in data.names
    assert data.folder is not None
    assert data.folder.images == scanned.images


def test_what_was_read_is_in_step_with_its_names(folder: Path) -> None:
    data = load_images(folder, "train", image_shape=SHAPE)
    assert data.names == ("a.png", "b.JPG", "more/c.bmp", "more/deep/d.webp")
    assert data.folder is not None
    assert {item.name for item in data.folder.left_out} == {"more/broken.png", "notes.txt"}
    assert list(data.folder.subfolders().items()) == [("", 2), ("more", 1), ("more/deep", 1)]


def test_a_file_that_vanishes_or_is_damaged_is_named(folder: Path) -> None:
    """The header was good when the folder was scanned."""
    scanned = scan(folder)
    (folder / "a.png").unlink()
    (folder / "b.JPG").write_bytes((folder / "b.JPG").read_bytes()[:-20])
    data = load_images(folder, "train", image_shape=SHAPE, folder=scanned)
    reasons = {item.name: item.reason for item in data.skipped}
    assert reasons["a.png"] == "No such file or directory"
    assert str(folder) not in reasons["b.JPG"]
    assert "damaged" in reasons["b.JPG"]
    assert data.names == ("more/c.bmp", "more/deep/d.webp")


def test_one_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    assert list(load_images(tmp_path, "train", image_shape=SHAPE).files) == ["1 image file"]


def test_a_folder_with_an_odd_name_can_be_written_down(tmp_path: Path) -> None:
    data = load_images(write_images(tmp_path / "a\nb\udcff", ["a.png"]), "train", image_shape=SHAPE)
    assert data.name == "a\\nb\\xff"


def test_a_folder_of_gifs_is_refused_with_advice(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.gif", "b.gif", ".DS_Store"])
    assert "left out: 2 .gif, the first: a.gif: GIF is not read" in refused(tmp_path)


BOTTLE = {
    **dict.fromkeys(["train/good/1.png", "train/good/2.png", "test/good/3.png"], "RGB"),
    **dict.fromkeys(["test/broken/4.png", "test/scratch/5.png"], "RGB"),
    **dict.fromkeys(["ground_truth/broken/4_mask.png", "ground_truth/scratch/5_mask.png"], "L"),
}


def test_the_root_of_a_data_set_is_refused_with_the_folder_that_was_meant(tmp_path: Path) -> None:
    """Training wants its training images, and all else wants those that training has not seen."""
    bottle = write_images(tmp_path / "bottle", BOTTLE)
    assert refused(bottle).endswith(f"--data {bottle / 'train' / 'good'}")
    with pytest.raises(DataError) as raised:
        load_unseen(bottle, image_shape=SHAPE)
    assert str(raised.value).endswith(f"--data {bottle / 'test' / 'good'}")
    data, split = load_unseen(bottle / "test" / "good", image_shape=SHAPE)
    assert (data.names, split) == (("3.png",), "train")


@pytest.mark.parametrize(("given", "below"), [("", "test/"), ("test", "")])
def test_anomalies_are_what_is_neither_normal_nor_a_mask(
    given: str, below: str, tmp_path: Path
) -> None:
    bottle = write_images(tmp_path / "bottle", BOTTLE)
    data = load_images(bottle / given, "train", image_shape=SHAPE, anomalous=True)
    assert data.names == (f"{below}broken/4.png", f"{below}scratch/5.png")
    assert data.folder is not None
    assert {item.kind for item in data.folder.left_out} <= {"mask", "normal image"}
    assert data.skipped == ()


def test_training_images_among_anomalies_are_left_out(tmp_path: Path) -> None:
    """As at the root of ../shared/photos/tiles."""
    root = write_images(tmp_path, ["train/t-1/a.jpg", "test-normal/b.jpg", "test-anomalous/c.jpg"])
    data = load_images(root, "train", image_shape=SHAPE, anomalous=True)
    assert data.names == ("test-anomalous/c.jpg",)


@pytest.mark.parametrize("kind", ["mask_torn", "label_missing", "train"])
def test_kinds_of_anomalies_may_be_called_anything(kind: str, tmp_path: Path) -> None:
    root = write_images(tmp_path, [f"{kind}/1.png", f"{kind}/2.png", "scratch/1.png"])
    assert len(load_images(root, "train", image_shape=SHAPE, anomalous=True).images) == 3


def test_no_anomalies_among_normal_images_are_reported(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["good/1.png", "good/2.png"])
    with pytest.raises(DataError, match="left out: 2 normal image"):
        load_images(root, "train", image_shape=SHAPE, anomalous=True)


def test_masks_of_normal_images_are_left_out(tmp_path: Path) -> None:
    root = write_images(tmp_path / "MT_Free", {"Imgs/a.jpg": "L", "Imgs/a.png": "1"})
    data = load_images(root, "train", image_shape=SHAPE)
    assert data.names == ("Imgs/a.jpg",)
    assert data.folder is not None
    assert data.folder.left_out == (
        LeftOut(name="Imgs/a.png", kind="mask", reason="masks are not images"),
    )
