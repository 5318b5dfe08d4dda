"""How quick the page is in a browser: its first paint, a drawing's score, and the latent sliders.

`make bench-page` runs it and writes the figures to benchmarks/results/. The browser and the service
share the machine's cores, as they do for someone who tries the service at home.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.machine import RESULTS, cpu_model, warn_if_busy
from benchmarks.peers.table import SERVERS
from benchmarks.servers import running
from service.api.page.assets import assets

CHROMIUM: Final = "chromium"

LOADS: Final = 10
"""Each by a browser context that has cached nothing."""

LINES: Final = 12
"""Drawn one after the other, each by `MOVES` movements."""

MOVES: Final = 30

MOVE_MS: Final = 16.0
"""Between two movements, as a mouse reports them to a screen of 60 frames a second."""

DRAG_S: Final = 5.0

COUNT_FRAMES: Final = """() => {
  window.frames = 0;
  const count = (list) => { window.frames += list.getEntriesByName("frame").length; };
  new PerformanceObserver(count).observe({ entryTypes: ["measure"] });
}"""
"""Counts the measures that the page makes, and forgets, for each image that it draws."""

GOALS: Final = {
    "compressed kB": "≤ 60",
    "first paint, ms": "≤ 500",
    "stroke to score, p95, ms": "≤ 50",
    "latent slider, images/s": "≥ 30",
}

Figures = dict[str, float]


def first_paints(browser: Browser, url: str) -> list[float]:
    """Milliseconds from the start of the navigation to the first content, of each load."""
    return [_with_page(browser, url, _first_paint) for _ in range(LOADS)]


def _with_page(browser: Browser, url: str, measure: Callable[[Page], float]) -> float:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(url)
    page.locator(".verdict").wait_for()
    value = measure(page)
    context.close()
    return value


def _first_paint(page: Page) -> float:
    found: float = page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    )
    return found


def stroke_times(browser: Browser, url: str) -> list[float]:
    """Milliseconds from a movement of the mouse to its score on the page, of each score."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(url)
    page.locator(".marked canvas").wait_for()
    box = page.get_by_label("Drawing pad").bounding_box()
    assert box is not None  # noqa: S101 - it is on the page
    left, top = box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2
    for line in range(LINES):
        page.mouse.move(left, top + line * 12)
        page.mouse.down()
        for move in range(MOVES):
            page.mouse.move(left + move * 5, top + line * 12 + move % 7)
            page.wait_for_timeout(MOVE_MS)
        page.mouse.up()
    found: list[float] = page.evaluate(
        "performance.getEntriesByName('stroke-to-score').map(entry => entry.duration)"
    )
    page.close()
    return found


def images_per_second(browser: Browser, url: str) -> float:
    """Images that the latent view decodes and draws in a second while a slider is dragged."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{url}#latent")
    slider = page.locator("input[type=range]").first
    slider.wait_for()
    page.evaluate(COUNT_FRAMES)
    box = slider.bounding_box()
    assert box is not None  # noqa: S101 - it is on the page
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < DRAG_S:
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.4 * math.sin(3 * passed)), middle)
    images: int = page.evaluate("window.frames")
    page.mouse.up()
    page.close()
    return images / passed


def measure() -> Figures:
    """All figures, of one service and one browser."""
    executable = shutil.which(CHROMIUM)
    if executable is None:
        raise SystemExit(f"{CHROMIUM} is not installed (Debian and Ubuntu: apt install chromium)")
    with running(SERVERS["ours"]) as live, sync_playwright() as playwright:
        url = f"http://localhost:{live.port}/"
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        paints = first_paints(browser, url)
        strokes = stroke_times(browser, url)
        frames = images_per_second(browser, url)
        browser.close()
    files = assets().files.items()
    sizes = [len(asset.encoded("br")) for name, asset in files if not name.endswith(".txt")]
    return {
        "compressed kB": sum(sizes) / 1e3,
        "first paint, ms": statistics.median(paints),
        "slowest first paint, ms": max(paints),
        "stroke to score, p50, ms": statistics.median(strokes),
        "stroke to score, p95, ms": quantile(strokes, 0.95),
        "strokes scored": len(strokes),
        "latent slider, images/s": frames,
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[math.ceil(len(values) * share) - 1]


def table(figures: Figures) -> str:
    """The figures as a Markdown table."""
    rows = [f"| {name} | {value:.3g} | {GOALS.get(name, '')} |" for name, value in figures.items()]
    return "\n".join(["| | measured | goal |", "| --- | ---: | ---: |", *rows])


def main() -> None:
    """Run the benchmark, print the table and write it to benchmarks/results/."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    warn_if_busy()
    figures = measure()
    print(table(figures))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "page.json").write_text(
        json.dumps({"cpu": cpu_model(), "figures": figures}, indent=1) + "\n"
    )
    where = f"On {cpu_model()}, by `make bench-page`."
    (RESULTS / "page.md").write_text(
        f"# The page in a browser\n\n{table(figures)}\n\n{where}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
