"""Masks of defects: which image they belong to, and what they mark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.datasets.folder import scan
from model.datasets.load import DataError, ImageSet, load_unseen
from model.evaluation.masks import cells_with_any, load_mask, load_masks, match_masks, other_aspect
from tests.unit.samples import assert_one_line

SHAPE = (1, 8, 8)


def write(root: Path, *names: str, size: tuple[int, int] = (8, 8)) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 9).save(path)
    return root


def read(root: Path) -> ImageSet:
    return load_unseen(root, image_shape=SHAPE, anomalous=True)[0]


def matched(images: Path, masks: Path | None) -> dict[str, str | None]:
    """The mask's path below the parent of the images by the image's name."""
    data = read(images)
    found = match_masks([data], [] if masks is None else [scan(masks)])
    return {
        name: None if path is None else path.relative_to(images.parent).as_posix()
        for name, path in zip(data.names, found.paths[0], strict=True)
    }


# Which image


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("crack/000.png", "crack/000.png"),
        ("crack/000.jpg", "crack/000.png"),
        ("crack/000.png", "crack/000_mask.png"),
        ("crack/000.png", "crack/000-label.bmp"),
        ("crack/000.png", "crack/000.GT.png"),
        ("crack/000.png", "crack/mask_000.png"),
        ("crack/000.png", "ground_truth/crack/000_mask.png"),
        ("test/crack/000.png", "ground_truth/crack/000_mask.png"),
        ("images/crack/000.png", "masks/crack/000.png"),
        ("crack/000.png", "crack_masks/000.png"),
        ("000.png", "000_mask.png"),
    ],
)
def test_a_mask_has_its_image_s_path(image: str, mask: str, tmp_path: Path) -> None:
    images = write(tmp_path / "bad", image, image.replace("000", "001"))
    masks = write(tmp_path / "m", mask)
    other = image.replace("000", "001")
    assert matched(images, masks) == {image: f"m/{mask}", other: None}


def test_the_end_of_a_path_will_do_where_it_is_clear(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad", "crack/000.png", "dent/000.png", "dent/001.png")
    masks = write(tmp_path / "m", "crack/000.png", "dent/000.png", "dent/001.png")
    data = read(bad / "dent")
    (paths,) = match_masks([data], [scan(masks)]).paths
    assert paths == (masks / "dent/000.png", masks / "dent/001.png")
    flat = write(tmp_path / "flat", "000.png", "001.png")
    (paths,) = match_masks([read(bad)], [scan(flat)]).paths
    assert paths == (None, None, flat / "001.png")  # 000 may be of either


def test_masks_of_several_sets_may_share_a_folder(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad", "crack/000.png", "dent/000.png")
    masks = write(tmp_path / "m", "crack/000.png", "dent/000.png", "dent/007.png")
    found = match_masks([read(bad / "crack"), read(bad / "dent")], [scan(masks)])
    assert found.paths == ((masks / "crack/000.png",), (masks / "dent/000.png",))
    assert found.unused == ("dent/007.png",)


def test_masks_beside_the_images_need_no_option(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad", "crack/000.png", "crack/000_mask.png", "crack/001.png")
    assert matched(bad, None) == {"crack/000.png": "bad/crack/000_mask.png", "crack/001.png": None}
    root = write(tmp_path / "root", "test/crack/000.png", "ground_truth/crack/000_mask.png")
    assert matched(root, None) == {"test/crack/000.png": "root/ground_truth/crack/000_mask.png"}
    pairs = write(tmp_path / "pairs", "a.jpg", "a.png")
    assert matched(pairs, None) == {"a.jpg": "pairs/a.png"}


def test_the_folder_of_masks_may_hold_the_images_too(tmp_path: Path) -> None:
    root = write(tmp_path / "root", "test/crack/000.png", "ground_truth/crack/000_mask.png")
    found = match_masks([read(root / "test")], [scan(root)])
    assert found.paths == ((root / "ground_truth/crack/000_mask.png",),)
    assert found.unused == ()
    beside = write(tmp_path / "beside", "000.png", "000_mask.png")
    found = match_masks([read(beside)], [scan(beside)])
    assert found.paths == ((beside / "000_mask.png",),)


def test_no_match_is_an_error_that_names_both(tmp_path: Path) -> None:
    bad, masks = write(tmp_path / "bad", "crack/000.png"), write(tmp_path / "m", "crack/x1.png")
    with pytest.raises(DataError) as caught:
        match_masks([read(bad)], [scan(masks)])
    assert_one_line(caught.value, "crack/000.png", "crack/x1.png", masks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no masks"):
        match_masks([read(bad)], [scan(tmp_path / "empty")])
    arrays = ImageSet(name="x", images=np.zeros((2, *SHAPE), np.uint8), files={})
    with pytest.raises(DataError, match="needs anomalies in a folder"):
        match_masks([arrays], [scan(masks)])


# What it marks


def test_any_pixel_marks_its_cell() -> None:
    mask = np.zeros((6, 9), bool)
    mask[0, 0] = mask[5, 8] = mask[3, 4] = True
    cells = cells_with_any(mask, (2, 3))
    assert cells.tolist() == [[True, False, False], [False, True, True]]
    # Where sizes do not divide, a pixel on a border is in both cells.
    row = np.array([[False, True, False]])
    assert cells_with_any(row, (1, 2)).tolist() == [[True, True]]
    assert cells_with_any(row, (2, 6)).tolist() == [[False, False, True, True, False, False]] * 2


@pytest.mark.parametrize("seed", range(5))
def test_a_cell_is_marked_if_and_only_if_a_pixel_in_it_is(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width, rows, columns = generator.integers(1, 20, 4)
    mask = generator.random((height, width)) < 0.1
    found = cells_with_any(mask, (rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * height // rows, j * width // columns
            bottom, right = -(-(i + 1) * height // rows), -(-(j + 1) * width // columns)
            assert found[i, j] == mask[top:bottom, left:right].any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_all_but_black_is_a_defect(mode: str, tmp_path: Path) -> None:
    marked = np.zeros((8, 8), bool)
    marked[2, 3:5] = True
    grey = marked.astype(np.uint8) * 255
    image = {
        "1": lambda: Image.fromarray(grey).convert("1"),
        "L": lambda: Image.fromarray(marked.astype(np.uint8)),  # class 1 of 0 and 1
        "P": lambda: palette(marked),
        "RGB": lambda: Image.fromarray(np.dstack([grey, 0 * grey, 0 * grey])),
        "RGBA": lambda: Image.fromarray(grey).convert("RGBA"),  # opaque everywhere
        "LA": lambda: Image.fromarray(grey).convert("LA"),
        "I;16": lambda: Image.fromarray(marked.astype(np.uint16) * 65_535),
    }[mode]()
    assert image.mode == mode
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", (8, 8)), marked)


def palette(marked: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Image.Image:
    """Class 1 in red on black, as in Pascal VOC."""
    image = Image.fromarray(marked.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


def test_a_jpeg_s_blurred_edges_are_not(tmp_path: Path) -> None:
    grey = np.zeros((16, 16), np.uint8)
    grey[4:9, 4:9] = 255
    Image.fromarray(grey).save(tmp_path / "mask.jpg", quality=60)
    with Image.open(tmp_path / "mask.jpg") as image:
        assert ((np.asarray(image) > 0) != (grey > 0)).any()
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.jpg", (16, 16)), grey > 0)


def test_images_without_a_mask_have_an_empty_one(tmp_path: Path) -> None:
    write(tmp_path, "mask.png", size=(20, 20))
    masks = load_masks([None, tmp_path / "mask.png"], SHAPE)
    assert masks.any(axis=(1, 2)).tolist() == [False, True]
    assert masks.shape == (2, 8, 8)


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        load_mask(tmp_path / "mask.png", (8, 8))
    assert_one_line(caught.value, "mask.png")


def test_a_mask_of_another_aspect_ratio_is_noticed(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad", "a.png", "b.png", "c.png", size=(40, 20))
    masks = write(tmp_path / "m", "a.png", size=(20, 10))
    write(masks, "b.png", size=(20, 20))
    data = read(bad)
    (paths,) = match_masks([data], [scan(masks)]).paths
    assert other_aspect(paths, data) == ["b.png"]
