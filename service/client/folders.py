"""Find the image files below a folder, by the rules by which training reads folders.

The client does not import `model`, so the rules of `model.datasets.folder` are here again, as far
as names decide. A test compares the two.
"""

from __future__ import annotations

import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff"}
)

UNREAD: Final = frozenset(
    {".gif", ".heic", ".heif", ".avif", ".dcm", ".dicom", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm"}
    | {".tga", ".psd", ".svg", ".ico", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf"}
    | {".rw2"}
)
"""Suffixes of image files that the service does not read."""

IGNORED_FOLDERS: Final = frozenset(
    {"__MACOSX", "lost+found", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"}
)
"""Folders that archives, file systems and storage devices add, beside all that start with a dot."""

IGNORED_FILES: Final = frozenset({"desktop.ini", "thumbs.db"})
"""Files, in lower case, that are left out without a message, as are all that start with a dot."""

HEAT_MAPS: Final = ".heat-maps"
"""File that marks a folder in which `vae score --maps` writes."""

RESULTS: Final = (
    ("heat maps of vae score", (HEAT_MAPS,)),
    ("a bundle", ("config.json", "model.safetensors")),
    ("an evaluation", ("evaluation.json", "evaluation.md")),
)
"""Files that mark a folder whose images are plots."""


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not scored."""

    name: str
    kind: str
    """Such as `.txt` or `folder`."""
    reason: str


@dataclass(frozen=True)
class Folder:
    """What lies below a folder. Names are relative to it, with slashes."""

    images: tuple[Path, ...]
    """Sorted by name."""
    left_out: tuple[LeftOut, ...]
    """Sorted by name."""


def scan(folder: Path, maps: Path | None = None) -> Folder:
    """List the image files below a folder, at any depth, by their suffix. Opens none of them.

    Links to folders are followed, each folder once, and never to a folder above. Left out are
    hidden files, `IGNORED_FOLDERS`, bundles, evaluations, special files and the folder `maps`.
    """
    left_out: list[LeftOut] = []
    images = []
    for path, name in _files(folder, None if maps is None else maps.resolve(), left_out):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            images.append((name, path))
        else:
            reason = "this format is not read" if suffix in UNREAD else "not an image"
            left_out.append(LeftOut(name, printable(suffix) or "suffixless file", reason))
    return Folder(
        images=tuple(path for _, path in sorted(images)),
        left_out=tuple(sorted(left_out, key=lambda item: item.name)),
    )


def _files(folder: Path, maps: Path | None, left_out: list[LeftOut]) -> Iterator[tuple[Path, str]]:
    """Every regular file with its name; everything else goes to `left_out`.

    Links to folders come last, so that what lies below `folder` keeps its own name.
    """
    top = folder.resolve()
    seen = {top}
    links: deque[Path] = deque()
    folders = [folder]

    def name_of(path: Path) -> str:
        return printable(path.relative_to(folder).as_posix())

    def leave(path: Path, kind: str, reason: str) -> None:
        left_out.append(LeftOut(name_of(path), kind, printable(reason)))

    while folders or links:
        if not folders:
            link = links.popleft()
            target = link.resolve()
            if target in seen:
                leave(link, "link", f"a link to {target.name}/, which is read already")
            elif any(below.is_relative_to(target) for below in (top, link.parent.resolve())):
                leave(link, "link", "a link to a folder above")
            else:
                seen.add(target)
                folders.append(link)
            continue
        here = folders.pop()
        try:
            paths = sorted(here.iterdir())
        except OSError as error:
            leave(here, "folder", explained(error))
            continue
        for path in paths:
            is_hidden = path.name.startswith(".") or path.name.lower() in IGNORED_FILES
            try:
                mode = path.stat().st_mode
            except OSError as error:
                if not is_hidden:
                    is_link = _is_link(path)
                    dangles = is_link and isinstance(error, FileNotFoundError)
                    reason = "a link to nothing" if dangles else explained(error)
                    leave(path, "link" if is_link else "file", reason)
                continue
            if stat.S_ISDIR(mode):
                real = path.resolve()
                if reason := _ignored(path):
                    leave(path, "folder", reason)
                elif real == maps:
                    leave(path, "folder", "where --maps writes")
                elif path.is_symlink():
                    links.append(path)
                elif real in seen:
                    leave(path, "folder", "read already by way of a link")
                else:
                    seen.add(real)
                    folders.append(path)
            elif is_hidden:
                continue
            elif stat.S_ISREG(mode):
                yield path, name_of(path)
            else:
                leave(path, "special file", "neither a file nor a folder")


def _ignored(folder: Path) -> str:
    """Why a folder is not read; empty if it is."""
    if folder.name.startswith("."):
        return "hidden: its name starts with a dot"
    if folder.name in IGNORED_FOLDERS:
        return "made by the system, not by a person"
    for what, names in RESULTS:
        if _holds(folder, names):
            return f"{what}, whose images are plots"
        if folder.name == "plots" and _holds(folder.parent, names):
            return f"the plots of {what}"
    return ""


def _holds(folder: Path, names: Iterable[str]) -> bool:
    return all(is_file(folder / name) for name in names)


def _is_link(path: Path) -> bool:
    """Whether this is a link; `Path.is_symlink` raises where it may not be looked at."""
    try:
        return path.is_symlink()
    except OSError:
        return False


def summary(left_out: Iterable[LeftOut], max_lines: int = 10) -> Iterator[str]:
    """A line for each kind and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in left_out:
        groups.setdefault((item.kind, item.reason), []).append(item.name)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (kind, reason), names in ordered[:max_lines]:
        rest = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        yield f"left out {len(names):,} {kind}: {reason} ({', '.join(names[:3])}{rest})"
    if more := sum(len(names) for _, names in ordered[max_lines:]):
        yield f"left out {more:,} more"


def is_folder(path: Path) -> bool:
    """Whether this is a folder that may be looked at; `Path.is_dir` raises where not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether this is a regular file that may be looked at; `Path.is_file` raises where not."""
    try:
        return path.is_file()
    except OSError:
        return False


def explained(error: OSError) -> str:
    """What went wrong, without the file's name, which is said beside it."""
    return error.strerror or str(error)


def numbered(n: int, noun: str) -> str:
    """A number and its noun.

    >>> numbered(1, "image"), numbered(1_234, "image")
    ('1 image', '1,234 images')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def printable(text: str) -> str:
    r"""`text` with all that a terminal cannot show as escapes: newlines, bytes that are not UTF-8.

    >>> print(printable("a\nb"), printable("caf\udce9"))
    a\nb caf\xe9
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # PEP 383: a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
