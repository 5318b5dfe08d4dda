"""Groups of images that a split keeps together, such as all shots of one part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from model.datasets.folder import ImageFile, numbered, some
from model.datasets.near_copies import NearCopies
from model.images.copies import Indices

BY_FOLDER: Final = "folder"
"""The value of --group that makes each subfolder a group."""

MIN_KEPT_TOGETHER: Final = 0.8
"""Share of the near-copies that a suggested grouping has in one group."""

MAX_SHARE: Final = 0.5
"""Largest share of the images in one suggested group: the others have to calibrate."""

MIN_GROUPS: Final = 10
"""Fewest groups of a suggested grouping. Fewer may be classes of images, and no parts."""


class GroupError(ValueError):
    """The images cannot be grouped in this way. The message names the option and an image."""


def group_images(images: Sequence[ImageFile], by: str) -> Indices:
    """The group of each image, (N,): that of its subfolder if `by` is "folder", or of its name.

    Otherwise `by` is a regular expression, searched for in the name without its suffix, as in
    `tile-000/exp1_num_824`. Images with the same text in its parentheses are one group; without
    parentheses, with the same text in the whole match.

    Raises `GroupError` for a broken expression, or one that an image does not match.
    """
    keys = _folders(images) if by == BY_FOLDER else _matches(images, by)
    groups: Indices = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    return groups


def _folders(images: Sequence[ImageFile]) -> list[str]:
    keys = [image.folder for image in images]
    if set(keys) == {""}:
        raise GroupError(f"--group {BY_FOLDER} needs subfolders, and there are none")
    return keys


def _matches(images: Sequence[ImageFile], pattern: str) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise GroupError(f"--group '{pattern}' is no regular expression: {error}") from error
    matches = [expression.search(image.stem) for image in images]
    missing = [image.name for image, match in zip(images, matches, strict=True) if match is None]
    if missing:
        raise GroupError(
            f"--group '{pattern}' does not match {len(missing):,} of "
            f"{numbered(len(images), 'image')}: {some(missing)}"
        )
    return ["\0".join(map(str, match.groups() or [match[0]])) for match in matches if match]


def suggest(images: Sequence[ImageFile], near_copies: NearCopies) -> str | None:
    """The value of --group that keeps most near-copies together; None if no name does.

    Subfolders are tried first. Then names are taken apart into numbers and other text, and one
    stretch of them is taken as the group: `part7` in `part7_shot2`. Of those that keep
    `MIN_KEPT_TOGETHER` together, the one with the most groups is the closest to the parts.
    """
    if not len(near_copies.first):
        return None
    best: tuple[int, str] | None = None
    for by in (BY_FOLDER, *_patterns(images)):
        try:
            groups = group_images(images, by)
        except GroupError:
            continue
        sizes = np.bincount(groups)
        together = np.mean(groups[near_copies.first] == groups[near_copies.second])
        if (
            together >= MIN_KEPT_TOGETHER
            and MIN_GROUPS <= len(sizes) < len(images)
            and sizes.max() <= MAX_SHARE * len(images)
            and (best is None or len(sizes) > best[0])
        ):
            best = len(sizes), by
    return best and best[1]


def _patterns(images: Sequence[ImageFile]) -> list[str]:
    """Expressions for each stretch of the names' tokens, if all names have the same kinds of them.

    A token is a number, a word, or what lies between; one that all names share is written out.
    """
    names = [image.stem.rsplit("/", 1)[-1] for image in images]
    tokens = [re.findall(r"\d+|[^\W\d_]+|[\W_]+", name) for name in names]
    if len({tuple(map(_kind, parts)) for parts in tokens}) != 1:
        return []
    expressions = [
        re.escape(column[0]) if len(set(column)) == 1 else _kind(column[0])
        for column in zip(*tokens, strict=True)
    ]
    count = len(expressions)
    return [
        f"{''.join(expressions[:start])}({''.join(expressions[start:end])})"
        f"{''.join(expressions[end:])}$"
        for start in range(count)
        for end in range(start + 1, count + 1)
        if (start, end) != (0, count)
    ]


def _kind(token: str) -> str:
    """The expression for tokens of the same kind."""
    return r"\d+" if token[0].isdigit() else r"[^\W\d_]+" if token[0].isalpha() else "[-_. ]+"
