"""Which files of a folder are read, and what is said of the others."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.datasets.folder import (
    IMAGE_SUFFIXES,
    Folder,
    ImageFile,
    LeftOut,
    counted,
    numbered,
    printable,
    scan,
    some,
)
from tests.unit.model.datasets.image_folders import write_image, write_images
from tests.unit.samples import encoded


def names(folder: Folder) -> list[str]:
    return [image.name for image in folder.images]


def left_out(folder: Folder) -> dict[str, LeftOut]:
    by_name = {item.name: item for item in folder.left_out}
    assert len(by_name) == len(folder.left_out)
    return by_name


def only_left_out(directory: Path) -> LeftOut:
    (item,) = scan(directory).left_out
    return item


# What is read


def test_images_are_found_at_any_depth_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_images(tmp_path, ["b/z.png", "b.png", "a/b/c/d.jpg", "a/x.webp", "10.bmp", "9.jpeg"])
    folder = scan(tmp_path)
    assert names(folder) == ["10.bmp", "9.jpeg", "a/b/c/d.jpg", "a/x.webp", "b.png", "b/z.png"]
    assert folder.left_out == ()
    assert all(image.path == tmp_path / image.name for image in folder.images)


def test_subfolders_are_counted_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_images(tmp_path, ["b.png", "a/1.png", "a/2.png", "a/deep/3.png", "c/4.png"])
    subfolders = scan(tmp_path).subfolders()
    assert list(subfolders.items()) == [("", 1), ("a", 2), ("a/deep", 1), ("c", 1)]


@given(
    places=st.lists(
        st.tuples(st.sampled_from(["", "a/", "a/b/", "c/"]), st.sampled_from([".png", ".txt"])),
        max_size=8,
    )
)
def test_every_file_is_either_read_or_left_out(
    places: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("files")
    files = [f"{place}{number}{suffix}" for number, (place, suffix) in enumerate(places)]
    write_images(root, files)
    folder = scan(root)
    assert sorted([*names(folder), *left_out(folder)]) == sorted(files)
    assert folder.subfolders().total() == sum(name.endswith(".png") for name in files)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES | {".PNG", ".JPG", ".Jpeg", ".BMP"}))
def test_a_suffix_may_be_in_capitals(suffix: str, tmp_path: Path) -> None:
    write_image(tmp_path / f"a{suffix}")
    assert names(scan(tmp_path)) == [f"a{suffix}"]


@pytest.mark.parametrize(
    ("suffix", "mode", "found"),
    [
        (".png", "L", ("PNG", "L")),
        (".png", "1", ("PNG", "1")),
        (".png", "P", ("PNG", "P")),
        (".png", "RGBA", ("PNG", "RGBA")),
        (".png", "I;16", ("PNG", "I;16")),
        (".jpg", "L", ("JPEG", "L")),
        (".jpg", "CMYK", ("JPEG", "CMYK")),
        (".webp", "RGB", ("WEBP", "RGB")),
        (".bmp", "L", ("BMP", "L")),
    ],
)
def test_formats_modes_and_sizes(
    suffix: str, mode: str, found: tuple[str, str], tmp_path: Path
) -> None:
    write_image(tmp_path / f"a{suffix}", mode, (9, 4))
    (image,) = scan(tmp_path).images
    assert (image.format, image.mode) == found
    assert (image.width, image.height) == (9, 4)
    assert not image.animated


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_that_of_the_upright_image(
    orientation: int, file_format: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.png").write_bytes(encoded(Image.new("L", (9, 4)), file_format, exif=exif))
    (image,) = scan(tmp_path).images
    assert (image.width, image.height) == ((4, 9) if orientation >= 5 else (9, 4))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_animation_is_known(file_format: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 5), (shade, 0, 0)) for shade in (0, 100, 200)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").write_bytes(encoded(frames[1], file_format))
    assert [image.animated for image in scan(tmp_path).images] == [True, False]


def test_the_contents_count_and_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.new("L", (5, 5)), "JPEG"))
    (image,) = scan(tmp_path).images
    assert (image.name, image.format) == ("a.png", "JPEG")


def test_folder_and_stem() -> None:
    image = ImageFile(path=Path("x"), name="a/b/c.d.png", format="PNG", mode="L", width=1, height=1)
    assert (image.folder, image.stem) == ("a/b", "a/b/c.d")


# What is left out


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("a.txt", ".txt", "not an image"),
        ("a", "suffixless file", "not an image"),
        ("a.gif", ".gif", "convert it to PNG"),
        ("a.heic", ".heic", "convert it to PNG"),
        ("a.dcm", ".dcm", "convert it to PNG"),
        ("a.NEF", ".nef", "convert them to PNG"),
        ("a.mp4", ".mp4", "save its frames"),
        ("a.tar.gz", ".gz", "unpack it"),
        ("a.npz", ".npz", "--data FOLDER/NAME.npz"),
    ],
)
def test_other_files_are_left_out_with_advice(
    name: str, kind: str, reason: str, tmp_path: Path
) -> None:
    write_image(tmp_path / name)
    item = only_left_out(tmp_path)
    assert (item.name, item.kind) == (name, kind)
    assert reason in item.reason


TIFF = b"II*\0\x08\0\0\0" + bytes(20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"broken", "not an image"),
        (encoded(Image.new("L", (5, 5)))[:20], "a PNG file that is damaged"),
        (TIFF, "the TIFF file cannot be read: it has no tag 256"),
        (encoded(Image.new("L", (5, 5)), "GIF"), "a GIF file by its contents: convert it to PNG"),
        (encoded(Image.new("F", (5, 5)), "TIFF"), "floating-point numbers of 32 bits"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC file by its contents"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
    ],
)
def test_what_is_no_image_in_spite_of_its_name(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.PNG").write_bytes(data)
    item = only_left_out(tmp_path)
    assert (item.name, item.kind) == ("a.PNG", ".png")
    assert reason in item.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and has almost no pixels."""
    chunks = b""
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ):
        checksum = zlib.crc32(kind + data)
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("size", "limit"),
    [((15_000, 15_000), "89,478,485"), ((9_500, 9_500), "89,478,485"), ((20_000, 2), "16,383")],
)
def test_a_decompression_bomb_is_known_by_its_header(
    size: tuple[int, int], limit: str, tmp_path: Path
) -> None:
    """Above Pillow's limit for an error, and between that and its limit for a warning."""
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    assert limit in only_left_out(tmp_path).reason


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.bmp").open("wb") as file:
        file.truncate(3 << 30)  # takes no room on disk
    assert "3,221,225,472 bytes > maximum" in only_left_out(tmp_path).reason


