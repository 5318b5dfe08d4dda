"""Takes the pictures of the page in README and docs/: `python -m tests.browser.screenshots`.

With `--all DIR`, every view instead, small and large, light and dark, to be looked at.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from service.client import Client
from tests.browser.opening import new_page
from tests.browser.strokes import SEVEN, Point, draw
from tests.docs import ROOT
from tests.processes import Server, running

PICTURES = ROOT / "docs" / "images"

WINDOW = {"width": 1280, "height": 920}
"""Of the pictures in README and docs/."""

WIDTHS = (390, 1440)

DAMAGE: tuple[Point, ...] = ((0.15, 0.62), (0.5, 0.5), (0.6, 0.85), (0.88, 0.42))
"""A line through the seven."""

SAMPLES = 64

WATCHED_S = 70

SETTLE_MS = 1500
"""Until all of a view has arrived."""


def look(page: Page) -> None:
    """A seven with a line through it."""
    page.locator(".marked canvas").wait_for()
    draw(page, SEVEN)
    draw(page, DAMAGE)


def latent(page: Page) -> None:
    """The view as it opens."""
    page.locator("input[type=range]").first.wait_for()


def watch(page: Page) -> None:
    """With some requests to watch: images that the network draws, which look a little unusual."""
    url = page.url.partition("#")[0]
    with Client(url) as client:
        for seed in range(WATCHED_S):
            client.anomaly_score(client.sample(SAMPLES * (1 + seed % 3), seed=seed))
            page.wait_for_timeout(1000)


def about(page: Page) -> None:
    """The view as it opens."""


VIEWS: dict[str, Callable[[Page], None]] = {
    "look": look,
    "latent": latent,
    "watch": watch,
    "about": about,
}


def take(
    browser: Browser,
    server: Server,
    view: str,
    path: Path,
    *,
    is_whole: bool,
    **options: int | bool,
) -> None:
    """One picture of a view: of the whole page, or of what a window shows."""
    page = new_page(browser, **options)  # type: ignore[arg-type] # a size, or whether it is dark
    page.goto(f"{server.url}/#{view}")
    VIEWS[view](page)
    page.mouse.move(2, 2)
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=path, full_page=is_whole)
    page.context.close()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIR", help="take all views, into this folder")
    folder: Path | None = parser.parse_args().all
    executable = shutil.which("chromium")
    if executable is None:
        sys.exit("chromium is not installed (Debian and Ubuntu: apt install chromium)")
    with (
        running("--threads", "1", "--recent-images", "100") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        if folder is None:
            for view in ("look", "latent", "watch"):
                take(browser, server, view, PICTURES / f"page-{view}.png", is_whole=False, **WINDOW)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            for view in VIEWS:
                for width in WIDTHS:
                    for dark in (False, True):
                        name = f"{view}-{width}-{'dark' if dark else 'light'}.png"
                        path = folder / name
                        take(browser, server, view, path, is_whole=True, width=width, dark=dark)
        browser.close()


if __name__ == "__main__":
    main()
