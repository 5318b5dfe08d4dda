"""Defects pasted into images."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.pasted import RADII, with_defects


def images(n: int, channels: int, height: int, width: int, seed: int = 5) -> np.ndarray:
    """Noise, so that whatever is pasted from another seed differs."""
    shape = n, channels, height, width
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


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
    defective = with_defects(clean, images(3, *shape, seed=6), seed)
    assert (clean == before).all()
    changed = (defective != clean).any(axis=1)  # (N, H, W)
    assert changed.any(axis=(1, 2)).all()
    reach = 0.17 * min(shape[1:]) + 1  # 15 % of the shorter side, with half of the soft edge
    assert changed.sum(axis=(1, 2)).max() <= np.pi * reach**2


SIDES = (60, 90)


def opacities(n: int, seed: int) -> np.ndarray:
    """How much of each pixel is pasted, (N, H, W), 0 to 255: white pasted into black."""
    black = np.zeros((n, 1, *SIDES), np.uint8)
    return with_defects(black, 255 - black, seed)[:, 0]


def test_defects_are_ellipses_of_the_radii_that_are_named() -> None:
    """By their area and extent, where the whole defect lies inside the image."""
    low, high = (radius * min(SIDES) for radius in RADII)
    whole = [
        opacity / 255
        for opacity in opacities(400, seed=1)
        if not any(edge.any() for edge in (opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]))
    ]
    assert len(whole) > 100
    areas = np.array([opacity.sum() for opacity in whole])
    # The soft edge adds EDGE² / 12 of the area.
    assert areas.min() >= 0.85 * np.pi * low**2
    assert areas.max() <= 1.05 * np.pi * high**2
    assert areas.max() >= 2.5 * areas.min()
    extents = np.array(
        [[np.ptp(np.nonzero((opacity > 0.5).any(axis=a))) + 1 for a in (0, 1)] for opacity in whole]
    )
    assert extents.max() <= 2 * high + 1
    assert extents.min() >= 2 * low - 1
    for opacity, (width, height) in zip(whole, extents, strict=True):
        assert (
            opacity > 0.5
        ).sum() >= 0.4 * width * height  # of its box, even if it is thin and oblique


def test_edges_are_soft() -> None:
    """A pixel of them lies between the image and what is pasted; only the middle is all pasted."""
    for opacity in opacities(50, seed=2):
        assert ((opacity > 0) & (opacity < 255)).any()
    large = max(opacities(200, seed=3), key=lambda opacity: int(opacity.sum()))
    assert (large == 255).any()
    soft = ((large > 0) & (large < 255)).sum() / (large > 127).sum()
    assert 0.3 < soft < 0.9  # 2 · EDGE, and pixels that are cut


def test_defects_lie_anywhere_but_at_the_very_edge() -> None:
    places = []
    for opacity in opacities(600, seed=4):
        y, x = np.nonzero(opacity)
        weights = opacity[y, x].astype(float)
        places.append((np.average(y, weights=weights), np.average(x, weights=weights)))
    for axis, side in enumerate(SIDES):
        relative = np.array(places)[:, axis] / side
        assert 0.07 < relative.min() < 0.15
        assert 0.85 < relative.max() < 0.93
        assert abs(relative.mean() - 0.5) < 0.04


def test_a_defect_comes_from_a_place_in_one_of_the_sources() -> None:
    """Not from the same place: a photograph of one part would hardly change."""
    clean = np.zeros((40, 3, *SIDES), np.uint8)
    rows = np.arange(1, 1 + SIDES[0], dtype=np.uint8)[:, None]
    sources = np.broadcast_to(rows, (2, 3, *SIDES)).copy()
    sources[1] += 100
    pasted = with_defects(clean, sources, seed=5)
    shifts, chosen = set(), set()
    for image in pasted:
        assert (image == image[:1]).all()  # all channels alike
        row, column = np.argwhere(image[0] == image[0].max())[0]
        source = int(image[0].max() > 100)
        chosen.add(source)
        shifts.add(int(image[0, row, column]) - 100 * source - 1 - int(row))
    assert chosen == {0, 1}
    assert len(shifts) > 20


def test_the_same_seed_gives_the_same_defects() -> None:
    clean = images(4, 1, 32, 48)
    first, again, other = (with_defects(clean, clean, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
