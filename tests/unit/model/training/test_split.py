"""Which images are for what: each for one thing, groups together, folds of one size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.training.split import Split, count_folds, fold_indices, split_indices

seeds = st.integers(0, 2**40)


@st.composite
def groupings(draw: st.DrawFn, least: int = 3) -> NDArray[np.int64]:
    """At least so many groups, of 1 to 9 images each, in any order and with any numbers."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=least, max_size=60))
    labels = draw(st.permutations(range(100, 100 + len(sizes))))
    groups = np.repeat(np.array(labels), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(groups)


def equal(one: Split, other: Split) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# Three sets


@settings(deadline=None)
@given(st.integers(3, 100_000), seeds)
def test_each_image_is_for_one_thing(n: int, seed: int) -> None:
    split = split_indices(n, seed)
    assert split._fields == ("train", "validation", "held_out")
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(n))
    assert all((np.diff(indices) > 0).all() for indices in split)
    assert len(split.held_out) == min(10_000, max(1, n // 6))
    assert len(split.validation) == min(1_000, max(1, n // 20, min(30, n // 6)))
    assert len(split.train) >= 1
    assert equal(split, split_indices(n, seed))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 100_000), seeds)
def test_or_for_one_of_two_where_none_are_held_out(n: int, seed: int) -> None:
    split = split_indices(n, seed, holds_out=False)
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(n))
    assert len(split.held_out) == 0
    assert len(split.validation) == min(1_000, max(1, n // 20, min(30, n // 6)))
    assert len(split.train) >= 1


@pytest.mark.parametrize("n", [600, 1_000, 20_000, 60_000])
@pytest.mark.parametrize("seed", [0, 5])
def test_many_images_are_split_as_ever(n: int, seed: int) -> None:
    """The bundles that ship were calibrated on images that this split held out."""
    order = np.random.default_rng(seed).permutation(n)
    held_out, validation = min(10_000, n // 6), min(1_000, n // 20)
    parts = np.split(order, [held_out, held_out + validation])
    assert equal(split_indices(n, seed), Split(*(np.sort(part) for part in reversed(parts))))


def test_mnist_leaves_49_000_to_train_on() -> None:
    split = split_indices(60_000, 0)
    assert [len(indices) for indices in split] == [49_000, 1_000, 10_000]
    assert split.held_out[:5].tolist() == [0, 9, 24, 26, 49]


def test_which_image_is_for_what_depends_on_the_seed() -> None:
    assert not np.array_equal(split_indices(600, 0).held_out, split_indices(600, 1).held_out)
    held_out = split_indices(60_000, 0).held_out  # from everywhere, not from one end
    assert held_out.mean() == pytest.approx(30_000, rel=0.02)


@settings(deadline=None)
@given(groupings(), seeds, st.booleans())
def test_no_group_is_divided(groups: NDArray[np.int64], seed: int, holds_out: bool) -> None:
    n = len(groups)
    split = split_indices(n, seed, groups, holds_out=holds_out)
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(n))
    members = [set(groups[indices]) for indices in split]
    assert sum(map(len, members)) == len(set(groups))
    assert all(members[: 3 if holds_out else 2])
    assert equal(split, split_indices(n, seed, groups, holds_out=holds_out))


@settings(deadline=None)
@given(groupings(least=20), seeds)
def test_the_sets_of_groups_are_about_as_large(groups: NDArray[np.int64], seed: int) -> None:
    """Off by half of a group of nine, and twice that for the one that follows."""
    split, n = split_indices(len(groups), seed, groups), len(groups)
    assert abs(len(split.held_out) - n // 6) <= 5
    assert abs(len(split.validation) - max(1, n // 20, min(30, n // 6))) <= 10


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 300), seeds)
def test_images_that_are_each_a_group_are_split_as_without_groups(n: int, seed: int) -> None:
    assert equal(split_indices(n, seed, 3 * np.arange(n) + 7), split_indices(n, seed))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_images_are_counted(n: int) -> None:
    images = "1 image" if n == 1 else f"{n} images"
    with pytest.raises(ValueError, match=f"^{images} .* at least 3 "):
        split_indices(n, 0)
    if n < 2:
        with pytest.raises(ValueError, match=f"^{images} .* at least 2 "):
            split_indices(n, 0, holds_out=False)


@pytest.mark.parametrize(
    ("groups", "holds_out", "least"), [(2, True, 3), (1, True, 3), (1, False, 2)]
)
def test_too_few_groups_are_counted(groups: int, holds_out: bool, least: int) -> None:
    labels = np.arange(1_200) % groups
    found = "1 group" if groups == 1 else f"{groups} groups"
    with pytest.raises(ValueError, match=f"1,200 images in {found} .* {least} groups"):
        split_indices(1_200, 0, labels, holds_out=holds_out)


# Folds


@settings(deadline=None)
@given(groupings(), st.data(), seeds)
def test_folds_divide_the_images_and_no_group(
    groups: NDArray[np.int64], data: st.DataObject, seed: int
) -> None:
    folds = data.draw(st.integers(1, len(set(groups))))
    parts = fold_indices(groups, folds, seed)
    assert len(parts) == folds
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(groups)))
    assert all(len(part) and (np.diff(part) > 0).all() for part in parts)
    assert sum(len(set(groups[part])) for part in parts) == len(set(groups))
    again = fold_indices(groups, folds, seed)
    assert all(map(np.array_equal, parts, again))


@settings(deadline=None)
@given(st.integers(1, 500), st.data(), seeds)
def test_folds_of_single_images_differ_by_one_at_most(
    n: int, data: st.DataObject, seed: int
) -> None:
    sizes = [len(part) for part in fold_indices(np.arange(n), data.draw(st.integers(1, n)), seed)]
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(groupings(), st.data(), seeds)
def test_folds_of_groups_differ_by_the_largest_at_most(
    groups: NDArray[np.int64], data: st.DataObject, seed: int
) -> None:
    folds = data.draw(st.integers(1, len(set(groups))))
    sizes = [len(part) for part in fold_indices(groups, folds, seed)]
    assert max(sizes) - min(sizes) <= np.unique(groups, return_counts=True)[1].max()


def test_small_groups_fill_up_beside_a_large_one() -> None:
    for seed in range(5):
        parts = fold_indices(np.array([0, 1, 2, 2, 2, 2, 3, 4]), 2, seed)
        assert [len(part) for part in parts] == [4, 4]


def test_the_seed_says_which_images_make_a_fold() -> None:
    one, other = (fold_indices(np.arange(100), 10, seed)[0] for seed in (0, 1))
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, np.arange(10))


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 groups .* 3 folds"):
        fold_indices(np.repeat([0, 1], 50), 3, 0)


@pytest.mark.parametrize(
    ("n", "groups", "architecture", "folds"),
    [
        (3, 3, "mlp", 3),
        (10, 10, "mlp", 10),
        (30, 30, "mlp", 20),
        (149, 149, "mlp", 20),
        (150, 150, "mlp", 10),
        (1_000, 1_000, "mlp", 10),
        (1_001, 1_001, "mlp", 1),
        (60_000, 60_000, "mlp", 1),
        (600, 12, "mlp", 12),
        (600, 7, "mlp", 7),
        (100, 100, "conv", 6),
        (168, 168, "conv", 6),
        (1_000, 4, "conv", 4),
        (1_001, 1_001, "conv", 1),
        (500, 1, "mlp", 1),
    ],
)
def test_few_images_are_folded_and_many_held_out(
    n: int, groups: int, architecture: str, folds: int
) -> None:
    assert count_folds(n, groups, architecture) == folds
