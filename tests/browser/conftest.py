"""A real browser in front of a real service.

The browser is Debian's Chromium, driven by Playwright. Every page that a test opens is watched:
errors in the console, refusals by the Content-Security-Policy, failed requests, and requests to
other hosts fail the test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.browser.latent_view import ready
from tests.browser.opening import new_page
from tests.processes import Server

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"

ARGUMENTS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",  # a camera that shows a moving pattern
    "--use-fake-ui-for-media-stream",  # and a person who allows it
)


def missing(reason: str) -> NoReturn:
    """Skip the test, which in CI is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For a module, not the session: while it runs, no other test can have an event loop."""
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        missing("Chromium is not installed (Debian and Ubuntu: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Watched:
    """What went wrong on the pages of a test."""

    def __init__(self, server: Server) -> None:
        self.wrong: list[str] = []
        self.allowed: list[str] = []
        """Parts of console lines that a test expects, as of answers with an error: browsers write a
        line for each."""
        self._url = server.url

    def watch(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self._url, "blob:", "data:")):
            self.wrong.append(f"request to {request.url}")

    def check(self) -> None:
        unexpected = [line for line in self.wrong if not any(part in line for part in self.allowed)]
        assert not unexpected


@pytest.fixture
def watched(server: Server) -> Iterator[Watched]:
    """Checks the pages of a test at its end."""
    found = Watched(server)
    yield found
    found.check()


@pytest.fixture
def open_page(browser: Browser, server: Server, watched: Watched) -> Iterator[Callable[..., Page]]:
    """`open_page("#latent", width=390, dark=True)`: a page of the shared service, in a context of
    its own."""
    pages: list[Page] = []

    def open_one(fragment: str = "", *, url: str = server.url, **options: Any) -> Page:
        page = new_page(browser, **options)
        watched.watch(page)
        pages.append(page)
        page.goto(f"{url}/{fragment}")
        return page

    yield open_one
    for page in pages:
        page.context.close()


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """The page as it opens."""
    return open_page()


@pytest.fixture
def latent(open_page: Callable[..., Page]) -> Page:
    """The view, once its sample of posterior means is there."""
    return ready(open_page("#latent"))


@pytest.fixture(scope="module")
def sample(server: Server) -> dict[str, Any]:
    """The posterior means that the bundle keeps."""
    found: dict[str, Any] = httpx.get(f"{server.url}/model/latents").raise_for_status().json()
    return found


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which checks a page for people who see or move with difficulty."""
    if not AXE.is_file():
        missing("axe-core is not installed (npm install --no-package-lock --prefix tests/browser)")
    return AXE.read_text(encoding="utf-8")


@pytest.fixture
def check_accessibility(axe: str) -> Callable[[Page], None]:
    """Fails for whatever axe-core finds on a page as it is now."""

    def check(page: Page) -> None:
        page.evaluate(axe)
        found = page.evaluate("axe.run().then(result => result.violations)")
        lines = [
            f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
            for rule in found
            for node in rule["nodes"]
        ]
        assert not lines, "\n".join(lines)

    return check
