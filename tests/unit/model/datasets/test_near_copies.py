"""Near-copies: other shots of one part are found, and other digits are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.datasets import near_copies as module
from model.datasets.near_copies import NearCopies, find_near_copies


def pairs(found: NearCopies) -> set[tuple[int, int]]:
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


def parts(n: int, seed: int = 0, side: int = 24) -> NDArray[np.float64]:
    """Smooth random surfaces, each another, over one background: (n, 3, side, side)."""
    generator = np.random.default_rng(seed)
    surfaces = []
    for grid in generator.random((n + 1, 6, 6, 3)):
        image = Image.fromarray((255 * grid).astype(np.uint8)).resize((side, side))
        surfaces.append(np.asarray(image, np.float64).transpose(2, 0, 1))
    return 0.5 * surfaces[0] + 0.5 * np.stack(surfaces[1:])


def as_images(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).round().astype(np.uint8)


def shots(each: int, n: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """Of each part in turn, so many: darker, of less contrast, noisy, and never the same."""
    generator = np.random.default_rng(seed + 1)
    surfaces = np.repeat(parts(n, seed), each, axis=0)
    contrast, light, noise = (
        generator.uniform(0.6, 1, (len(surfaces), 1, 1, 1)),
        generator.uniform(0, 40, (len(surfaces), 1, 1, 1)),
        generator.normal(0, 2, surfaces.shape),
    )
    return as_images(contrast * surfaces + light + noise)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("each", [2, 3, 5])
def test_shots_of_one_part_are_found_and_no_others(each: int, channels: int) -> None:
    images = shots(each)[:, :channels]
    n = len(images)
    expected = {(i, j) for i in range(n) for j in range(i + 1, n) if i // each == j // each}
    assert pairs(find_near_copies(images)) == expected


def test_the_light_does_not_matter() -> None:
    surfaces = parts(30)
    images = as_images(np.concatenate([surfaces, 0.4 * surfaces[:3], 0.8 * surfaces[3:6] + 51]))
    assert pairs(find_near_copies(images)) == {(i, 30 + i) for i in range(6)}


def test_images_that_share_some_features_are_none() -> None:
    """Halves of them another, whose thumbnails have a correlation of 0.9."""
    surfaces, others = parts(40), parts(40, seed=9)
    images = as_images(np.concatenate([surfaces, surfaces + 0.5 * (others - others.mean())]))
    assert pairs(find_near_copies(images)) == set()


@pytest.mark.parametrize(("n", "each"), [(2, 60), (10, 22), (12, 50)])
def test_many_shots_of_few_parts_are_found(n: int, each: int) -> None:
    """Although each has dozens of neighbours as close as its closest."""
    noise = np.random.default_rng(0).normal(0, 2, (n * each, 3, 24, 24))
    images = as_images(np.repeat(parts(n), each, axis=0) + noise)
    found = pairs(find_near_copies(images))
    assert len(found) > 0.9 * n * each * (each - 1) / 2
    assert all(i // each == j // each for i, j in found)


def test_different_digits_are_no_near_copies(digits: NDArray[np.uint8]) -> None:
    """Although they are all alike: a warning of them would be a false one."""
    images = digits[:1_000]
    found = find_near_copies(images)
    half = np.arange(len(images)) < 500
    across = found.across(np.flatnonzero(half), np.flatnonzero(~half))
    assert len(across) < 0.15 * 500


def test_copies_of_digits_are(digits: NDArray[np.uint8]) -> None:
    images = digits[:200].copy()
    fainter = (0.9 * images[:50]).astype(np.uint8)
    found = pairs(find_near_copies(np.concatenate([images, fainter])))
    assert {(i, 200 + i) for i in range(50)} <= found


def test_each_pair_is_there_once_and_in_order() -> None:
    found = find_near_copies(shots(4))
    assert len(pairs(found)) == len(found.first) == 40 * 6
    assert (found.first < found.second).all()
    assert found.first.dtype == found.second.dtype == np.int64


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images = shots(3)
    whole = find_near_copies(images)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert pairs(find_near_copies(images)) == pairs(whole)


def test_of_very_many_images_the_first_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COMPARED", 61)
    found = find_near_copies(shots(2))
    assert pairs(found) == {(i, i + 1) for i in range(0, 60, 2)}


def test_across_finds_those_of_one_set_with_a_copy_in_the_other() -> None:
    near = NearCopies(np.array([0, 0, 2, 5]), np.array([1, 4, 3, 6]))
    both = np.array([1, 3, 5, 6]), np.array([0, 2, 4])
    assert near.across(*both).tolist() == [1, 3]
    assert near.across(*both[::-1]).tolist() == [0, 2]
    assert near.across(np.array([0, 1, 4]), np.array([2, 3])).tolist() == []
    assert near.across(np.array([4, 1]), np.array([0])).tolist() == [1, 4]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_very_few_images_are_compared_too(n: int) -> None:
    assert pairs(find_near_copies(as_images(parts(n)))) == set()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_images_of_one_colour_are_no_copies_of_anything(value: int) -> None:
    """They have no features to compare; exact copies are found by their hash."""
    images = np.concatenate([np.full((30, 3, 24, 24), value, np.uint8), as_images(parts(3))])
    assert pairs(find_near_copies(images)) == set()


def test_the_images_are_left_alone() -> None:
    images = shots(2)
    before = images.copy()
    find_near_copies(images)
    assert np.array_equal(images, before)
