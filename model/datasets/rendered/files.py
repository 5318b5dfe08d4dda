"""Write generated files into a folder, and replace them later without touching anything else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

SUMS: Final = "SHA256SUMS"
"""The file that lists what was written, as `sha256sum --check` reads it."""


class FolderInUseError(ValueError):
    """The folder holds files that would be lost."""


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise `FolderInUseError` if `folder` is a file, or is not empty and `overwrite` is false."""
    if folder.exists() and not folder.is_dir():
        raise FolderInUseError(f"{folder} is a file, expected a folder")
    if folder.exists() and not overwrite and any(folder.iterdir()):
        raise FolderInUseError(
            f"{folder} already holds files; --overwrite replaces those that this command wrote"
        )


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, by their paths in `folder`, with slashes, and the list of them.

    Files of an earlier list are deleted, if they still are as they were written.

    Raises `FolderInUseError`, before anything is changed, if a file of one of these names was
    written by someone else, or changed since.
    """
    earlier = _as_written(folder)
    for name in (*files, SUMS):
        if (folder / name).exists() and name not in earlier:
            raise FolderInUseError(
                f"{folder / name} was not written by this command, or has been changed: move it, "
                "or choose another folder"
            )
    for name in earlier:
        (folder / name).unlink()
    sums = "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    for name, data in {SUMS: sums.encode(), **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for parent in {(folder / name).parent for name in earlier}:
        with suppress(OSError):  # not empty
            parent.rmdir()


def _as_written(folder: Path) -> list[str]:
    """The files of the list in `folder`, itself included, that have not been changed since.

    A list may be anyone's: names that lead out of the folder are ignored.
    """
    path, root = folder / SUMS, folder.resolve()
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    listed = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not all(listed):
        return []
    return [SUMS] + [
        match[2]
        for match in listed
        if match
        and (file := folder / match[2]).is_file()
        and file.resolve().is_relative_to(root)
        and sha256(file.read_bytes()).hexdigest() == match[1]
    ]
