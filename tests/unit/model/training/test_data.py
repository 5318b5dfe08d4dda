"""Training images from IDX files, .npz archives and folders of image files."""

from __future__ import annotations

import gzip
import hashlib
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

from model.training.data import DataError, load_images, read_idx, stored_shape
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
    (line,) = load_images(folder, "train", image_shape=SHAPE).skipped
    assert line.startswith(str(Path("more") / "broken.png"))
    assert len(line.splitlines()) == 1
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
    assert "2 broken" in message
    assert "one.png" in message


@pytest.mark.parametrize("name", ["nowhere", "nowhere.npz"])
def test_a_missing_path_is_reported(name: str, tmp_path: Path) -> None:
    message = refused(tmp_path / name)
    assert re.search("no such|not exist|neither", message, re.IGNORECASE)


def test_what_is_neither_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(encoded(Image.fromarray(IMAGES[0, 0])))
    refused(tmp_path / "file.png")
    (tmp_path / "directory.npz").mkdir()
    refused(tmp_path / "directory.npz")
