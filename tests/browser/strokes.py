"""Drawing on the pad by mouse."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from playwright.sync_api import Page

Point = tuple[float, float]

SEVEN: Sequence[Point] = ((0.27, 0.24), (0.7, 0.24), (0.45, 0.8))
"""A digit, as shares of the pad's sides."""

SCRIBBLE: Sequence[Point] = (
    *((0.2, 0.2), (0.8, 0.3), (0.2, 0.4), (0.8, 0.5), (0.2, 0.6), (0.8, 0.7), (0.2, 0.8)),
    *((0.3, 0.2), (0.5, 0.8), (0.7, 0.2)),
)

STEPS = 8
"""Movements of the mouse for each line."""


def draw(page: Page, points: Sequence[Point]) -> None:
    """Draw lines from point to point."""
    pad = page.get_by_label("Drawing pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for _, place in pairwise(places):
        page.mouse.move(*place, steps=STEPS)
    page.mouse.up()
