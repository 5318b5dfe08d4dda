"""The frame around the views: navigation, API keys, and people's preferences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.opening import new_page
from tests.processes import Server, running

VIEWS = ("Look at an image", "Latent space", "Watch", "What is here")

KEY = "key-of-sixteen-characters"


@pytest.fixture(scope="module")
def server_with_keys() -> Iterator[Server]:
    with running("--api-keys", KEY) as server:
        yield server


def test_each_view_has_a_link_and_a_title(page: Page) -> None:
    for name in VIEWS:
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        link.click()
        expect(link).to_have_attribute("aria-current", "page")
        expect(page).to_have_title(re.compile(f"^{name} ·"))
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        expect(page.get_by_role("alert")).to_have_count(0)
    page.go_back()
    expect(page).to_have_title(re.compile(f"^{VIEWS[-2]}"))


def test_the_first_tab_stop_leads_to_the_content(page: Page) -> None:
    expect(page.locator(".verdict")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Drawing pad")).to_be_focused()


def test_the_page_asks_for_a_key_and_keeps_it_in_memory(
    browser: Browser, server_with_keys: Server
) -> None:
    page = new_page(browser)
    sent: list[str | None] = []
    page.on("request", lambda request: sent.append(request.headers.get("authorization")))
    page.goto(server_with_keys.url)
    field = page.get_by_label("This service asks for an API key")
    field.fill("not-the-right-key-at-all")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not know that key")
    field.fill(KEY)
    field.press("Enter")
    expect(page.locator(".verdict")).to_contain_text("Anomaly")
    expect(field).to_have_count(0)
    assert f"Bearer {KEY}" in sent
    page.locator(".commands summary").first.click()
    lines = page.locator(".commands pre").all_inner_texts()
    assert all("VAE_API_KEY" in line and KEY not in line for line in lines)
    stored: dict[str, Any] = page.evaluate(
        "({...localStorage, ...sessionStorage, cookie: document.cookie, url: location.href})"
    )
    assert KEY not in str(stored)
    page.reload()
    expect(field).to_be_visible()
    page.context.close()


def test_a_service_that_is_gone_is_said_so(open_page: Callable[..., Page], watched: Any) -> None:
    page = open_page()
    expect(page.locator(".verdict")).to_be_visible()
    watched.allowed = ["ERR_FAILED"]
    page.route("**/anomaly-score**", lambda route: route.abort())
    page.get_by_role("button", name="noise").click()
    expect(page.get_by_role("alert")).to_contain_text("The service did not answer")
    page.unroute("**/anomaly-score**")
    page.get_by_role("button", name="upside down").click()
    expect(page.get_by_role("alert")).to_have_count(0)
