"""The page behind a reverse proxy that serves it below a prefix without saying so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from tests.api.proxies import PROXIES
from tests.processes import Server, running


@pytest.fixture(scope="module", params=PROXIES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service at the address that the proxy has for it: requests elsewhere fail the test."""
    folder = tmp_path_factory.mktemp("proxy")
    with (
        running("--threads", "1") as server,
        PROXIES[request.param](server, folder, strip=True) as url,
    ):
        yield replace(server, url=url)


def test_each_view_works(open_page: Callable[..., Page], server: Server) -> None:
    """No answer is an error: the browser would say so in its console."""
    page = open_page()
    expect(page.locator(".verdict")).to_contain_text("Anomaly")
    page.locator(".commands summary").first.click()
    expect(page.locator(".commands pre").first).to_contain_text(f"{server.url}/anomaly-score")

    navigation = page.get_by_role("navigation")
    navigation.get_by_role("link", name="Latent space").click()
    expect(page.locator(".live canvas")).to_be_visible()
    expect(page.locator(".legend button").first).to_be_visible()
    assert page.url.startswith(f"{server.url}/#latent")

    navigation.get_by_role("link", name="Watch").click()
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()

    navigation.get_by_role("link", name="What is here").click()
    expect(page.get_by_text("Calibration").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)

    navigation.get_by_role("link", name="API").click()
    page.wait_for_url(f"{server.url}/docs")
