"""Small random changes of training images, so that a network learns less by heart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHARE = 0.5
"""Of the images of a step that are changed: the others stay as the calibration images are."""


def jitter(
    pixels: Tensor, image_shape: tuple[int, int, int], size: float, generator: torch.Generator
) -> Tensor:
    """Turn, shear, scale and move a random half of `pixels`, (N, P) in [0, 1].

    The standard deviations are `size` / 2 for scaling, turning (radians) and shearing, and for
    moving by halves of a side. What comes in from outside is 0.
    """
    n = len(pixels)
    normal = size / 2 * torch.randn(n, 6, generator=generator)
    chosen = (torch.rand(n, generator=generator) < SHARE).to(pixels.device)
    if not chosen.any():  # as happens in a last batch of few images
        return pixels
    scale_x, scale_y, turn, shear, move_x, move_y = normal.to(pixels.device).unbind(dim=1)
    first = torch.stack([1 + scale_x, shear - turn, move_x], dim=1)
    second = torch.stack([turn, 1 + scale_y, move_y], dim=1)
    maps = torch.stack([first, second], dim=1)[chosen]  # (M, 2, 3)
    images = pixels[chosen].view(-1, *image_shape)  # (M, C, H, W)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    result = pixels.clone()
    result[chosen] = moved.flatten(1)
    return result
