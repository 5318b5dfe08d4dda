"""Defects of a plate. Each takes a plate and how strong it is to be, and gives a changed surface.

A strength of 1 is obvious, and one of 0.1 hard to see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from model.datasets.rendered.plate import BUSHING, HALF_SIDE, SEAT, Plate
from model.datasets.rendered.surface import (
    Field,
    Surface,
    bump,
    coverage,
    disc,
    flat,
    gradient,
    mix,
    noise,
    tint,
)

Defect = Callable[[np.random.Generator, Plate, float], Surface]

Points = list[tuple[float, float]]
"""Corners of a line, in the plate's coordinates."""

RUST: Final = (0.42, 0.26, 0.13)
OIL: Final = (0.20, 0.21, 0.27)


def scratch(rng: np.random.Generator, plate: Plate, strength: float) -> Surface:
    """A curved furrow across the brushed face, with a bright and a dark flank."""
    x, y = _place(rng, plate, margin=5)
    heading = rng.uniform(0, 2 * np.pi)
    turn = rng.normal(0, 0.035)
    points = [(x, y)]
    for _ in range(int(rng.integers(5, 15))):
        x, y = x + 5 * np.cos(heading), y + 5 * np.sin(heading)
        heading += turn
        points.append((x, y))
    distance, along = _from_line(plate, points)
    width = rng.uniform(0.45, 0.7)
    fading = np.sqrt(np.clip(4 * along * (1 - along), 0, 1))
    depth = bump(distance, width) * fading * _on_metal(plate)
    down_x, down_y = gradient(depth)
    surface = plate.surface
    bright = 1.5 * strength * depth
    return replace(
        surface,
        slope_x=surface.slope_x - 3.0 * strength * down_x,
        slope_y=surface.slope_y - 3.0 * strength * down_y,
        colour=surface.colour * (1 + bright),
    )


def dent(rng: np.random.Generator, plate: Plate, strength: float) -> Surface:
    """A round hollow with a low rim, that shows by its shading."""
    x, y = _place(rng, plate, margin=8)
    radius = rng.uniform(3.5, 7.5)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
    dx, dy = plate.x - x, plate.y - y
    u = (np.cos(turn) * dx + np.sin(turn) * dy) / stretch
    v = np.cos(turn) * dy - np.sin(turn) * dx
    away = np.hypot(u, v)
    height = -bump(away, radius / 2) + 0.3 * bump(away - 1.1 * radius, radius / 4)
    slope_x, slope_y = gradient(height * radius * _on_metal(plate))
    surface = plate.surface
    deep = 0.55 * strength
    return replace(
        surface, slope_x=surface.slope_x + deep * slope_x, slope_y=surface.slope_y + deep * slope_y
    )


def stain(rng: np.random.Generator, plate: Plate, strength: float) -> Surface:
    """A patch of rust or oil with a ragged edge, that takes the shine away."""
    x, y = _place(rng, plate, margin=2)
    radius = rng.uniform(6, 13)
    ragged = disc(plate.x - x, plate.y - y, radius)
    ragged += 0.28 * radius * noise(rng, 4, 4)
    patches = np.clip(1 + 0.25 * noise(rng, 2, 2), 0.4, 1.3)
    share = coverage(ragged, blur=rng.uniform(3, 6)) * patches * coverage(plate.outline)
    share = np.clip(0.95 * strength * share, 0, 1)
    colour = RUST if rng.random() < 0.6 else OIL
    surface = plate.surface
    return replace(
        surface,
        colour=mix(surface.colour, tint(colour, flat(1)), share),
        gloss=mix(surface.gloss, flat(0.1), share),
    )


