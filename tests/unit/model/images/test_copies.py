"""Hashes of pixels: equal for copies, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.images.copies import pixel_hashes, without_copies


def noise(n: int, shape: tuple[int, ...] = (3, 6, 4), seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@given(st.lists(st.integers(0, 7), max_size=30))
def test_the_first_of_each_image_is_kept_in_order(drawn: list[int]) -> None:
    images = noise(8)[drawn]
    hashes = pixel_hashes(images)
    assert hashes.dtype == np.uint64
    assert hashes.shape == (len(drawn),)
    expected = [i for i, image in enumerate(drawn) if image not in drawn[:i]]
    assert without_copies(hashes).tolist() == expected


def test_one_pixel_off_by_one_is_another_image() -> None:
    images = np.repeat(noise(1), 1 + 3 * 6 * 4, axis=0)
    flat = images.reshape(len(images), -1)
    flat[np.arange(1, len(flat)), np.arange(flat.shape[1])] ^= 1
    assert len(set(pixel_hashes(images).tolist())) == len(images)


@pytest.mark.parametrize("shape", [(1, 6, 12), (3, 4, 6), (3, 12, 2), (1, 72, 1)])
def test_the_shape_counts(shape: tuple[int, ...]) -> None:
    images = np.zeros((1, 3, 6, 4), np.uint8)
    assert pixel_hashes(images)[0] != pixel_hashes(images.reshape(1, *shape))[0]


def test_only_the_pixels_count_and_not_how_they_lie_in_memory() -> None:
    """Nor the images beside them: a bundle's hashes are compared with those of other sets."""
    images = noise(5)
    hashes = pixel_hashes(images)
    upside_down = np.ascontiguousarray(images[:, :, ::-1])[:, :, ::-1]
    assert not upside_down.flags.c_contiguous
    np.testing.assert_array_equal(pixel_hashes(upside_down), hashes)
    np.testing.assert_array_equal(pixel_hashes(images[3:]), hashes[3:])


def test_hashes_stay_what_they_are() -> None:
    """Bundles keep them."""
    hashes = pixel_hashes(np.arange(20, dtype=np.uint8).reshape(1, 1, 4, 5))
    assert hashes.tolist() == [10264247693245624884]
