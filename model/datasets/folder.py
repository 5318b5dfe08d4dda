"""Find the image files below a folder, and say what is left out and why. Decodes no pixels."""

from __future__ import annotations

import stat
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from model.images.formats import is_read, name_of
from model.images.preprocessing import (
    TRANSPOSED,
    ImageError,
    ImageTooLargeError,
    Note,
    open_image,
)

IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff"}
)

MAX_PIXELS: Final = 89_478_485
"""Maximum number of pixels in an image file. Above it, Pillow warns of a decompression bomb."""

MAX_FILE_BYTES: Final = 1 << 30
"""Files above this are not read into memory: 89 million pixels of 16-bit RGBA take 0.7 GB."""

CONVERTED: Final[Mapping[str, str]] = {
    ".gif": "GIF is not read: convert it to PNG",
    ".heic .heif": "HEIC is not read: convert it to PNG",
    ".avif": "AVIF is not read: convert it to PNG",
    ".dcm .dicom": "DICOM is not read: convert it to PNG",
    ".jp2 .jxl .pbm .pgm .ppm .tga .psd .svg .ico": "this format is not read: convert it to PNG",
    ".arw .cr2 .cr3 .dng .nef .orf .raf .rw2": "raw photos are not read: convert them to PNG",
    ".avi .m4v .mkv .mov .mp4 .webm": "a video: save its frames as PNG",
    ".7z .bz2 .gz .rar .tar .tgz .xz .zip": "an archive: unpack it",
    ".npy": "arrays are read from .npz files only",
    ".npz": "an .npz file is read by its own name: --data FOLDER/NAME.npz",
}
"""What to do about files that hold images and are not read, by suffixes."""

REASONS: Final = {
    suffix: reason for suffixes, reason in CONVERTED.items() for suffix in suffixes.split()
}

