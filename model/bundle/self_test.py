"""What a network computes for one known image, recorded so that a broken network is noticed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import VAEConfig
from model.features.detector import Detector
from model.scores.detected import DETECTED_SCORES, DetectorScores
from model.scores.deterministic import mean_squared_error
from model.vae import VAE

TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
"""Relative tolerance, by the type of matrix products. Between processors, float32 differs by 1e-5;
bfloat16, the coarsest, differs from float32 by 0.7 % in the shipped networks. A wrong weight or
layer is off by far more."""

DETECTOR_TOLERANCE: Final = TOLERANCE["float32"]
"""Of a detector's scores, which are computed in float32 always; absolute for those below 1. torch
and ONNX Runtime differ by 1e-6; detectors fitted to other images by 1e-3 to 0.2."""

RING_WIDTH: Final = 4
"""Pixels."""


class SelfTest(NamedTuple):
    """What a network computes for `probe_images`; encoder and decoder both contribute."""

    mse: float
    """Mean squared error of a pixel at z = μ."""
    kl: float
    """KL divergence from the prior, in nats."""
    detector: Mapping[str, float] | None = None
    """The detector's scores by name, `DETECTED_SCORES`. None without a detector, and in the records
    of bundles that were made before these scores were recorded."""

    def agrees(self, other: SelfTest, dtype: str) -> bool:
        """Whether another computation, with products in `dtype`, gave the same MSE and KL within
        tolerance."""
        tolerance = TOLERANCE[dtype]
        return math.isclose(other.mse, self.mse, rel_tol=tolerance) and math.isclose(
            other.kl,
            self.kl,
            rel_tol=tolerance,
            abs_tol=tolerance,  # the KL of a collapsed network is 0
        )

    def agrees_on(self, name: str, score: float) -> bool:
        """Whether another computation of the score `name` gave the same within tolerance.

        Of a score that is not recorded, whether it is a number at all.
        """
        if self.detector is None or name not in self.detector:
            return math.isfinite(score)
        return math.isclose(
            score, self.detector[name], rel_tol=DETECTOR_TOLERANCE, abs_tol=DETECTOR_TOLERANCE
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        network = {"mse": self.mse, "kl": self.kl}
        return network if self.detector is None else network | {"detector": dict(self.detector)}

    @classmethod
    def from_json(cls, content: Any) -> SelfTest:
        """From an object with numbers `mse` and `kl`, and an object `detector` if there is one.

        Raises `TypeError`, `KeyError` or `ValueError` for anything else.
        """
        mse, kl, scores = float(content["mse"]), float(content["kl"]), content.get("detector")
        if scores is None:
            return cls(mse, kl)
        return cls(mse, kl, {name: float(scores[name]) for name in DETECTED_SCORES})


def probe_images(config: VAEConfig) -> NDArray[np.uint8]:
    """A bright ring on black, (1, C·H·W): similar enough to what networks are trained on."""
    channels, height, width = config.image_shape
    y, x = np.ogrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    off = np.abs(distance - min(height, width) / 4) / RING_WIDTH
    ring = (255 * np.clip(1 - off, 0, 1)).astype(np.uint8)
    return np.tile(ring.reshape(1, -1), channels)


@torch.inference_mode()
def run_self_test(network: VAE, config: VAEConfig, detector: Detector | None = None) -> SelfTest:
    """What a float32 network on the CPU and its detector compute for the probe, by torch alone."""
    pixels = torch.from_numpy(probe_images(config)).float() / 255  # (1, P)
    output = network(pixels)
    mse, kl = mean_squared_error(pixels, output).item(), output.posterior.kl().item()
    if detector is None:
        return SelfTest(mse, kl)
    scores = DetectorScores(detector)
    (row,) = scores.scores(scores.find(pixels)).tolist()
    return SelfTest(mse, kl, dict(zip(DETECTED_SCORES, row, strict=True)))
