"""Small random changes to training images, to reduce overfitting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHARE = 0.5
"""Share of a step's images that are changed. The rest stay as they are, like calibration images."""


def jitter(
    pixels: Tensor, image_shape: tuple[int, int, int], size: float, generator: torch.Generator
) -> Tensor:
    """Rotate, shear, scale and shift a random half of `pixels`, (N, P) in [0, 1]; returns (N, P).

    All standard deviations are `size` / 2: of the change in scale, of the angle in radians, of the
    shear, and of the shift in units of half a side. Pixels from outside the image are 0.
    """
    n = len(pixels)
    normal = size / 2 * torch.randn(n, 6, generator=generator)
    chosen = (torch.rand(n, generator=generator) < SHARE).to(pixels.device)
    if not chosen.any():  # possible in a small last batch
        return pixels
    scale_x, scale_y, angle, shear, shift_x, shift_y = normal.to(pixels.device).unbind(dim=1)
    top = torch.stack([1 + scale_x, shear - angle, shift_x], dim=1)
    bottom = torch.stack([angle, 1 + scale_y, shift_y], dim=1)
    affine = torch.stack([top, bottom], dim=1)[chosen]  # (M, 2, 3)
    images = pixels[chosen].view(-1, *image_shape)  # (M, C, H, W)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    transformed = functional.grid_sample(images, grid, align_corners=False)
    result = pixels.clone()
    result[chosen] = transformed.flatten(1)
    return result
