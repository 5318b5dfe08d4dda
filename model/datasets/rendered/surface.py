"""A surface as the renderer sees it, and the tools that draw on one.

Shapes are signed distances in pixels, negative inside, so that their edges are anti-aliased by
`coverage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SIDE: Final = 160
"""Height and width of an image, in pixels."""

Field = NDArray[np.float64]
"""A value for each pixel, (SIDE, SIDE), or for each of its three channels."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What reflects light towards the camera, for each pixel."""

    colour: Field
    """Share of the light that is reflected, red, green and blue: (3, SIDE, SIDE), 0 to 1."""
    slope_x: Field
    """How much the height changes per pixel, to the right."""
    slope_y: Field
    """How much it changes downwards."""
    gloss: Field
    """0 for rubber to 1 for bare metal."""
    grain: Field
    """Direction of the tool marks, in radians from the horizontal."""
    light: Field
    """Share of the light that gets here, 0 to 1; little in holes and cracks."""

    def cover(self, shape: Field, other: Surface) -> Surface:
        """`other` laid over this one where `shape`, a signed distance, is negative."""
        share = coverage(shape)
        return Surface(
            colour=mix(self.colour, other.colour, share),
            slope_x=mix(self.slope_x, other.slope_x, share),
            slope_y=mix(self.slope_y, other.slope_y, share),
            gloss=mix(self.gloss, other.gloss, share),
            grain=np.where(share > 0.5, other.grain, self.grain),
            light=mix(self.light, other.light, share),
        )


def pixel_grid() -> tuple[Field, Field]:
    """x and y of each pixel, in pixels from the middle of the image; y points down."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return x, y


def flat(value: float) -> Field:
    """The same value everywhere."""
    return np.full((SIDE, SIDE), value, np.float64)


def tint(rgb: tuple[float, float, float], shade: Field) -> Field:
    """A colour, lighter and darker by `shade`: (3, SIDE, SIDE)."""
    return np.array(rgb, np.float64)[:, None, None] * shade


def mix(first: Field, second: Field, share: Field) -> Field:
    """`first` where `share` is 0, and `second` where it is 1."""
    return first + (second - first) * share


def coverage(distance: Field, blur: float = 1.0) -> Field:
    """1 inside a shape and 0 outside, over an edge `blur` pixels wide."""
    return np.clip(0.5 - distance / blur, 0, 1)


def bump(distance: Field, width: float) -> Field:
    """A bell curve over a distance, 1 in its middle; `width` is its standard deviation."""
    return np.exp(-0.5 * (distance / width) ** 2)


def disc(x: Field, y: Field, radius: float) -> Field:
    """Signed distance from a disc."""
    return np.hypot(x, y) - radius


def rounded_square(x: Field, y: Field, half_side: float, corner: float) -> Field:
    """Signed distance from a square with round corners."""
    inner = half_side - corner
    dx, dy = np.abs(x) - inner, np.abs(y) - inner
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - corner


def gradient(field: Field) -> tuple[Field, Field]:
    """How a field changes per pixel, to the right and downwards."""
    return np.gradient(field, axis=1), np.gradient(field, axis=0)


def noise(rng: np.random.Generator, along: float, across: float) -> Field:
    """Random values of mean 0 and standard deviation 1, smooth over so many pixels.

    `along` is horizontal, and `across` vertical. It joins at the borders.
    """
    white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
    fy = np.fft.fftfreq(SIDE)[:, None]
    fx = np.fft.rfftfreq(SIDE)[None, :]
    kept = (1 + (2 * np.pi * along * fx) ** 2 + (2 * np.pi * across * fy) ** 2) ** -1.5
    smooth: Field = np.fft.irfft2(white * kept, s=(SIDE, SIDE))
    smooth -= smooth.mean()
    smooth /= smooth.std()
    return smooth
