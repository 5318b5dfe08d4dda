"""The camera and its lamp: from a surface to the pixels of a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.datasets.rendered.surface import SIDE, Field, Surface, pixel_grid

EXPOSURES: Final = (0.45, 0.65, 0.9, 1.2, 1.6)
"""Relative exposures of the shots of a part."""

JPEG_QUALITY: Final = 90

CAMERA_HEIGHT: Final = 5.0
"""In half sides of the image, as are the lamp's coordinates."""

SHINE_ALONG: Final = 0.20
SHINE_ACROSS: Final = 0.5
"""Width of the highlight along and across the tool marks: brushed metal shines in a band."""

READ_NOISE: Final = 1.1
SHOT_NOISE: Final = 0.17
"""Standard deviation of the sensor's noise in grey levels: at black, and per root of a level."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """How one photograph is taken."""

    exposure: float
    lamp: tuple[float, float, float]
    """Where it hangs: to the right, down, and above the middle."""
    white: tuple[float, float, float]
    """Colour of its light."""


def make_shot(rng: np.random.Generator, exposure: float) -> Shot:
    """A lamp that does not hang quite where it did, and is not quite as bright."""
    x, y = rng.normal((-0.55, -0.75), 0.16)
    warm = rng.normal(0, 0.012)
    return Shot(
        exposure=float(exposure * rng.uniform(0.94, 1.06)),
        lamp=(float(x), float(y), float(rng.uniform(2.1, 2.5))),
        white=(float(1.02 + warm), 1.0, float(0.97 - warm)),
    )


def expose(surface: Surface, shot: Shot) -> Field:
    """The image without noise, (3, SIDE, SIDE), in grey levels from 0 to 255."""
    x, y = (axis / (SIDE / 2) for axis in pixel_grid())
    to_lamp = _unit(shot.lamp[0] - x, shot.lamp[1] - y, np.full_like(x, shot.lamp[2]))
    to_camera = _unit(-x, -y, np.full_like(x, CAMERA_HEIGHT))
    normal = _unit(-surface.slope_x, -surface.slope_y, np.ones_like(x))
    facing = np.maximum((to_lamp * normal).sum(axis=0), 0)
    half = _unit(*(to_lamp + to_camera))
    tilt_x = half[0] / half[2] + surface.slope_x
    tilt_y = half[1] / half[2] + surface.slope_y
    cos, sin = np.cos(surface.grain), np.sin(surface.grain)
    along = (cos * tilt_x + sin * tilt_y) / SHINE_ALONG
    across = (cos * tilt_y - sin * tilt_x) / SHINE_ACROSS
    shine = surface.gloss * np.exp(-(along**2) - across**2)
    white = np.array(shot.white, np.float64)[:, None, None]
    falloff = (to_lamp[2] ** 2) * (to_camera[2] ** 2)
    reflected = surface.colour * (0.06 + 0.26 * facing) + (0.08 + 0.62 * surface.colour) * shine
    energy = shot.exposure * white * falloff * surface.light * reflected
    levels = 255 * (1 - np.exp(-1.25 * energy)) ** (1 / 2.2)
    return _soften(levels)


def develop(rng: np.random.Generator, levels: Field) -> NDArray[np.uint8]:
    """The pixels, (SIDE, SIDE, 3), with the sensor's noise."""
    spread = READ_NOISE + SHOT_NOISE * np.sqrt(levels)
    noisy = levels + spread * rng.standard_normal(levels.shape)
    return np.clip(noisy.round(), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """The file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _unit(x: Field, y: Field, z: Field) -> Field:
    """Vectors of length 1, (3, SIDE, SIDE)."""
    vectors: Field = np.stack([x, y, z])
    lengths: Field = np.sqrt((vectors**2).sum(axis=0))
    return vectors / lengths


def _soften(levels: Field) -> Field:
    """The lens, which is not perfectly sharp: weights 1, 4, 1 in both directions."""
    for axis in (1, 2):
        padded = np.pad(levels, [(0, 0)] + [(int(axis == i),) * 2 for i in (1, 2)], "edge")
        before, after = (np.roll(padded, step, axis) for step in (1, -1))
        blurred = (before + 4 * padded + after) / 6
        levels = blurred[:, 1:-1] if axis == 1 else blurred[:, :, 1:-1]
    return levels
