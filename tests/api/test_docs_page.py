"""The page at /docs: all of it comes from here, so that it works with no internet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.api.helpers import problem
from tests.processes import Server

TYPES = {
    ".css": ("text/css",),
    ".js": ("text/javascript", "application/javascript"),
    ".png": ("image/png",),
    ".json": ("application/json",),
}
LINKS = {"src", "href", "action", "data", "poster", "srcset"}


class Links(HTMLParser):
    """What a page refers to, and the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = ""
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in LINKS and value]
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts += data


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def html(http: httpx.Client) -> str:
    answer = http.get("/docs").raise_for_status()
    assert answer.headers["content-type"].startswith("text/html")
    return answer.text


def test_everything_it_needs_is_here(http: httpx.Client, server: Server, html: str) -> None:
    links = Links(html)
    inside = re.findall(r"""url:\s*['"]([^'"]+)['"]""", links.scripts)
    assert inside == ["openapi.json"]
    endings = set()
    for link in links.found + inside:
        url = urljoin(f"{server.url}/docs", link)
        assert url.startswith(f"{server.url}/"), f"{link} is elsewhere"
        answer = http.get(url)
        assert answer.status_code == 200, link
        assert answer.content, link
        ending = "." + urlsplit(url).path.rpartition(".")[2]
        assert answer.headers["content-type"].startswith(TYPES[ending]), link
        endings.add(ending)
    assert endings == set(TYPES), "style, script, icon and description"


def test_no_other_host_is_named(http: httpx.Client, html: str) -> None:
    for text in (html, http.get("/docs/oauth2-redirect").text):
        assert not re.search(r"(https?:)?//[\w.-]+\.\w", text)


def test_stylesheets_fetch_nothing_from_elsewhere(
    http: httpx.Client, server: Server, html: str
) -> None:
    for link in Links(html).found:
        if link.endswith(".css"):
            sheet = http.get(urljoin("/docs", link)).text
            fetched = re.findall(r"""(?:url\(|@import)\s*['"]?([^'")\s]+)""", sheet)
            assert all(url.startswith("data:") for url in fetched), fetched


def test_no_validator_elsewhere_is_asked(html: str) -> None:
    """Swagger UI's standalone layout sends the page's address to validator.swagger.io."""
    scripts = Links(html).scripts
    assert '"layout": "BaseLayout"' in scripts
    assert "StandaloneLayout" not in scripts


def test_assets_are_not_made_anew_for_each_visit(http: httpx.Client, html: str) -> None:
    for link in Links(html).found:
        url = urljoin("/docs", link)
        first = http.get(url)
        again = http.get(url, headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304
        assert not again.content


@pytest.mark.parametrize(
    "path",
    [
        "/redoc",
        "/docs/nothing",
        "/static-offline-docs",
        "/static-offline-docs/",
        "/static-offline-docs/nothing.js",
        "/static-offline-docs/%2e%2e/__init__.py",
        "/static-offline-docs/..%2f__init__.py",
        "/static-offline-docs/%2fetc/passwd",
        "/openapi.yaml",
    ],
)
def test_what_is_not_offered(http: httpx.Client, path: str) -> None:
    answer = http.get(path, follow_redirects=True)
    problem(answer, 404)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"])
def test_the_page_is_only_read(http: httpx.Client, path: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        problem(http.request(method, path), 405, method)
