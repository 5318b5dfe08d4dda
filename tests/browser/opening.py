"""Opens pages as people have them: small or large, in daylight or at night."""

from __future__ import annotations

from playwright.sync_api import Browser, Page

WIDTH, HEIGHT = 1440, 900


def new_page(
    browser: Browser,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    dark: bool = False,
    touch: bool = False,
    reduced_motion: bool = False,
) -> Page:
    """An empty page in a context of its own: nothing is shared with other pages."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if reduced_motion else "no-preference",
        has_touch=touch,
        accept_downloads=True,
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(15_000)
    return context.new_page()
