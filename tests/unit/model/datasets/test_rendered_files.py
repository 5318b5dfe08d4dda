"""Generated files are written, and replaced without touching anything else."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from model.datasets.rendered.files import SUMS, FolderInUseError, check_folder, write_files

FILES = {"README.md": b"about", "train/a/1.jpg": b"one", "train/b/2.jpg": b"two"}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def sums(files: dict[str, bytes]) -> str:
    return "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in files.items())


def test_the_files_and_their_sums_are_written(tmp_path: Path) -> None:
    write_files(tmp_path / "new" / "out", FILES)
    assert contents(tmp_path / "new" / "out") == {**FILES, SUMS: sums(FILES).encode()}


def test_files_of_before_go_and_folders_that_are_empty_then(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    less = {"README.md": b"changed", "train/a/1.jpg": b"another"}
    write_files(tmp_path, less)
    assert contents(tmp_path) == {**less, SUMS: sums(less).encode()}
    assert not (tmp_path / "train" / "b").exists()


def test_what_someone_else_wrote_or_changed_stays(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    mine = {"notes.txt": b"mine", "train/b/mine.jpg": b"mine", "train/b/2.jpg": b"edited"}
    for name, data in mine.items():
        (tmp_path / name).write_bytes(data)
    less = {"README.md": b"changed"}
    write_files(tmp_path, less)
    assert contents(tmp_path) == {**mine, **less, SUMS: sums(less).encode()}


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_file_of_someone_else_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(FolderInUseError, match="was not written by this command") as error:
        write_files(tmp_path, FILES)
    assert name in str(error.value)
    assert contents(tmp_path) == {name: b"mine"}


def test_an_edited_file_is_not_replaced(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    (tmp_path / "README.md").write_bytes(b"edited")
    before = contents(tmp_path)
    with pytest.raises(FolderInUseError, match="changed"):
        write_files(tmp_path, FILES)
    assert contents(tmp_path) == before


def test_a_list_that_leads_out_of_the_folder_deletes_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / SUMS).write_text(sums({"../outside.txt": b"mine", str(outside): b"mine"}))
    write_files(out, FILES)
    assert outside.read_bytes() == b"mine"


def test_a_folder_is_refused_if_it_holds_anything(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", overwrite=False)
    check_folder(tmp_path, overwrite=False)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FolderInUseError, match="already holds files; --overwrite"):
        check_folder(tmp_path, overwrite=False)
    check_folder(tmp_path, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(FolderInUseError, match="is a file"):
        check_folder(tmp_path / "out", overwrite=overwrite)
