"""What is printed about the images that were read."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from model.commands.reading import MAX_REASONS, show_read
from model.datasets.folder import Folder, ImageFile, LeftOut
from model.datasets.load import ImageSet, load_images, take_label
from tests.tiff_files import tiff_file
from tests.unit.model.datasets.image_folders import write_image, write_images
from tests.unit.samples import encoded, write_idx


def lines(data: ImageSet, width: int = 400) -> list[str]:
    """What is printed, without indents."""
    file = io.StringIO()
    show_read(Console(file=file, width=width, markup=False, highlight=False), data)
    return [" ".join(line.split()) for line in file.getvalue().splitlines()]


def read(directory: Path, shape: tuple[int, int, int] = (1, 8, 8)) -> list[str]:
    return lines(load_images(directory, "train", image_shape=shape))


def image_file(name: str, width: int = 8, height: int = 8) -> ImageFile:
    return ImageFile(path=Path(name), name=name, format="PNG", mode="L", width=width, height=height)


def image_set(
    images: list[ImageFile], left_out: list[LeftOut] | None = None, side: tuple[int, int] = (8, 8)
) -> ImageSet:
    """As if these files had been read."""
    folder = Folder(path=Path("data"), images=tuple(images), left_out=tuple(left_out or ()))
    pixels = np.zeros((len(images), 1, *side), np.uint8)
    return ImageSet(name="data", images=pixels, files={}, folder=folder)


def test_one_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", "L")
    assert read(tmp_path) == [
        f"read 1 image from {tmp_path}",
        "formats 1 PNG",
        "sizes 6×5 (width×height)",
        "modes 1 grey",
        "used as 8×8 (width×height), grey",
    ]


def test_a_messy_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", "RGB", (6, 5))
    write_image(tmp_path / "x" / "b.jpg", "L", (6, 5))
    write_image(tmp_path / "x" / "c.jpg", "RGB", (8, 8))
    write_images(tmp_path, ["1.gif", "2.gif", "x/3.HEIC", ".DS_Store", "__MACOSX/d.png", "w.png"])
    (tmp_path / "w.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert read(tmp_path) == [
        f"read 3 images from {tmp_path}",
        "subfolders . 1, x 2",
        "formats 2 JPEG, 1 PNG",
        "sizes 2 of 6×5, 1 of 8×8 (width×height)",
        "modes 2 RGB, 1 grey",
        "used as 8×8 (width×height), grey",
        "left out 2 .gif files: GIF is not read: convert it to PNG (1.gif, 2.gif)",
        "left out 1 folder: made by the system, not by a person (__MACOSX)",
        "left out 1 .txt file: not an image (notes.txt)",
        "left out 1 .png file: an empty file (w.png)",
        "left out 1 .heic file: HEIC is not read: convert it to PNG (x/3.HEIC)",
    ]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([""], None),
        (["a"], "subfolders a 1"),
        (["", "a", "a"], "subfolders . 1, a 2"),
        ([f"{i:02}" for i in range(11)], "subfolders 11 with 1 image each: 00, 01, 02 and 8 more"),
        (
            [f"{i:02}" for i in range(12) for _ in range(i // 11 + 1)],
            "subfolders 12 with 1 to 2 images each: 00, 01, 02 and 9 more",
        ),
    ],
)
def test_subfolders(folders: list[str], said: str | None) -> None:
    names = [f"{folder}/{i}.png".lstrip("/") for i, folder in enumerate(folders)]
    printed = lines(image_set([image_file(name) for name in names]))
    assert [line for line in printed if line.startswith("subfolders")] == ([said] if said else [])


def test_many_sizes_are_summed_up() -> None:
    sizes = [(9, 8), (10, 8), (8, 8), (11, 8)]
    images = [image_file(f"{i}.png", *size) for i, size in enumerate(sizes)]
    assert "sizes 4 sizes, from 8×8 to 11×8 (width×height)" in lines(image_set(images))


def test_an_animation_is_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 5), (shade, 0, 0)) for shade in (0, 100)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    write_image(tmp_path / "a.png")
    (tmp_path / "b.webp").write_bytes(data)
    assert "animated 1, only the first frame is read (b.webp)" in read(tmp_path)


def test_reasons_are_summed_up_the_most_frequent_first() -> None:
    reasons = [0, 0, *range(1, 40), 5, 5]
    left_out = [
        LeftOut(name=f"{n}.png", kind=".png", reason=f"reason {reason}")
        for n, reason in enumerate(reasons)
    ]
    said = [line for line in lines(image_set([image_file("a.png")], left_out)) if "left" in line]
    assert len(said) == MAX_REASONS + 1
    assert said[0] == "left out 3 .png files: reason 5 (6.png, 41.png, 42.png)"
    assert said[1] == "left out 2 .png files: reason 0 (0.png, 1.png)"
    assert said[-1].startswith(f"left out {40 - MAX_REASONS} more for other reasons (")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([".x", "link"]))))
def test_everything_that_is_left_out_is_counted(items: list[tuple[str, str]]) -> None:
    left_out = [LeftOut(name="n", kind=kind, reason=reason) for reason, kind in items]
    said = [line for line in lines(image_set([image_file("a.png")], left_out)) if "left" in line]
    assert sum(int(line.split()[2]) for line in said) == len(items)
    assert not any(" 1 .x files" in line or " 1 links" in line for line in said)


# Stretched images


@pytest.mark.parametrize(
    ("size", "side", "warned"),
    [
        ((8, 8), (8, 8), None),
        ((16, 8), (8, 8), None),  # exactly 2:1
        ((17, 8), (8, 8), "2.1:1"),
        ((8, 17), (8, 8), "2.1:1"),
        ((32, 8), (8, 8), "4.0:1"),
        ((32, 8), (8, 32), None),
        ((8, 32), (8, 32), "16.0:1"),
    ],
)
def test_stretching_is_warned_of_beyond_two_to_one(
    size: tuple[int, int], side: tuple[int, int], warned: str | None
) -> None:
    """`size` is width and height, `side` the network's height and width."""
    warnings = [
        line
        for line in lines(image_set([image_file("a.png", *size)], side=side))
        if line.startswith("warning: ")
    ]
    assert bool(warnings) is bool(warned)
    for line in warnings:
        assert f"1 image is stretched by more than 2:1 to fit {side[1]}×{side[0]}" in line
        assert f"the worst by {warned} (a.png)" in line
        assert "--size" in line


