"""The part: a brushed metal plate with four brass bushings and a turned seat round its bore."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from model.datasets.rendered.surface import (
    Field,
    Surface,
    bump,
    coverage,
    disc,
    flat,
    gradient,
    noise,
    pixel_grid,
    rounded_square,
    tint,
)

HALF_SIDE: Final = 68.0
CORNER: Final = 11.0
BEVEL: Final = 3.5
HOLE_AT: Final = 49.0
BUSHING: Final = 9.0
HOLE: Final = 4.6
SEAT: Final = 33.0
BORE: Final = 17.0
GASKET: Final = 22.5
"""In pixels: of round shapes the radius; `HOLE_AT` is how far right and down of the middle."""

STEEL: Final = (0.60, 0.61, 0.63)
BRASS: Final = (0.72, 0.53, 0.24)
RUBBER: Final = (0.05, 0.055, 0.06)
MAT: Final = (0.05, 0.085, 0.10)


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One part, as it lies under the camera. No two parts are alike."""

    surface: Surface
    outline: Field
    """Signed distance from the plate's outline."""
    x: Field
    y: Field
    """Each pixel in the plate's own coordinates, in pixels from its middle."""
    holes: tuple[tuple[float, float], ...]
    """The middle of each bushing, in these coordinates."""
    mat: Surface
    """What the plate lies on, with the plate's shadow."""

    @property
    def face(self) -> Field:
        """Signed distance from the brushed face: without bevel, bushings and seat."""
        distance = np.maximum(self.outline + BEVEL, -disc(self.x, self.y, SEAT + 1))
        for x, y in self.holes:
            distance = np.maximum(distance, -disc(self.x - x, self.y - y, BUSHING + 1))
        return distance