IGNORED_FOLDERS: Final = frozenset(
    {"__MACOSX", "lost+found", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"}
)
"""Folders that archives, file systems and storage devices add, beside all that start with a dot."""

IGNORED_FILES: Final = frozenset({"desktop.ini", "thumbs.db"})
"""Files, in lower case, that are left out without a message, as are all that start with a dot."""

RESULTS: Final = (
    ("heat maps of vae score", (".heat-maps",)),
    ("a bundle", ("config.json", "model.safetensors")),
    ("an evaluation", ("evaluation.json", "evaluation.md")),
)
"""Files that mark a folder whose images are plots."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image file, by its header."""

    path: Path
    name: str
    """Path relative to the folder, with slashes and `printable`, as in `good/000.png`."""
    format: str
    mode: str
    """Pillow's, such as L for grey or RGB."""
    width: int
    """Of the upright image, as is its height."""
    height: int
    animated: bool = False
    """Whether there are more frames than the first, which is the one that is read."""
    notes: tuple[Note, ...] = ()
    """What a person should know of how it is read; those about its pixels once it was."""

    @property
    def folder(self) -> str:
        """The subfolder that it lies in, with slashes; empty for the folder itself."""
        parent = str(PurePosixPath(self.name).parent)
        return "" if parent == "." else parent

    @property
    def stem(self) -> str:
        """`name` without its suffix."""
        return str(PurePosixPath(self.name).with_suffix(""))


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file or folder that was found and not read. All its texts are `printable`."""

    name: str
    kind: str
    """What it is, as in `.txt` or `folder`: the count is by this."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What lies below a folder."""

    path: Path
    images: tuple[ImageFile, ...]
    """Sorted by name."""
    left_out: tuple[LeftOut, ...]
    """Sorted by name."""

    def subfolders(self) -> Counter[str]:
        """How many images each subfolder holds itself, in the order of their names."""
        return Counter(sorted(image.folder for image in self.images))


def scan(directory: Path) -> Folder:
    """List the image files below `directory`, at any depth, by their suffix and header.

    Links to folders are followed, each folder once, and never to a folder above. Names that start
    with a dot, `IGNORED_FOLDERS`, bundles, evaluations, and anything but regular files are left out
    and listed (but for hidden files). Decodes no pixels, and opens nothing but regular files.
    """
    left_out: list[LeftOut] = []
    images: list[ImageFile] = []
    for path, name in _files(directory, left_out):
        suffix = path.suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            reason = REASONS.get(suffix, "not an image")
            kind = printable(suffix) or "suffixless file"
            left_out.append(LeftOut(name=name, kind=kind, reason=reason))
            continue
        image = _image_file(path, name)
        if isinstance(image, str):
            left_out.append(LeftOut(name=name, kind=suffix, reason=image))
        else:
            images.append(image)
    return Folder(
        path=directory,
        images=tuple(sorted(images, key=lambda image: image.name)),
        left_out=tuple(sorted(left_out, key=lambda item: item.name)),
    )


def _files(directory: Path, left_out: list[LeftOut]) -> Iterator[tuple[Path, str]]:
    """Every regular file with its relative name; everything else goes to `left_out`.

    Links to folders come last, so that what lies below `directory` keeps its own name.
    """
    top = directory.resolve()
    seen = {top}
    links: deque[Path] = deque()
    folders = [directory]

    def name_of(path: Path) -> str:
        return printable(path.relative_to(directory).as_posix())

    def leave(path: Path, kind: str, reason: str) -> None:
        left_out.append(LeftOut(name=name_of(path), kind=kind, reason=printable(reason)))

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
                if reason := _ignored(path):
                    leave(path, "folder", reason)
                elif path.is_symlink():
                    links.append(path)
                elif (real := path.resolve()) in seen:
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
    """Why the folder is not read; empty if it is."""
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
    try:
        return path.is_symlink()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether this is a regular file that may be looked at; `Path.is_file` raises where not."""
    try:
        return path.is_file()
    except OSError:
        return False


def _image_file(path: Path, name: str) -> ImageFile | str:
    """The image file by its header, or why it cannot be used.

    The whole file is read, as `open_image` needs it, so that what is refused here and what is
    refused later, and in serving, are the same.
    """
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            return f"the file has {size:,} bytes > maximum {MAX_FILE_BYTES:,}"
        data = path.read_bytes()
    except OSError as error:
        return explained(error)
    try:
        image = open_image(data, max_pixels=MAX_PIXELS)
    except ImageTooLargeError as error:
        return str(error)
    except ImageError as error:
        return _what_it_is(data, error)
    turned = image.info["orientation"] in TRANSPOSED
    width, height = image.size[::-1] if turned else image.size
    return ImageFile(
        path=path,
        name=name,
        format=image.format or "",
        mode=image.mode,
        width=width,
        height=height,
        animated=_is_animated(data),
        notes=tuple(image.info.get("notes", ())),
    )


def _is_animated(data: bytes) -> bool:
    """Whether an image file has an animation's header: `acTL` in a PNG, a flag in a WebP."""
    if data.startswith(b"\x89PNG"):
        return b"acTL" in data[: max(0, data.find(b"IDAT"))]
    return data[12:16] == b"VP8X" and bool(data[20] & 0x02)


def _what_it_is(data: bytes, error: ImageError) -> str:
    """What a file is that is named as an image and cannot be read."""
    if not data:
        return "an empty file"
    name = name_of(data)
    if name is None:
        return "not an image, or damaged"
    if is_read(name):
        return str(error)
    is_image = name.endswith(" file") or name.startswith("a raw photo")
    return f"{name} by its contents: convert it to PNG" if is_image else name


def explained(error: OSError) -> str:
    """What went wrong, without the file's name, which is said beside it."""
    return error.strerror or str(error)


def printable(text: str) -> str:
    r"""`text` with all that a terminal cannot show as escapes: newlines, bytes that are not UTF-8.

    >>> print(printable("a\nb"), printable("caf\udce9"))
    a\nb caf\xe9
    """
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # PEP 383: a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def numbered(n: int, noun: str, plural: str = "") -> str:
    """A number and its noun, or whatever else its number changes.

    >>> numbered(1, "image"), numbered(1_234, "image"), numbered(0, "image")
    ('1 image', '1,234 images', '0 images')
    >>> numbered(1, "mask is", "masks are"), numbered(2, "mask is", "masks are")
    ('1 mask is', '2 masks are')
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def counted(items: Iterable[str]) -> str:
    """How often each item occurs, the most frequent first.

    >>> counted(["PNG", "JPEG", "PNG"])
    '2 PNG, 1 JPEG'
    """
    return ", ".join(f"{n:,} {item}" for item, n in Counter(items).most_common())


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first names, and how many more there are.

    >>> some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")
