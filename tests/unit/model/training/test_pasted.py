"""Defects pasted into images."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.pasted import RADII, with_defects


def images(n: int, channels: int, height: int, width: int) -> np.ndarray:
    """Noise, so that whatever is pasted differs."""
    return np.random.default_rng(5).integers(0, 256, (n, channels, height, width), dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(16, 80), st.integers(16, 80)),
    seed=st.integers(0, 1000),
)
def test_a_defect_changes_a_small_part_of_each_image(
    shape: tuple[int, int, int], seed: int
) -> None:
    clean = images(6, *shape)
    before = clean.copy()
    defective = with_defects(clean, images(3, *shape), seed)
    assert (clean == before).all()
    changed = (defective != clean).any(axis=1)  # (N, H, W)
    assert changed.any(axis=(1, 2)).all()
    side = min(shape[1:])
    largest = np.pi * (2 * RADII[1] * side + 2) ** 2 / (shape[1] * shape[2])
    assert changed.mean(axis=(1, 2)).max() <= largest


def test_the_same_seed_gives_the_same_defects() -> None:
    clean = images(4, 1, 32, 48)
    first, again, other = (with_defects(clean, clean, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
