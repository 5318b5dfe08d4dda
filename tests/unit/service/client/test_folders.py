"""The client reads folders as training does, without importing `model`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.datasets import folder as training
from service.client.folders import (
    IGNORED_FILES,
    IGNORED_FOLDERS,
    IMAGE_SUFFIXES,
    RESULTS,
    UNREAD,
    LeftOut,
    scan,
    summary,
)


def filled(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def awkward(root: Path) -> Path:
    """All that a folder of images may hold besides images."""
    filled(
        root,
        *("b.png", "A.JPG", "x/2.jpeg", "x/10.webp", "x/y/c.bmp", "a.jfif"),
        *("notes.txt", "phone.heic", "raw.CR2", "README", "pile.tar.gz"),
        *(".hidden.png", "Thumbs.db", "desktop.ini", ".git/a.png", "__MACOSX/._a.png"),
        *("bundle/config.json", "bundle/model.safetensors", "bundle/sample.png"),
        *("here/evaluation.json", "here/evaluation.md", "here/plots/a.png", "plots/a.png"),
        *("folder.png/in.png", "two\nlines.png"),
        *("maps/.heat-maps", "maps/a.png.png", "maps/plots/b.png"),
    )
    outside = filled(root.parent / "outside", "far.png", "near.txt")
    (root / "link").symlink_to(outside)
    (root / "again").symlink_to(outside)
    (root / "up").symlink_to(root.parent)
    (root / "nothing.png").symlink_to(root / "none")
    (root / "loop").symlink_to(root / "loop")
    (root / "to_file.png").symlink_to(outside / "far.png")
    os.mkfifo(root / "pipe.png")
    return root


def test_the_rules_are_those_of_training(tmp_path: Path) -> None:
    """Training also opens the files, and none of these is an image: it leaves them out itself."""
    root = awkward(tmp_path / "photos")
    ours, theirs = scan(root), training.scan(root)
    assert not theirs.images
    looked_at = {
        item.name for item in theirs.left_out if item.reason.startswith("not an image, or")
    }
    assert {training.printable(path.relative_to(root).as_posix()) for path in ours.images} == (
        looked_at
    )
    assert len(looked_at) == 11
    others = [(item.name, item.kind) for item in theirs.left_out if item.name not in looked_at]
    assert [(item.name, item.kind) for item in ours.left_out] == others


def test_the_names_are_those_of_training() -> None:
    assert training.IMAGE_SUFFIXES == IMAGE_SUFFIXES
    assert set(training.REASONS) > UNREAD
    assert RESULTS == training.RESULTS
    assert IGNORED_FOLDERS == training.IGNORED_FOLDERS
    assert IGNORED_FILES == training.IGNORED_FILES


def test_a_folder_that_may_be_listed_and_not_entered_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training leaves it out. Root may look at everything, so the refusal is simulated."""
    root = filled(tmp_path, "a.png", "locked/b.png", "locked/c.txt")
    real = Path.stat

    def refuse(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if root / "locked" in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)
    ours, theirs = scan(root), training.scan(root)
    assert ours.images == (root / "a.png",)
    assert ours.left_out == tuple(
        LeftOut(f"locked/{name}", "file", "Permission denied") for name in ("b.png", "c.txt")
    )
    assert {(item.name, item.kind, item.reason) for item in theirs.left_out} >= {
        (item.name, item.kind, item.reason) for item in ours.left_out
    }


def test_where_maps_are_written_is_not_read(tmp_path: Path) -> None:
    root = filled(tmp_path, "a.png", "maps/a.png.png", "maps/x/b.png", "x/maps/c.png")
    found = scan(root, root / "x" / ".." / "maps")
    assert found.images == (root / "a.png", root / "x/maps/c.png")
    assert found.left_out == (LeftOut("maps", "folder", "where --maps writes"),)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ([], []),
        ([("a.txt", ".txt", "r")], ["left out 1 .txt: r (a.txt)"]),
        (
            [(f"{i}.txt", ".txt", "r") for i in range(5)] + [("z", "folder", "s")],
            ["left out 5 .txt: r (0.txt, 1.txt, 2.txt and 2 more)", "left out 1 folder: s (z)"],
        ),
        (
            [(f"a.{i}", f".{i}", "r") for i in range(12)],
            [*(f"left out 1 .{i}: r (a.{i})" for i in range(10)), "left out 2 more"],
        ),
    ],
)
def test_what_is_left_out_is_counted(
    left_out: Sequence[tuple[str, str, str]], expected: list[str]
) -> None:
    assert list(summary(LeftOut(*item) for item in left_out)) == expected
