"""What a network computes for one known image, recorded so that a broken network is noticed."""

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
"""Relative tolerance, by the type of matrix products. Between processors, float32 differs by 1e-5;
bfloat16, the coarsest, differs from float32 by 0.7 % in the shipped networks. A wrong weight or
layer is off by far more."""

RING_WIDTH: Final = 4
"""Pixels."""


class SelfTest(NamedTuple):
    """What a network computes for `probe_images`; encoder and decoder both contribute."""

    mse: float
    """Mean squared error of a pixel at z = μ."""
    kl: float
    """KL divergence from the prior, in nats."""

    def agrees(self, other: SelfTest, dtype: str) -> bool:
        """Whether another computation, with products in `dtype`, gave the same within tolerance."""
        tolerance = TOLERANCE[dtype]
        return math.isclose(other.mse, self.mse, rel_tol=tolerance) and math.isclose(
            other.kl,
            self.kl,
            rel_tol=tolerance,
            abs_tol=tolerance,  # the KL of a collapsed network is 0
        )

    @classmethod
    def from_json(cls, content: Any) -> SelfTest:
        """From an object with numbers `mse` and `kl`.

        Raises `TypeError`, `KeyError` or `ValueError` for anything else.
        """
        return cls(float(content["mse"]), float(content["kl"]))


def probe_images(config: VAEConfig) -> NDArray[np.uint8]:
    """A bright ring on black, (1, C·H·W): similar enough to what networks are trained on."""
    channels, height, width = config.image_shape
    y, x = np.ogrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    off = np.abs(distance - min(height, width) / 4) / RING_WIDTH
    ring = (255 * np.clip(1 - off, 0, 1)).astype(np.uint8)
    return np.tile(ring.reshape(1, -1), channels)


@torch.inference_mode()
def run_self_test(network: VAE, config: VAEConfig) -> SelfTest:
    """What a float32 network on the CPU computes for the probe, by torch alone."""
    pixels = torch.from_numpy(probe_images(config)).float() / 255  # (1, P)
    output = network(pixels)
    return SelfTest(mean_squared_error(pixels, output).item(), output.posterior.kl().item())
