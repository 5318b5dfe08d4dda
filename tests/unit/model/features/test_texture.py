"""Texture: what band energies do, and do not, follow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.features.texture import BANDS, CONTRAST, FLOOR, GRID, ORDERS, SIGMAS, Texture
from tests.unit.model.features.detectors import as_pixels, photographs

SIDES = [(28, 28), (97, 61), (256, 192), (64, 64), (5, 300), (1, 1)]


def energies(images: Tensor) -> Tensor:
    """(N, 1, H, W) to (N, scale, mean or maximum, order, GRID, GRID)."""
    h, w = images.shape[2:]
    bands: Tensor = Texture((h, w))(images)
    assert bands.shape == (len(images), BANDS, GRID, GRID)
    return bands.reshape(len(images), len(SIGMAS), 2, len(ORDERS), GRID, GRID)


def rough(sides: tuple[int, int], n: int = 3) -> Tensor:
    """Images with a texture, (N, 1, H, W)."""
    return as_pixels(photographs(n, (1, *sides))).reshape(n, 1, *sides)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_constant_image_has_no_energy(sides: tuple[int, int], level: float) -> None:
    found = energies(torch.full((2, 1, *sides), level))
    torch.testing.assert_close(found, torch.full_like(found, math.log(FLOOR)), rtol=0, atol=1e-2)


@pytest.mark.parametrize("sides", [(28, 28), (97, 61), (256, 192)])
@settings(deadline=None, max_examples=15)
@given(st.floats(0.3, 1.0), st.floats(0, 1))
def test_brightness_and_contrast_are_no_texture(
    sides: tuple[int, int], factor: float, share: float
) -> None:
    images = rough(sides)
    changed = factor * images + share * (1 - factor)  # within [0, 1]
    torch.testing.assert_close(energies(changed), energies(images), rtol=0, atol=2e-3)


def test_noise_of_a_grey_level_is_not_enlarged_to_a_texture() -> None:
    images = rough((64, 64))
    faint = 0.5 + 0.01 * (images - images.mean())
    assert (energies(faint) < energies(images) - 1).float().mean() > 0.95
    assert (energies(faint / 2 + 0.25) <= energies(faint) + 1e-4).all()


SWAPPED = [ORDERS.index((dx, dy)) for dy, dx in ORDERS]


@pytest.mark.parametrize("sides", [(64, 64), (96, 32), (256, 192), (256, 256)])
def test_a_quarter_turn_swaps_the_orders(sides: tuple[int, int]) -> None:
    """Of derivatives along x and y; and turns the grid."""
    images = rough(sides)
    turned = energies(images.rot90(dims=(2, 3)).contiguous())
    expected = energies(images)[:, :, :, SWAPPED].rot90(dims=(4, 5))
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sides", [(64, 64), (256, 192)])
def test_a_mirror_changes_nothing_but_the_side(sides: tuple[int, int]) -> None:
    images = rough(sides)
    torch.testing.assert_close(
        energies(images.flip(3)), energies(images).flip(5), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("side", "period", "tolerance"), [(96, 12, 0.03), (96, 24, 0.03), (256, 32, 0.1)]
)
@pytest.mark.parametrize("along_x", [False, True])
def test_the_energy_of_a_wave_is_as_on_paper(
    side: int, period: int, tolerance: float, along_x: bool
) -> None:
    """A derivative of order n of a Gaussian of σ, in units of σ, turns a wave of frequency k and
    amplitude a into one of a·(kσ)ⁿ·exp(−(kσ)²/2), whose absolute value is 2/π of that on average.
    """
    wave = (2 * math.pi / period * torch.arange(side)).sin()
    image = 0.5 + 0.4 * (wave if along_x else wave[:, None]).expand(1, 1, side, side)
    found = energies(image)[0, ..., 2:-2, 2:-2]  # away from the border
    for number, sigma in enumerate(SIGMAS):
        k = 2 * math.pi / period * sigma
        for order, (dy, dx) in enumerate(ORDERS):
            along, across = (dx, dy) if along_x else (dy, dx)
            largest = 0.0 if across else math.sqrt(2) * CONTRAST * k**along * math.exp(-(k**2) / 2)
            mean, maximum = found[number, :, order].exp() - FLOOR
            assert mean.mean() == pytest.approx(largest * 2 / math.pi, rel=tolerance, abs=1e-3)
            assert maximum.max() == pytest.approx(largest, rel=tolerance, abs=1e-3)


def test_a_cell_tells_of_its_own_place() -> None:
    image = torch.full((1, 1, 64, 64), 0.5)
    image[:, :, 43:45, 19:21] = 1  # the middle of the cell (5, 2)
    peaks = energies(image)[0, 0].flatten(0, 1).flatten(1).argmax(dim=1)  # at the smallest scale
    assert set(peaks.tolist()) == {5 * GRID + 2}


def test_an_image_is_independent_of_those_beside_it() -> None:
    images = torch.cat([rough((97, 61)), torch.zeros(1, 1, 97, 61), torch.ones(1, 1, 97, 61)])
    texture = Texture((97, 61))
    for number, row in enumerate(texture(images)):
        torch.testing.assert_close(
            row[None], texture(images[number : number + 1]), rtol=1e-4, atol=1e-4
        )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 280),
    st.integers(1, 280),
    st.integers(0, 2**31),
    st.sampled_from(["noise", "binary", "dot", "edge"]),
    st.sampled_from([1.0, 1 / 255, 1e-6, 0.0]),
)
def test_it_is_finite_for_any_image(
    height: int, width: int, seed: int, kind: str, amplitude: float
) -> None:
    noise = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    image = {
        "noise": noise,
        "binary": noise.round(),
        "dot": (noise == noise.max()).float(),
        "edge": (torch.arange(width) > width // 2).float().expand(1, 1, height, width),
    }[kind]
    found = energies(image * amplitude)
    assert found.isfinite().all()
    assert (found >= math.log(FLOOR) - 1e-4).all()


def test_it_has_no_weights() -> None:
    """It is in no bundle, and it moves with its module."""
    texture = Texture((64, 64))
    assert not texture.state_dict()
    assert not list(texture.parameters())
    images = rough((64, 64))
    torch.testing.assert_close(
        texture.double()(images.double()),
        energies(images).flatten(1, 3).double(),
        rtol=0,
        atol=1e-3,
    )
