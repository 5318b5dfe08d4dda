"""Folders of image files, as people have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from tests.unit.samples import encoded

FORMATS: Final = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}


def write_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Path:
    """A black image; its format follows from the suffix, and is PNG for unknown ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file_format = FORMATS.get(path.suffix.lower(), "PNG")
    path.write_bytes(encoded(Image.new(mode, size), file_format))
    return path


def write_images(root: Path, modes: Mapping[str, str] | Iterable[str]) -> Path:
    """Images below `root` by their names; RGB, unless `modes` are given as well."""
    root.mkdir(parents=True, exist_ok=True)
    for name in modes:
        write_image(root / name, modes[name] if isinstance(modes, Mapping) else "RGB")
    return root