@pytest.mark.parametrize("name", [".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir"])
def test_hidden_folders_and_those_of_the_system_are_named_and_not_read(
    name: str, tmp_path: Path
) -> None:
    write_images(tmp_path, ["a.png", f"{name}/b.png", f"deep/{name}/c.png"])
    folder = scan(tmp_path)
    assert names(folder) == ["a.png"]
    assert {item.name: item.kind for item in folder.left_out} == {
        name: "folder",
        f"deep/{name}": "folder",
    }


def test_a_hidden_folder_is_read_if_it_is_the_one_that_was_given(tmp_path: Path) -> None:
    write_images(tmp_path / ".cache", ["a.png"])
    assert names(scan(tmp_path / ".cache")) == ["a.png"]


@pytest.mark.parametrize(
    "name", [".DS_Store", "._a.png", ".hidden.png", "Thumbs.db", "desktop.ini"]
)
def test_hidden_files_are_worth_no_line(name: str, tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", name, f"deep/{name}"])
    folder = scan(tmp_path)
    assert names(folder) == ["a.png"]
    assert folder.left_out == ()


BUNDLE = ("config.json", "model.safetensors")
EVALUATION = ("evaluation.json", "evaluation.md")


@pytest.mark.parametrize(("marks", "what"), [(BUNDLE, "a bundle"), (EVALUATION, "an evaluation")])
def test_plots_are_no_images(marks: tuple[str, ...], what: str, tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "runs/mine/plots/b.png", "runs/other/plots/c.png"])
    for mark in marks:
        (tmp_path / "runs" / "mine" / mark).write_text("{}")
    (tmp_path / "runs" / "other" / marks[0]).write_text("{}")  # one alone may be anything
    folder = scan(tmp_path)
    assert names(folder) == ["a.png", "runs/other/plots/c.png"]
    assert what in left_out(folder)["runs/mine"].reason


