"""Print what was read: how many images of which kinds, and what was left out and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from model.datasets.folder import Folder, ImageFile, LeftOut, counted, numbered, printable, some
from model.datasets.load import ImageSet
from model.images.preprocessing import Note

MAX_STRETCH: Final = 2.0
"""Stretching an image by more than this, in one direction against the other, is warned of."""

MAX_SUBFOLDERS: Final = 10
"""Subfolders that are listed one by one."""

MAX_SIZES: Final = 3
"""Sizes that are listed one by one."""

MAX_REASONS: Final = 10
"""Lines about what was left out."""

MODES: Final[Mapping[str, str]] = {
    "1": "black and white",
    "CMYK": "CMYK",
    "I": "16-bit grey",
    "I;16": "16-bit grey",
    "L": "grey",
    "LA": "grey with alpha",
    "P": "palette",
    "RGBA": "RGB with alpha",
}
"""What people call Pillow's modes."""


NOTES: Final[Mapping[Note, tuple[str, str]]] = {
    Note.FIRST_PAGE: ("several pages", "only the first is read"),
    Note.CHANNELS: ("channels", "more than are read"),
    Note.DARK: (
        "black",
        "or almost, as 16-bit values that all stay below 4,096 are; if they have 12 bits, save "
        "them with all 16 or with 8",
    ),
    Note.ONE_COLOUR: ("transparent", "with the same colour everywhere, so nothing is seen of them"),
}
"""A label and a remark for files with each note."""


def show_read(console: Console, data: ImageSet) -> None:
    """Print what `data` was read from."""
    n = numbered(len(data.images), "image")
    if data.folder is None:
        files = ", ".join(data.files) + (f", array {data.array}" if data.array else "")
        source, facts = files, _array_facts(data)
    else:
        source, facts = str(data.folder.path), _folder_facts(data.folder, data.images.shape)
    # Text, as names may hold what rich takes for a style or an emoji. A path is not broken.
    console.print(Text(f"read {n} from {printable(source)}"), soft_wrap=True)
    if console.soft_wrap:
        indent = max(len(name) for name, _ in facts)
        for name, text in facts:
            console.print(Text(f"  {name:<{indent}}  {text}"))
    else:
        table = Table.grid(padding=(0, 2))
        for name, text in facts:
            table.add_row(Text(name, no_wrap=True), Text(text))
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
    if data.folder is not None:
        _warn_of_stretched(console, data.folder.images, data.images.shape[2:])


def _array_facts(data: ImageSet) -> list[tuple[str, str]]:
    _, channels, height, width = data.images.shape
    facts = [
        ("size", f"{width}×{height} (width×height)"),
        ("mode", "grey" if channels == 1 else "RGB"),
    ]
    if data.labels is not None:
        labels = np.unique(data.labels)
        if len(labels) == 1:
            text = f"{labels[0]} alone"
        else:
            text = (
                f"{len(labels):,} ({labels[0]} to {labels[-1]}), ignored; --normal-label N takes "
                "the images of one"
            )
        facts.append(("labels", text))
    if data.unread:
        facts.append(("not read", some(data.unread, MAX_SUBFOLDERS)))
    return facts


def _folder_facts(folder: Folder, shape: tuple[int, ...]) -> list[tuple[str, str]]:
    images = folder.images
    facts = []
    subfolders = folder.subfolders()
    if set(subfolders) != {""}:
        facts.append(("subfolders", _subfolders(subfolders)))
    facts.append(("formats", counted(image.format for image in images)))
    facts.append(("sizes", f"{_sizes(images)} (width×height)"))
    facts.append(("modes", counted(MODES.get(image.mode, image.mode) for image in images)))
    _, channels, height, width = shape
    facts.append(
        ("used as", f"{width}×{height} (width×height), {'RGB' if channels == 3 else 'grey'}")
    )
    if animated := [image.name for image in images if image.animated]:
        facts.append(
            ("animated", f"{len(animated):,}, only the first frame is read ({some(animated)})")
        )
    for note, (label, what) in NOTES.items():
        if noted := [image.name for image in images if note in image.notes]:
            facts.append((label, f"{len(noted):,}, {what} ({some(noted)})"))
    return facts + _left_out(folder.left_out)


def _subfolders(subfolders: Counter[str]) -> str:
    counts = {name or ".": n for name, n in subfolders.items()}
    if len(counts) <= MAX_SUBFOLDERS:
        return ", ".join(f"{name} {n:,}" for name, n in counts.items())
    low, high = min(counts.values()), max(counts.values())
    each = numbered(high, "image") if low == high else f"{low:,} to {numbered(high, 'image')}"
    return f"{len(counts):,} with {each} each: {some(list(counts))}"


def _sizes(images: Sequence[ImageFile]) -> str:
    sizes = Counter((image.width, image.height) for image in images)
    if len(sizes) == 1:
        ((w0, h0),) = sizes
        return f"{w0}×{h0}"
    if len(sizes) <= MAX_SIZES:
        return counted(f"of {image.width}×{image.height}" for image in images)
    by_area = sorted(sizes, key=lambda size: (math.prod(size), size))
    (w0, h0), (w1, h1) = by_area[0], by_area[-1]
    return f"{len(sizes):,} sizes, from {w0}×{h0} to {w1}×{h1}"


def _left_out(items: Sequence[LeftOut]) -> list[tuple[str, str]]:
    """A line for each kind and reason, the most frequent first; the first files are named."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in items:
        groups.setdefault((item.kind, item.reason), []).append(item.name)
    lines = []
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (kind, reason), names in ranked[:MAX_REASONS]:
        noun = f"{kind} file" if kind.startswith(".") else kind
        lines.append(("left out", f"{numbered(len(names), noun)}: {reason} ({some(names)})"))
    if rest := [name for _, names in ranked[MAX_REASONS:] for name in names]:
        lines.append(("left out", f"{len(rest):,} more for other reasons ({some(rest)})"))
    return lines


def _warn_of_stretched(
    console: Console, images: Sequence[ImageFile], sides: tuple[int, ...]
) -> None:
    """Images whose shape differs so much from the network's that they are hardly recognisable."""
    height, width = sides
    ratios = {image.name: image.width * height / (image.height * width) for image in images}
    stretches = {name: max(ratio, 1 / ratio) for name, ratio in ratios.items()}
    worst = sorted(
        (name for name, stretch in stretches.items() if stretch > MAX_STRETCH),
        key=lambda name: -stretches[name],
    )
    if worst:
        subject = numbered(len(worst), "image is", "images are")
        console.print(
            Text(
                f"warning: {subject} stretched by more than {MAX_STRETCH:g}:1 to fit "
                f"{width}×{height} (width×height), the worst by {stretches[worst[0]]:.1f}:1 "
                f"({some(worst)}); crop them, or train at their shape with --size HEIGHTxWIDTH"
            )
        )
