"""Defects pasted into clean images, to say how many of them a network finds.

Li et al. 2021, "CutPaste: self-supervised learning for anomaly detection and localization", paste
rectangles; these are ellipses with soft edges.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.images.copies import Indices

RADII: Final = (0.05, 0.15)
"""Smallest and largest half axis, as a share of the shorter side."""

MIN_RADIUS: Final = 1.5
"""In pixels: a smaller defect could change no pixel, or one."""

EDGE: Final = 0.25
"""Width of the soft edge, as a share of the radius."""


def with_defects(
    images: NDArray[np.uint8], sources: NDArray[np.uint8], seed: int = 0
) -> NDArray[np.uint8]:
    """uint8 `images`, (N, C, H, W), each with an ellipse from elsewhere in one of the `sources`."""
    generator = np.random.default_rng(seed)
    defective = images.copy()
    for image in defective:
        source = sources[generator.integers(len(sources))]
        _, height, width = image.shape
        shift: Indices = generator.integers((height, width))
        patch = np.roll(source, shift, axis=(1, 2))
        low, high = np.log(np.maximum(np.array(RADII) * min(height, width), MIN_RADIUS))
        radii = np.exp(generator.uniform(low, high, 2))
        centre = generator.uniform(0.1, 0.9, 2) * (height, width)
        angle = generator.uniform(0, np.pi)
        y, x = np.mgrid[:height, :width]
        y, x = y + 0.5 - centre[0], x + 0.5 - centre[1]
        along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
        distance = np.hypot(along / radii[0], across / radii[1])
        opacity = np.clip((1 - distance) / EDGE + 0.5, 0, 1)
        image[:] = np.rint(image * (1 - opacity) + patch * opacity)
    return defective