@pytest.mark.parametrize("marks", [BUNDLE, EVALUATION])
def test_a_bundle_among_the_images_costs_its_plots_alone(
    marks: tuple[str, ...], tmp_path: Path
) -> None:
    """As after `train --data photos --out photos`."""
    write_images(tmp_path, ["a.png", "good/b.png", "good/plots/c.png", "plots/d.png"])
    for mark in marks:
        (tmp_path / mark).write_text("{}")
    folder = scan(tmp_path)
    assert names(folder) == ["a.png", "good/b.png", "good/plots/c.png"]
    assert "plots" in left_out(folder)["plots"].reason


# Links


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    elsewhere = write_images(tmp_path / "elsewhere", ["a.png", "deep/b.png"])
    data = write_images(tmp_path / "data", ["c.png"])
    (data / "link").symlink_to(elsewhere)
    (data / "one.png").symlink_to(elsewhere / "a.png")
    folder = scan(data)
    assert names(folder) == ["c.png", "link/a.png", "link/deep/b.png", "one.png"]
    assert folder.left_out == ()


def test_a_folder_is_read_once_and_by_its_own_name(tmp_path: Path) -> None:
    """Whichever of the names comes first."""
    write_images(tmp_path, ["m/a.png"])
    (tmp_path / "a").symlink_to(tmp_path / "m")
    (tmp_path / "z").symlink_to("m")
    folder = scan(tmp_path)
    assert names(folder) == ["m/a.png"]
    assert {name: item.kind for name, item in left_out(folder).items()} == {
        "a": "link",
        "z": "link",
    }
    assert "m/" in left_out(folder)["a"].reason


def test_two_links_into_each_other(tmp_path: Path) -> None:
    outer = write_images(tmp_path / "outer", ["a.png", "inner/b.png"])
    data = tmp_path / "data"
    data.mkdir()
    (data / "1").symlink_to(outer / "inner")
    (data / "2").symlink_to(outer)
    folder = scan(data)
    assert names(folder) == ["1/b.png", "2/a.png"]
    assert "read already" in left_out(folder)["2/inner"].reason


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_loops_end_and_what_lies_above_is_not_read(target: str, tmp_path: Path) -> None:
    data = write_images(tmp_path / "top" / "data", ["sub/a.png"])
    write_images(tmp_path, ["secret.png", "top/secret.png"])
    (data / "sub" / "link").symlink_to(target)
    folder = scan(data)
    assert names(folder) == ["sub/a.png"]
    assert list(left_out(folder)) == ["sub/link"]