def make_plate(rng: np.random.Generator) -> Plate:
    """A part by chance: its place, its tool marks, its shade, and wear that is normal."""
    pixel_x, pixel_y = pixel_grid()
    angle = rng.normal(0, 0.012)
    shift_x, shift_y = rng.normal(0, 1.2, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    moved_x, moved_y = pixel_x - shift_x, pixel_y - shift_y
    x, y = cos * moved_x + sin * moved_y, cos * moved_y - sin * moved_x
    outline = rounded_square(x, y, HALF_SIDE, CORNER)
    mat = _mat(rng, outline)
    surface = mat.cover(outline, _brushed(rng, outline, angle))
    surface = surface.cover(disc(x, y, SEAT), _turned(rng, x, y))
    surface = _with_gasket(surface, x, y)
    holes = tuple(
        (side_x * HOLE_AT + rng.normal(0, 0.6), side_y * HOLE_AT + rng.normal(0, 0.6))
        for side_x in (-1, 1)
        for side_y in (-1, 1)
    )
    shade = float(rng.uniform(0.85, 1.1))
    for hole_x, hole_y in holes:
        surface = _with_bushing(surface, x - hole_x, y - hole_y, shade)
    return Plate(surface=surface, outline=outline, x=x, y=y, holes=holes, mat=mat)


def _mat(rng: np.random.Generator, outline: Field) -> Surface:
    """Rough rubber, in the plate's shadow where it is close to it."""
    texture = 1 + 0.16 * noise(rng, 0.7, 0.7) + 0.06 * noise(rng, 12, 12)
    shadow = 1 - 0.75 * np.exp(-np.maximum(outline - 1, 0) / 4)
    return Surface(
        colour=tint(MAT, texture),
        slope_x=flat(0),
        slope_y=flat(0),
        gloss=flat(0),
        grain=flat(0),
        light=shadow,
    )


def _brushed(rng: np.random.Generator, outline: Field, angle: float) -> Surface:
    """The plate itself: brushed from left to right, bevelled, a little worn and uneven."""
    roughness = rng.uniform(0.7, 1.3)
    marks = 0.5 * noise(rng, 45, 0.3) + 0.35 * noise(rng, 14, 0.4) + 0.3 * noise(rng, 120, 1.5)
    smudges = noise(rng, 16, 14)
    warm = float(rng.normal(0, 0.012))
    colour = tint(
        (STEEL[0] + warm, STEEL[1], STEEL[2] - warm),
        1 + 0.11 * roughness * marks + 0.025 * smudges,
    )
    uneven_x, uneven_y = gradient(noise(rng, 30, 30) * 0.5)
    towards_x, towards_y = gradient(outline)
    bevel = coverage(-(outline + BEVEL), 1.5)
    surface = Surface(
        colour=colour,
        slope_x=uneven_x - 0.35 * bevel * towards_x,
        slope_y=uneven_y + 0.012 * roughness * marks - 0.35 * bevel * towards_y,
        gloss=0.9 + 0.07 * roughness * marks + 0.05 * smudges,
        grain=flat(angle),
        light=flat(1),
    )
    for _ in range(rng.integers(2, 7)):
        surface = _with_hairline(rng, surface)
    return surface


def _with_hairline(rng: np.random.Generator, surface: Surface) -> Surface:
    """A faint mark from handling, which is normal."""
    x, y = pixel_grid()
    middle_x, middle_y = rng.uniform(-65, 65, 2)
    turn = rng.normal(0, 0.5)
    along = (x - middle_x) * np.cos(turn) + (y - middle_y) * np.sin(turn)
    across = (y - middle_y) * np.cos(turn) - (x - middle_x) * np.sin(turn)
    line = bump(across, 0.5) * bump(along, rng.uniform(5, 18))
    faint = rng.uniform(-0.07, 0.09)
    return replace(surface, colour=surface.colour * (1 + faint * line))


def _turned(rng: np.random.Generator, x: Field, y: Field) -> Surface:
    """The seat: turned on a lathe, so that its marks are circles and it shines in two wedges."""
    radius = np.hypot(x, y)
    profile = rng.standard_normal(4 * int(SEAT) + 8)
    marks = np.interp(radius, np.arange(len(profile)) / 3, profile)
    edge = bump(radius - (SEAT - 1.2), 1.0)
    safe = np.maximum(radius, 1)
    return Surface(
        colour=tint(STEEL, 0.93 + 0.05 * marks),
        slope_x=0.6 * edge * x / safe,
        slope_y=0.6 * edge * y / safe,
        gloss=0.85 + 0.06 * marks,
        grain=np.arctan2(y, x) + np.pi / 2,
        light=1 - 0.35 * bump(radius - SEAT, 1.2),
    )


def _with_gasket(surface: Surface, x: Field, y: Field) -> Surface:
    """A rubber ring in the seat, and the bore inside it, which is dark."""
    radius = np.hypot(x, y)
    middle, half_width = (GASKET + BORE) / 2, (GASKET - BORE) / 2
    across = np.clip((radius - middle) / half_width, -1, 1)
    safe = np.maximum(radius, 1)
    shade = surface.light * (1 - 0.4 * bump(radius - GASKET, 1.5))
    ring = Surface(
        colour=tint(RUBBER, flat(1)),
        slope_x=-0.9 * across * x / safe,
        slope_y=-0.9 * across * y / safe,
        gloss=flat(0.16),
        grain=np.arctan2(y, x),
        light=flat(1),
    )
    dark = replace(ring, gloss=flat(0), light=0.12 + 0.25 * bump(radius, BORE / 2))
    covered = replace(surface, light=shade).cover(disc(x, y, GASKET), ring)
    return covered.cover(disc(x, y, BORE), dark)


def _with_bushing(surface: Surface, x: Field, y: Field, shade: float) -> Surface:
    """A brass ring round a hole, at the middle of `x` and `y`."""
    radius = np.hypot(x, y)
    safe = np.maximum(radius, 1)
    lip = bump(radius - (HOLE + 1), 0.9) - bump(radius - (BUSHING - 0.8), 0.9)
    gap = 1 - 0.5 * bump(radius - BUSHING, 0.8)
    brass = Surface(
        colour=tint(BRASS, flat(shade)),
        slope_x=0.45 * lip * x / safe,
        slope_y=0.45 * lip * y / safe,
        gloss=flat(0.8),
        grain=np.arctan2(y, x) + np.pi / 2,
        light=flat(1),
    )
    hole = replace(brass, gloss=flat(0), light=flat(0.06))
    covered = surface.cover(disc(x, y, BUSHING), brass)
    covered = replace(covered, light=covered.light * gap)
    return covered.cover(disc(x, y, HOLE), hole)
