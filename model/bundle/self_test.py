"""One image, and what a network makes of it: to tell later whether it still does."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import VAEConfig
from model.scores.deterministic import mean_squared_error
from model.vae import VAE

TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
"""Relative, by the type of products. Other processors differ by 1e-5 in float32; bfloat16, which is
the coarsest, by 0.7 % in the networks that ship. A wrong weight or layer is off by far more."""

RING_WIDTH: Final = 4
"""Pixels."""


class Known(NamedTuple):
    """What a network makes of `probe_images`: both of its halves have their part in it."""

    mse: float
    """Mean squared error of a pixel at z = μ."""
    kl: float
    """Nats."""

    def agrees(self, other: Known, dtype: str) -> bool:
        """Whether another computation, with products in `dtype`, came to the same."""
        tolerance = TOLERANCE[dtype]
        return math.isclose(other.mse, self.mse, rel_tol=tolerance) and math.isclose(
            other.kl,
            self.kl,
            rel_tol=tolerance,
            abs_tol=tolerance,  # of a collapsed network: 0
        )

    @classmethod
    def from_json(cls, content: Any) -> Known:
        """Raises `TypeError`, `KeyError` or `ValueError` for what is none."""
        return cls(float(content["mse"]), float(content["kl"]))


def probe_images(config: VAEConfig) -> NDArray[np.uint8]:
    """A bright ring on black, (1, C·H·W): near enough to what networks are trained on."""
    channels, height, width = config.image_shape
    y, x = np.ogrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    off = np.abs(distance - min(height, width) / 4) / RING_WIDTH
    ring = (255 * np.clip(1 - off, 0, 1)).astype(np.uint8)
    return np.tile(ring.reshape(1, -1), channels)


@torch.inference_mode()
def expected_output(network: VAE, config: VAEConfig) -> Known:
    """What a network on the CPU, in float32, makes of the probe; by torch alone."""
    pixels = torch.from_numpy(probe_images(config)).float() / 255
    output = network(pixels)
    return Known(mean_squared_error(pixels, output).item(), output.posterior.kl().item())