def test_a_loop_outside_ends_too(tmp_path: Path) -> None:
    outside = write_images(tmp_path / "outside", ["a.png", "b/c.png"])
    (outside / "b" / "up").symlink_to(outside)
    (outside / "b" / "over").symlink_to(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(outside)
    folder = scan(data)
    assert names(folder) == ["link/a.png", "link/b/c.png"]
    assert sorted(left_out(folder)) == ["link/b/over", "link/b/up"]


def test_a_link_leads_neither_above_itself_nor_above_the_folder(tmp_path: Path) -> None:
    outside = write_images(tmp_path / "x" / "outside", ["a.png"])
    data = write_images(tmp_path / "y" / "data", ["b.png"])
    write_images(tmp_path, ["x/secret.png", "y/secret.png"])
    (data / "link").symlink_to(outside)
    (outside / "up").symlink_to(tmp_path / "x")
    (outside / "over").symlink_to(tmp_path / "y")
    folder = scan(data)
    assert names(folder) == ["b.png", "link/a.png"]
    assert {name: item.reason for name, item in left_out(folder).items()} == dict.fromkeys(
        ["link/over", "link/up"], "a link to a folder above"
    )


def test_a_dangling_link_and_one_to_itself_are_named(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    items = left_out(scan(tmp_path))
    assert {name: item.kind for name, item in items.items()} == {
        "gone.png": "link",
        "self.png": "link",
    }
    assert items["gone.png"].reason == "a link to nothing"


# What is not a file


def test_a_fifo_and_a_socket_are_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        (tmp_path / "link.png").symlink_to(tmp_path / "fifo.png")
        folder = scan(tmp_path)
    assert folder.images == ()
    assert {name: item.kind for name, item in left_out(folder).items()} == dict.fromkeys(
        ["fifo", "fifo.png", "link.png", "socket.png"], "special file"
    )


def test_a_folder_named_as_an_image_is_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png/b.png"])
    assert names(scan(tmp_path)) == ["a.png/b.png"]


def denied(monkeypatch: pytest.MonkeyPatch, method: str, *paths: Path) -> None:
    """Root may read everything, so that the refusal is simulated."""
    real = getattr(Path, method)

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if any(self == path or path in self.parents for path in paths):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, method, refuse)


@pytest.mark.parametrize("method", ["iterdir", "read_bytes", "stat"])
def test_what_may_not_be_read_is_named(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, ["a.png", "locked/b.png", "c.png"])
    denied(monkeypatch, method, tmp_path / "locked")
    folder = scan(tmp_path)
    assert names(folder) == ["a.png", "c.png"]
    (item,) = folder.left_out
    assert item.name.startswith("locked")
    assert item.reason == "Permission denied"


def test_a_folder_whose_files_may_not_be_looked_at_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be listed and not searched: mode 444."""
    write_images(tmp_path, ["a.png", "locked/b.png"])
    inside = [tmp_path / "locked" / name for name in ("b.png", *BUNDLE, *EVALUATION)]
    denied(monkeypatch, "stat", *inside)
    folder = scan(tmp_path)
    assert names(folder) == ["a.png"]
    assert list(left_out(folder)) == ["locked/b.png"]


def test_a_directory_that_may_not_be_read_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied(monkeypatch, "iterdir", tmp_path)
    assert only_left_out(tmp_path) == LeftOut(name=".", kind="folder", reason="Permission denied")


# Names


ODD_NAMES = [
    "[red]a[/red].png",
    "a\nb.png",
    "caf\udce9.png",
    "\x1b[31m.png",
    ":smile:.png",
    "é ü.png",
]


def test_names_are_printable_and_files_are_found_by_their_paths(tmp_path: Path) -> None:
    for name in ODD_NAMES:
        write_image(tmp_path / "x\ny" / name)
        write_image(tmp_path / "x\ny" / f"{name}.t\nxt")
    folder = scan(tmp_path)
    assert len(folder.images) == len(folder.left_out) == len(ODD_NAMES)
    for image in folder.images:
        assert image.path.is_file()
        assert image.name.isprintable()
        image.name.encode()
    for item in folder.left_out:
        assert item.kind == ".t\\nxt"
        assert (item.name + item.kind + item.reason).isprintable()
    assert "x\\ny/caf\\xe9.png" in names(folder)
    assert "x\\ny/[red]a[/red].png" in names(folder)


@given(st.text())
def test_printable_text_has_one_line_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    if text.isprintable():
        assert shown == text


@given(st.binary())
def test_any_bytes_of_a_name_are_printable(data: bytes) -> None:
    printable(os.fsdecode(data)).encode()


# Words


@given(st.lists(st.sampled_from("abc")))
def test_counts_are_complete_and_in_order(items: list[str]) -> None:
    said = [part.split(" ") for part in counted(items).split(", ") if part]
    numbers = [int(n) for n, _ in said]
    assert numbers == sorted(numbers, reverse=True)
    assert {item: int(n) for n, item in said} == {item: items.count(item) for item in items}


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1_000, "1,000 images")]
)
def test_numbers_have_the_right_plural(n: int, said: str) -> None:
    assert numbered(n, "image") == said
    singular, plural = "anomaly has", "anomalies have"
    assert numbered(n, singular, plural) == f"{n:,} {singular if n == 1 else plural}"


@given(st.integers(0, 9), st.integers(1, 9))
def test_some_names_and_the_number_of_the_others(n: int, limit: int) -> None:
    said = some(["x"] * n, limit)
    more = int(said.split(" and ")[1].split()[0]) if " and " in said else 0
    assert said.count("x") + more == n
    assert said.count("x") <= limit