def test_the_most_stretched_images_are_named_first() -> None:
    images = [image_file(f"{n}.png", 8 * n, 8) for n in (1, 3, 5, 4, 6)]
    (warning,) = (line for line in lines(image_set(images)) if line.startswith("warning"))
    assert "4 images are stretched" in warning
    assert "6.0:1 (6.png, 5.png, 4.png and 1 more)" in warning


# Arrays


def test_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path, np.zeros((1_200, 1, 4, 5), np.uint8))
    labels = bytes([0, 0, 8, 1, 0, 0, 4, 176]) + bytes(i % 10 for i in range(1_200))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    data = load_images(tmp_path, "train", image_shape=(1, 4, 5))
    assert lines(data) == [
        "read 1,200 images from train-images-idx3-ubyte.gz",
        "size 5×4 (width×height)",
        "mode grey",
        "labels 10 (0 to 9), ignored; --normal-label N takes the images of one",
    ]
    assert "labels 3 alone" in lines(take_label(data, 3))


def test_an_npz_file(tmp_path: Path) -> None:
    path = tmp_path / "my.npz"
    images = np.zeros((1, 4, 5, 3), np.uint8)
    arrays: dict[str, Any] = dict.fromkeys(["train_images", "val_images", "odd\nname"], images)
    np.savez(path, **arrays)
    assert lines(load_images(path, "train", image_shape=(3, 4, 5))) == [
        "read 1 image from my.npz, array train_images",
        "size 5×4 (width×height)",
        "mode RGB",
        "not read val_images, odd\\nname",
    ]


# Names


def test_odd_names_are_printed_as_they_are(tmp_path: Path) -> None:
    """Neither as styles or emojis, nor as a crash where they are not UTF-8."""
    folder = tmp_path / "[red] :smile: caf\udce9\n"
    write_image(folder / "[b]sub[/b]" / "a.png")
    write_image(folder / ":smile:.txt")
    write_image(folder / "caf\udce9.txt")
    printed = read(folder)
    assert printed[0].endswith("[red] :smile: caf\\xe9\\n")
    assert "subfolders [b]sub[/b] 1" in printed
    assert "left out 2 .txt files: not an image (:smile:.txt, caf\\xe9.txt)" in printed


def test_odd_names_can_be_written_to_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "caf\udce9" / "\x1b[31m.png")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    show_read(
        Console(markup=False, highlight=False),
        load_images(tmp_path, "train", image_shape=(1, 8, 8)),
    )
    sys.stdout.flush()
    assert b"\x1b" not in raw.getvalue()


def test_the_path_is_not_broken_in_a_narrow_terminal(tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 30)
    write_image(folder / "a.png")
    assert lines(load_images(folder, "train", image_shape=(1, 8, 8)), width=60)[0].endswith("long")


def test_files_of_which_a_person_should_know_more(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    dark = grey.astype(np.uint16) * 16
    ink = Image.new("RGBA", (8, 8), "black")
    ink.putalpha(Image.fromarray(grey))
    (tmp_path / "dark.tif").write_bytes(tiff_file(dark))
    (tmp_path / "told.tif").write_bytes(tiff_file(dark, tags={281: [4_095]}))
    (tmp_path / "pages.tiff").write_bytes(tiff_file(grey, pages=2))
    (tmp_path / "channels.tif").write_bytes(tiff_file(np.dstack([grey] * 4), extra=[0]))
    (tmp_path / "ink.png").write_bytes(encoded(ink))
    printed = read(tmp_path)
    assert printed[0] == f"read 5 images from {tmp_path}"
    assert "formats 4 TIFF, 1 PNG" in printed
    notes = [line for line in printed if (line.endswith(")") and ".tif" in line) or ".png" in line]
    assert notes == [
        "several pages 1, only the first is read (pages.tiff)",
        "channels 1, more than are read (channels.tif)",
        "black 1, or almost, as 16-bit values that all stay below 4,096 are; if they have 12 bits, "
        "save them with all 16 or with 8 (dark.tif)",
        "transparent 1, with the same colour everywhere, so nothing is seen of them (ink.png)",
    ]
