"""The page with API keys of a single scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.access.keys import digest_of
from tests.processes import Server, running

KEYS = {scope: f"a-key-for-{scope}-alone" for scope in ("infer", "metrics")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that knows a key for each scope."""
    file = tmp_path_factory.mktemp("keys") / "api-keys"
    lines = [f"{scope} {digest_of(key).hex()} scopes={scope}\n" for scope, key in KEYS.items()]
    file.write_text("".join(lines))
    with running("--api-keys-file", str(file), "--threads", "1") as server:
        yield server


@pytest.fixture
def open_with(open_page: Callable[..., Page], watched: Any) -> Callable[[str, str], Page]:
    """`open_with("infer", "#watch")`: a page after its key was given."""
    watched.allowed += ["401", "403"]

    def open_one(scope: str, fragment: str) -> Page:
        page = open_page(fragment)
        field = page.get_by_label("This service asks for an API key")
        field.fill(KEYS[scope])
        field.press("Enter")
        expect(field).to_have_count(0)
        return page

    return open_one


def go_to(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name).click()


def test_a_key_for_inference(open_with: Callable[[str, str], Page]) -> None:
    """Images are judged and drawn; Watch says what the key lacks."""
    page = open_with("infer", "#look")
    expect(page.locator(".verdict")).to_contain_text("Anomaly")
    expect(page.locator(".scores td").first).to_be_visible()
    go_to(page, "Latent space")
    expect(page.locator(".live canvas")).to_be_visible()
    expect(page.locator(".legend button").first).to_be_visible()
    expect(page.locator(".tiles canvas")).to_have_count(12)
    expect(page.get_by_role("alert")).to_have_count(0)
    go_to(page, "Watch")
    expect(page.get_by_role("alert").first).to_contain_text("metrics")
    expect(page.get_by_label("This service asks for an API key")).to_have_count(0)


def test_a_key_for_metrics(open_with: Callable[[str, str], Page]) -> None:
    """Watch works; the views of images say what the key lacks."""
    page = open_with("metrics", "#watch")
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()
    expect(page.get_by_role("heading", name="Anomalies against alpha")).to_be_visible()
    for name in ("Look at an image", "Latent space"):
        go_to(page, name)
        expect(page.get_by_role("alert").first).to_contain_text("infer")
    go_to(page, "Watch")
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()