def crack(rng: np.random.Generator, plate: Plate, strength: float) -> Surface:
    """A dark, jagged line from the rim, a bushing or the seat, often with a branch."""
    x, y, heading = _rim(rng, plate)
    points = _walk(rng, x, y, heading, steps=int(rng.integers(7, 14)))
    depth = strength**0.7
    width = 0.35 + 0.35 * depth
    line, along = _from_line(plate, points)
    dark = bump(line, width) * (1 - 0.7 * along)
    if rng.random() < 0.6:
        fork_x, fork_y = points[len(points) // 2]
        turned = heading + rng.choice((-0.8, 0.8))
        branch, further = _from_line(plate, _walk(rng, fork_x, fork_y, turned, steps=4))
        dark = np.maximum(dark, 0.8 * bump(branch, width) * (1 - further))
    lost = np.clip(1.2 * depth * dark * coverage(plate.outline), 0, 0.95)
    surface = plate.surface
    return replace(surface, light=surface.light * (1 - lost))


def missing_piece(rng: np.random.Generator, plate: Plate, strength: float) -> Surface:
    """A bushing that is not there, or a bite out of the rim."""
    if strength > 0.45 and rng.random() < 0.6:
        x, y = plate.holes[int(rng.integers(len(plate.holes)))]
        hole = disc(plate.x - x, plate.y - y, BUSHING)
        surface = replace(plate.mat, light=flat(0.25))
        wall = 1 - 0.6 * bump(hole, 1.0)
        bored = plate.surface.cover(hole, surface)
        return replace(bored, light=bored.light * wall)
    place = rng.uniform(-0.9, 0.9) * HALF_SIDE
    edge = HALF_SIDE + rng.uniform(-0.1, 0.3)
    x, y = [(place, edge), (place, -edge), (edge, place), (-edge, place)][int(rng.integers(4))]
    radius = 1.6 + 10 * strength
    bite = disc(plate.x - x, plate.y - y, radius)
    bite += 0.12 * radius * noise(rng, 2.5, 2.5)
    broken = replace(
        plate.surface,
        colour=plate.surface.colour * 0.75,
        gloss=plate.surface.gloss * 0.35,
    )
    return plate.surface.cover(np.maximum(bite - 1.2, plate.outline), broken).cover(
        np.maximum(bite, plate.outline - 1), plate.mat
    )


KINDS: Final[Mapping[str, Defect]] = {
    "scratch": scratch,
    "dent": dent,
    "stain": stain,
    "crack": crack,
    "missing-piece": missing_piece,
}
"""Defects by the names of their folders."""


def _place(rng: np.random.Generator, plate: Plate, *, margin: float) -> tuple[float, float]:
    """A point by chance on the brushed face, at least `margin` pixels from its edges."""
    rows, columns = np.nonzero(plate.face < -margin)
    chosen = int(rng.integers(len(rows)))
    at = rows[chosen], columns[chosen]
    return float(plate.x[at]), float(plate.y[at])


def _rim(rng: np.random.Generator, plate: Plate) -> tuple[float, float, float]:
    """A point on an edge of the brushed face, and the way from there into it, in radians."""
    kind = rng.random()
    heading = rng.uniform(0, 2 * np.pi)
    if kind < 0.3:
        return SEAT * np.cos(heading), SEAT * np.sin(heading), heading
    if kind < 0.55:
        x, y = plate.holes[int(rng.integers(len(plate.holes)))]
        heading = np.arctan2(-y, -x) + rng.uniform(-1, 1)
        return x + BUSHING * np.cos(heading), y + BUSHING * np.sin(heading), heading
    side, place = int(rng.integers(4)), rng.uniform(-0.75, 0.75) * HALF_SIDE
    heading = side * np.pi / 2
    x, y = [(-HALF_SIDE, place), (place, -HALF_SIDE), (HALF_SIDE, place), (place, HALF_SIDE)][side]
    return x, y, heading


def _walk(rng: np.random.Generator, x: float, y: float, heading: float, steps: int) -> Points:
    """A jagged line that keeps its heading on the whole."""
    points = [(x, y)]
    for _ in range(steps):
        turned = heading + rng.normal(0, 0.55)
        length = rng.uniform(1.5, 4)
        x, y = x + length * np.cos(turned), y + length * np.sin(turned)
        points.append((x, y))
    return points


def _from_line(plate: Plate, points: Points) -> tuple[Field, Field]:
    """Each pixel's distance from a line, and how far along it is the nearest place, 0 to 1."""
    nearest = np.full_like(plate.x, np.inf)
    along = np.zeros_like(plate.x)
    last = len(points) - 1
    for i, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        dx, dy = x1 - x0, y1 - y0
        share = ((plate.x - x0) * dx + (plate.y - y0) * dy) / (dx**2 + dy**2)
        share = np.clip(share, 0, 1)
        distance = np.hypot(plate.x - (x0 + share * dx), plate.y - (y0 + share * dy))
        closer = distance < nearest
        nearest = np.where(closer, distance, nearest)
        along = np.where(closer, (i + share) / last, along)
    return nearest, along


def _on_metal(plate: Plate) -> Field:
    """1 on the brushed face, and 0 on rubber, brass and the mat, which show no such marks."""
    return coverage(plate.face, 3)
