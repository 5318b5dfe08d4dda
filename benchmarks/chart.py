"""The chart of `benchmarks.serving`: one-image requests per second, a bar for each server."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.goals import closed, each
from benchmarks.peers.table import SERVERS
from benchmarks.workloads import ONE

CONNECTIONS: Final = 32

OURS: Final = "#1b7f5c"
OTHERS: Final = "#7f93a8"
FIXED: Final = "#d3d9df"
"""Servers that compute nothing: bounds, not competitors."""

INK: Final = "#22303c"
SOFT_INK: Final = "#5b6b79"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw medians over the rounds, with a line from min to max; a server may be `failed`."""
    from matplotlib.figure import Figure

    rounds = results["rounds"]
    speeds = {
        name: each(rounds, closed(name, ONE, CONNECTIONS))
        for name in SERVERS
        if any(name in figures for figures in rounds)
    }
    order = sorted(speeds, key=lambda name: statistics.median(speeds[name] or [0.0]))
    longest = max((max(values) for values in speeds.values() if values), default=1.0)
    height = 0.44 * len(order) + 1.1  # inches
    figure = Figure(figsize=(9, height), dpi=150)
    axes = figure.add_axes((0.22, 0.15 / height, 0.77, 1 - 1.05 / height))
    ours = statistics.median(speeds.get("ours") or [0.0])
    for place, name in enumerate(order):
        values = speeds[name]
        if not values:
            axes.text(longest * 0.01, place, "failed", va="center", color=INK, style="italic")
            continue
        median = statistics.median(values)
        color = OURS if name == "ours" else FIXED if SERVERS[name].fixed else OTHERS
        axes.barh(place, median, height=0.66, color=color)
        if len(values) > 1:
            axes.plot([min(values), max(values)], [place, place], color=INK, linewidth=1)
        label = f"{median:,.0f}"
        if name != "ours" and median:
            label += f"   ({_times(ours / median)})"
        axes.text(
            max(values) + longest * 0.012,
            place,
            label,
            va="center",
            color=INK,
            weight="bold" if name == "ours" else "normal",
        )
    axes.set_yticks(range(len(order)), [SERVERS[name].title for name in order], color=INK)
    for label_text, name in zip(axes.get_yticklabels(), order, strict=True):
        label_text.set_fontweight("bold" if name == "ours" else "normal")
    axes.set_xlim(0, longest * 1.22)
    axes.set_ylim(-0.5, len(order) - 0.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(FIXED)
    heading = f"Requests per second: {ONE}, {CONNECTIONS} connections, one process"
    top = 1 - 0.3 / height
    figure.text(0.02, top, heading, fontsize=13, weight="bold", color=INK, va="center")
    text = (
        f"The same weights, {results['hardware']['cores']} cores shared with the load generator. "
        "In brackets: how many times as many this service answers. Pale: no network inside."
    )
    figure.text(0.02, 1 - 0.62 / height, text, fontsize=8.5, color=SOFT_INK, va="center")
    figure.savefig(path)


def _times(ratio: float) -> str:
    return f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×"
