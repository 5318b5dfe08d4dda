"""Augmentation: how many images change, how far, and into what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.training.augment import jitter

GREY, COLOUR = (1, 12, 9), (3, 8, 10)


def jittered(
    pixels: Tensor, shape: tuple[int, int, int] = GREY, size: float = 0.1, seed: int = 0
) -> Tensor:
    return jitter(pixels, shape, size, torch.Generator().manual_seed(seed))


def some(n: int, shape: tuple[int, int, int] = GREY, seed: int = 0) -> Tensor:
    return torch.rand(n, math.prod(shape), generator=torch.Generator().manual_seed(seed))


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Which rows are not as they were, to the bit."""
    return (before != after).any(dim=1)


def test_only_about_half_of_the_images_change() -> None:
    before = some(2_000)
    after = jittered(before)
    assert after.shape == before.shape
    assert changed(before, after).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("size", [0.0, 1e-6])
@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
def test_almost_no_size_is_almost_no_change(size: float, shape: tuple[int, int, int]) -> None:
    before = some(50, shape)
    torch.testing.assert_close(jittered(before, shape, size), before, atol=1e-4, rtol=0)


def test_a_larger_size_changes_more() -> None:
    before = some(200)
    steps = [(jittered(before, size=size) - before).abs().mean().item() for size in (0.02, 0.1)]
    assert 0.001 < steps[0] < steps[1]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(0, 2**31),
    st.floats(0.001, 0.5),
    st.tuples(st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)),
)
def test_pixels_stay_in_range_and_the_input_as_it_is(
    n: int, seed: int, size: float, shape: tuple[int, int, int]
) -> None:
    before = some(n, shape, seed).round(decimals=1)
    copy = before.clone()
    after = jittered(before, shape, size, seed)
    assert torch.equal(before, copy)
    assert after.shape == before.shape
    assert after.min() >= 0
    assert after.max() <= 1 + 1e-6


def test_the_same_generator_gives_the_same_images() -> None:
    before = some(20)
    assert torch.equal(jittered(before, seed=3), jittered(before, seed=3))
    assert not torch.equal(jittered(before, seed=3), jittered(before, seed=4))
    generator = torch.Generator().manual_seed(3)
    first, second = (jitter(before, GREY, 0.1, generator) for _ in range(2))
    assert torch.equal(first, jittered(before, seed=3))
    assert not torch.equal(first, second)


def test_other_randomness_does_not_matter() -> None:
    torch.manual_seed(1)
    first = jittered(some(20))
    torch.manual_seed(2)
    assert torch.equal(jittered(some(20)), first)


def test_images_do_not_mix() -> None:
    before = some(20)
    other = before.clone()
    other[7:9] = 0
    rows = torch.arange(20)
    rest = (rows < 7) | (rows > 8)
    torch.testing.assert_close(jittered(other)[rest], jittered(before)[rest])


def test_the_three_colours_move_as_one() -> None:
    grey = some(30, (1, 8, 10))
    colour = torch.cat([grey, 0.5 * grey, 0 * grey], dim=1)
    red, green, blue = jittered(colour, COLOUR).chunk(3, dim=1)
    assert changed(grey, red).any()
    torch.testing.assert_close(red, jittered(grey, (1, 8, 10)))
    torch.testing.assert_close(green, 0.5 * red)
    assert not blue.any()


def test_pixels_from_outside_are_black() -> None:
    white = torch.ones(40, 12 * 9)
    after = jittered(white, size=0.5)
    assert (after[changed(white, after)].amin(dim=1) < 0.9).all()


def test_where_none_is_chosen_all_stay() -> None:
    """As happens to half of all batches of one."""
    before = some(1)
    found = [changed(before, jittered(before, seed=seed)).item() for seed in range(20)]
    assert 3 <= sum(found) <= 17


def test_how_far_a_spot_moves_and_how_wide_it_grows() -> None:
    """A blot in the middle of 64 × 96 pixels: its centre and its spread, by its moments."""
    height, width, size = 64, 96, 0.1
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / (height / 2) - 1,
        (torch.arange(width) + 0.5) / (width / 2) - 1,
        indexing="ij",
    )
    blot = (-(x**2 + y**2) / (2 * 0.15**2)).exp().flatten()
    before = blot.expand(800, -1).contiguous()
    after = jittered(before, (1, height, width), size)
    after = after[changed(before, after)]
    share = after / after.sum(dim=1, keepdim=True)
    middle_x, middle_y = share @ x.flatten(), share @ y.flatten()
    for middle in (middle_x, middle_y):
        assert middle.std().item() == pytest.approx(size / 2, rel=0.1)
        assert abs(middle.mean().item()) < 0.01
    spread_x = (share * (x.flatten() - middle_x[:, None]) ** 2).sum(dim=1).sqrt() / 0.15
    spread_y = (share * (y.flatten() - middle_y[:, None]) ** 2).sum(dim=1).sqrt() / 0.15
    for spread in (spread_x, spread_y):
        assert spread.std().item() == pytest.approx(size / 2, rel=0.15)
        assert spread.mean().item() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(spread_x, spread_y)[0, 1]) < 0.2  # each on its own
