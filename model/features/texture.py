"""Texture: how much of each scale and direction there is in each cell of an image."""

from __future__ import annotations

import math
from itertools import product
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

SIGMAS: Final = (1.0, 2.0, 4.0)
"""Scales: derivatives of Gaussians of these σ, in pixels of the image."""

FULL_SIDE: Final = 64
"""Images with a shorter side of at least twice this are halved for a larger σ, which saves most of
the time. Small ones would lose what their few pixels say."""

RADIUS: Final = 4
"""Of a filter, in σ."""

ORDERS: Final = tuple((dy, dx) for dy, dx in product(range(3), repeat=2) if 1 <= dy + dx <= 2)
"""Derivatives along y and x: both first ones, all three second ones."""

GRID: Final = 8
"""Cells along each side."""

ALIGNED: Final = GRID * 4
"""Images are extended to multiples of this, by reflection, so that cells are whole at each σ."""

BANDS: Final = 2 * len(SIGMAS) * len(ORDERS)
"""Numbers in a cell: the mean and the maximum of each scale and derivative."""

CONTRAST: Final = 0.18
"""Standard deviation that every image is brought to, so that exposure does not count as texture:
about that of a photograph with good contrast."""

MIN_CONTRAST: Final = 4 / 255
"""An image with less is not brought further: it would be noise."""

FLOOR: Final = 0.5 / 255
"""Added before the logarithm: half a grey level."""


class Texture(nn.Module):
    """Log band energies of a grid of cells, of images with these sides, whatever their contrast.

    No weights are learned; the filters are buffers so that they move with the module.
    """

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self._halvings = []
        halvings = 0
        for number, sigma in enumerate(SIGMAS):
            if number and min(sides) >= FULL_SIDE << (halvings + 1):
                halvings += 1
            self._halvings.append(halvings)
            self.register_buffer(
                f"filters_{number}", _filters(sigma / (1 << halvings)), persistent=False
            )

    def forward(self, grey: Tensor) -> Tensor:
        """Grey images in [0, 1], (N, 1, H, W), to log band energies, (N, BANDS, GRID, GRID)."""
        height, width = grey.shape[2:]
        mean = grey.mean(dim=(2, 3), keepdim=True)
        contrast = (grey - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        level = (grey - mean) * (CONTRAST / contrast.clamp_min(MIN_CONTRAST))
        level = _extend(level, (0, -width % ALIGNED, 0, -height % ALIGNED))
        done = 0
        energies = []
        for number, halvings in enumerate(self._halvings):
            if halvings > done:
                level, done = functional.avg_pool2d(level, 2), halvings
            filters: Tensor = getattr(self, f"filters_{number}")  # (3, 1, 2r + 1)
            radius = filters.shape[2] // 2
            wide = _extend(level, (radius,) * 4)
            rows = functional.conv2d(wide, filters[:, :, None, :])  # (N, 3, H + 2r, W), along x
            bands = torch.cat(
                [
                    functional.conv2d(rows[:, dx : dx + 1], filters[dy : dy + 1, :, :, None])
                    for dy, dx in ORDERS
                ],
                dim=1,
            ).abs()  # (N, 5, H, W)
            cell = [side // GRID for side in level.shape[2:]]
            energies += [functional.avg_pool2d(bands, cell), functional.max_pool2d(bands, cell)]
        return (torch.cat(energies, dim=1) + FLOOR).log()


def _extend(images: Tensor, padding: tuple[int, ...]) -> Tensor:
    """By reflection; by repetition of the border where an image is too small for that."""
    fits = max(padding) < min(images.shape[2:])
    return functional.pad(images, padding, mode="reflect" if fits else "replicate")


def _filters(sigma: float) -> Tensor:
    """A Gaussian and its first two derivatives, in units of σ, (3, 1, 2r + 1)."""
    radius = math.ceil(RADIUS * sigma)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma
    gaussian = (-0.5 * x**2).exp() / (sigma * math.sqrt(2 * math.pi))
    return torch.stack([gaussian, -x * gaussian, (x**2 - 1) * gaussian])[:, None].float()
