"""Groups by subfolder or file name, and the pattern that keeps near-copies together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from model.datasets.folder import ImageFile
from model.datasets.groups import BY_FOLDER, GroupError, group_images, suggest
from model.datasets.near_copies import NearCopies
from model.images.copies import Indices
from tests.unit.samples import assert_one_line


def files(names: Sequence[str]) -> list[ImageFile]:
    return [
        ImageFile(path=Path(name), name=name, format="PNG", mode="L", width=8, height=8)
        for name in names
    ]


def copies_of(names: Sequence[str], part: Callable[[str], str]) -> NearCopies:
    """All pairs of images that show the same part."""
    n = len(names)
    found = [(i, j) for i in range(n) for j in range(i + 1, n) if part(names[i]) == part(names[j])]
    first, second = np.array(found, np.int64).reshape(-1, 2).T
    return NearCopies(first, second)


def partition(groups: Indices) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in np.unique(groups)}


PARTS = [f"part{part}_shot{shot}.png" for part in range(12) for shot in range(3)]
BY_THREES = {frozenset(range(start, start + 3)) for start in range(0, 36, 3)}


# As asked for


def test_each_subfolder_is_a_group() -> None:
    images = files(["b/1.png", "a/1.png", "b/2.png", "a/x/1.png", "1.png", "a/2.png"])
    groups = group_images(images, BY_FOLDER)
    assert groups.dtype == np.int64
    assert partition(groups) == {frozenset(part) for part in ([0, 2], [1, 5], [3], [4])}


def test_groups_are_numbered_from_0() -> None:
    groups = group_images(files(PARTS), r"part\d+")
    assert sorted(set(groups.tolist())) == list(range(12))


@pytest.mark.parametrize(
    "pattern", [r"part(\d+)_", r"part\d+", r"^(.*)_shot", r"(part)(\d+)", r"(?P<part>\d+)_shot"]
)
def test_the_text_in_parentheses_or_else_the_match_is_the_group(pattern: str) -> None:
    assert partition(group_images(files(PARTS), pattern)) == BY_THREES


def test_a_pattern_sees_the_folders_and_not_the_suffix() -> None:
    images = files(["a-1/x_1.png", "a-1/y_2.jpg", "a-2/x_1.png", "a-2/y_1.webp"])
    assert partition(group_images(images, r"^a-(\d)/")) == {frozenset({0, 1}), frozenset({2, 3})}
    assert partition(group_images(images, r"_(\d)$")) == {frozenset({0, 2, 3}), frozenset({1})}
    with pytest.raises(GroupError):
        group_images(images, "png|jpg|webp")


def test_two_parentheses_are_two_texts() -> None:
    images = files(["1-23.png", "12-3.png", "1-23b.png"])
    assert len(set(group_images(images, r"(\d+)-(\d+)").tolist())) == 2


def test_images_that_do_not_match_are_named_with_the_option() -> None:
    with pytest.raises(GroupError) as raised:
        group_images(files([*PARTS, "readme.png", "cover.png"]), r"part(\d+)_")
    assert_one_line(
        raised.value, r"--group 'part(\d+)_'", "2 of 38 images", "readme.png", "cover.png"
    )


@pytest.mark.parametrize("pattern", ["(", "[a", "*", r"(?P<1>\d)"])
def test_a_broken_pattern_is_reported(pattern: str) -> None:
    with pytest.raises(GroupError) as raised:
        group_images(files(PARTS), pattern)
    assert_one_line(raised.value, f"--group '{pattern}'", "no regular expression")


def test_without_subfolders_there_are_no_groups_by_folder() -> None:
    with pytest.raises(GroupError) as raised:
        group_images(files(PARTS), BY_FOLDER)
    assert_one_line(raised.value, "--group folder", "subfolders")


# As suggested


def suggested(names: Sequence[str], part: Callable[[str], str]) -> set[frozenset[int]] | None:
    """The groups of the suggestion, given that shots of one part are near-copies."""
    images = files(names)
    by = suggest(images, copies_of(names, part))
    return None if by is None else partition(group_images(images, by))


LAYOUTS: dict[str, Callable[[int, int], str]] = {
    "part and shot": lambda part, shot: f"part{part}_shot{shot}.png",
    "tiles": lambda part, shot: f"exp{part}_num_{shot:05}.jpg",
    "numbers": lambda part, shot: f"{part:04}-{shot}.png",
    "letters": lambda part, shot: f"{part:03}_{'abc'[shot]}.png",
    "a date first": lambda part, shot: f"2024-01-02_{part}_s{shot}.png",
    "part last": lambda part, shot: f"shot{shot}_of_{part}.png",
    "in a folder": lambda part, shot: f"good/part{part}_shot{shot}.png",
    "brackets": lambda part, shot: f"part {part} ({shot}).png",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_part_is_found_in_the_names(layout: str) -> None:
    name = LAYOUTS[layout]
    names = [name(part, shot) for part in range(12) for shot in range(3)]
    shown = {name(part, shot): str(part) for part in range(12) for shot in range(3)}
    assert suggested(names, shown.__getitem__) == BY_THREES


def test_the_suggestion_can_be_typed_as_it_is() -> None:
    assert suggest(files(PARTS), copies_of(PARTS, lambda n: n.split("_")[0])) in {
        r"(part\d+)_shot\d+$",
        r"part(\d+)_shot\d+$",
    }


def test_subfolders_of_parts_are_found() -> None:
    names = [f"tile-{part:03}/{shot}.png" for part in range(12) for shot in range(3)]
    images, near = files(names), copies_of(names, lambda name: name[:8])
    assert suggest(images, near) == BY_FOLDER


@pytest.mark.parametrize(
    "name", [lambda c, i: f"{'abcdefgh'[c]}/{i}.png", lambda c, i: f"class{c}_{i}.png"]
)
def test_two_classes_are_never_suggested(name: Callable[[int, int], str]) -> None:
    """They cannot be split into three, though near-copies are of one class."""
    names = [name(c, i) for c in range(2) for i in range(20)]
    by_class = {n: str(c) for c in range(2) for n in (name(c, i) for i in range(20))}
    assert suggested(names, by_class.__getitem__) is None


def test_one_large_group_among_small_ones_is_not_suggested() -> None:
    names = [
        f"part{part}_{shot}.png" for part in range(12) for shot in range(30 if part == 0 else 2)
    ]
    assert suggested(names, lambda name: name.split("_")[0]) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"{number:04}.png" for number in range(36)],
        [f"{number * 7919 % 9973:x}{'q' * (number % 3)}.png" for number in range(36)],
        [
            f"part{part}_shot{shot}.png" if part else f"{shot}.png"
            for part in range(12)
            for shot in range(3)
        ],
    ],
    ids=["numbered", "random", "not all alike"],
)
def test_there_is_none_where_no_name_tells(names: Sequence[str]) -> None:
    part = {name: str(number // 3) for number, name in enumerate(names)}
    assert suggested(names, part.__getitem__) is None


def test_there_is_none_without_near_copies() -> None:
    assert suggest(files(PARTS), copies_of(PARTS, lambda name: name)) is None


def test_near_copies_of_other_parts_are_not_kept_together_by_a_name() -> None:
    """Half of them are: the names are not those of the parts."""
    near = copies_of(PARTS, lambda name: name.split("_")[0])
    shuffled = np.random.default_rng(0).permutation(36)
    other = NearCopies(shuffled[near.first], shuffled[near.second])
    assert suggest(files(PARTS), other) is None


def test_a_few_chance_pairs_do_not_matter() -> None:
    near = copies_of(PARTS, lambda name: name.split("_")[0])
    chance = NearCopies(np.append(near.first, [0, 5, 8]), np.append(near.second, [35, 20, 12]))
    by = suggest(files(PARTS), chance)
    assert by is not None
    assert partition(group_images(files(PARTS), by)) == BY_THREES
