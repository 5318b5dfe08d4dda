"""The page at / and its files, as they are served; what it does is tested in tests/browser."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import brotli
import httpx
import pytest

from service.api.page.assets import ENCODINGS, MEDIA_TYPES, STATIC, Asset, assets
from service.app import App, create_app
from service.settings import Settings
from tests.api.helpers import client_of, problem
from tests.processes import Server

BROWSERS = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "text/html",
    "text/html;q=0.9, application/json;q=0.8",
)

OTHERS = (
    None,
    "*/*",
    "application/json",
    "application/json, text/plain, */*",
    "application/json, text/html;q=0.5",
    "image/png",
)

MAX_BYTES = 60_000
"""Of all that the page loads, compressed."""

POLICY = "default-src 'self'"

KEY = "key-of-sixteen-characters"

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def page_of(client: httpx.Client) -> httpx.Response:
    return client.get("/", headers={"Accept": BROWSERS[0]}).raise_for_status()


def files_in(html: str) -> list[str]:
    """The addresses of what a page loads."""
    return [f"/{link}" for link in re.findall(r'(?:src|href)="\./(page/[^"]+)"', html)]


@pytest.mark.parametrize("accept", BROWSERS)
def test_browsers_get_the_page(http: httpx.Client, accept: str) -> None:
    answer = http.get("/", headers={"Accept": accept})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Accept" in answer.headers["vary"]
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("accept", OTHERS)
def test_others_get_links_that_work(http: httpx.Client, accept: str | None) -> None:
    answer = http.get("/", headers={} if accept is None else {"Accept": accept})
    assert answer.headers["content-type"] == "application/json"
    assert "Accept" in answer.headers["vary"]
    links = answer.json()["links"]
    assert {"docs", "model", "anomaly-score", "metrics"} <= set(links)
    for path in links.values():
        assert http.options(path).status_code == 204, path


def test_nothing_inline_and_nothing_from_elsewhere(http: httpx.Client) -> None:
    answer = page_of(http)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"{POLICY};")
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert not re.search(r"<script(?![^>]* src=)[^>]*>|<style|\sstyle=|\son\w+=", answer.text)
    own = [path for path in STATIC.rglob("*") if path.suffix in MEDIA_TYPES and path.is_file()]
    for path in own:
        if path.parent.name != "vendor":
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://[\w.-]+\.\w", text), path.name


def test_every_file_of_the_page_is_served(http: httpx.Client) -> None:
    found = files_in(page_of(http).text)
    names = {link.split("/", 3)[3] for link in found}
    modules = {name for name in assets().files if name.endswith(".js")}
    assert modules <= names, "all modules, in one go"
    for link in found:
        answer = http.get(link)
        assert answer.status_code == 200, link
        assert answer.headers["content-type"] == MEDIA_TYPES[Path(link).suffix]
        if Path(link).suffix in (".js", ".css"):
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_modules_import_files_that_exist() -> None:
    for name, asset in assets().files.items():
        if name.endswith(".js"):
            for target in re.findall(
                r'^(?:import|export)\b[^;`]*?from\s?"([^"]+)"', asset.content.decode(), re.MULTILINE
            ):
                assert target.startswith("."), f"{name} imports {target}"
                assert (STATIC / name).parent.joinpath(target).is_file(), f"{name}: {target}"


def test_modules_use_what_they_import() -> None:
    for path in STATIC.rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        for names in re.findall(r"^import \{([^}]+)\}", text, re.MULTILINE):
            for name in (part.split(" as ")[-1].strip() for part in names.split(",")):
                uses = len(re.findall(rf"(?<![\w$]){re.escape(name)}(?![\w$])", text))
                assert uses > 1 or not name, f"{path.name} imports {name} and does not use it"


def test_comments_are_not_sent() -> None:
    for name, asset in assets().files.items():
        if not name.startswith("vendor/"):
            assert not re.search(
                r"^\s*/\*|^\s*//|[;,{(\[] // ", asset.content.decode(), re.MULTILINE
            ), name


def test_files_are_kept_by_browsers_until_they_change(http: httpx.Client) -> None:
    for link in files_in(page_of(http).text):
        answer = http.get(link)
        assert "immutable" in answer.headers["cache-control"]
        again = http.get(link, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        assert again.content == b""
        assert http.get(link, headers={"If-None-Match": '"other"'}).status_code == 200
    page = page_of(http)
    kept = {"Accept": "text/html", "If-None-Match": page.headers["etag"]}
    assert http.get("/", headers=kept).status_code == 304


def test_the_address_of_the_files_is_that_of_this_version(http: httpx.Client) -> None:
    version = assets().version
    assert http.get(f"/page/{version}/main.js").status_code == 200
    other = version[::-1]
    for path in (
        f"/page/{other}/main.js",
        f"/page/{version}/none.js",
        f"/page/{version}/../assets.py",
        f"/page/{version}/%2e%2e/assets.py",
        f"/page/{version}/",
    ):
        problem(http.get(path), 404)


@pytest.mark.parametrize(
    ("accepted", "encoding", "decompress"),
    [
        ("gzip, deflate, br, zstd", "br", brotli.decompress),
        ("gzip, deflate", "gzip", gzip.decompress),
        ("identity", None, bytes),
        ("gzip;q=0", None, bytes),
    ],
)
def test_files_are_compressed(
    http: httpx.Client, accepted: str, encoding: str | None, decompress: Callable[[bytes], bytes]
) -> None:
    name = "vendor/preact.js"
    link = f"/page/{assets().version}/{name}"
    with http.stream("GET", link, headers={"Accept-Encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == encoding
    assert decompress(raw) == assets().files[name].content


def test_files_are_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []

    def compress(content: bytes) -> bytes:
        calls.append(content)
        return content

    monkeypatch.setitem(cast("dict[str, Any]", ENCODINGS), "gzip", compress)
    asset = Asset(b"a file that no other test has", "text/plain")
    assert asset.encoded("gzip") == asset.encoded("gzip") == asset.content
    assert len(calls) == 1


def test_all_of_it_is_small() -> None:
    loaded = {
        name: len(asset.encoded("br"))
        for name, asset in assets().files.items()
        if not name.endswith(".txt")
    }
    assert sum(loaded.values()) <= MAX_BYTES, loaded


def test_the_licences_of_what_others_wrote_are_there() -> None:
    text = assets().files["vendor/LICENSES.txt"].content.decode()
    for path in (STATIC / "vendor").iterdir():
        assert path.name in text or path.name == "LICENSES.txt"
    assert re.search(r"preact \d+\.\d+\.\d+, MIT", text)
    assert re.search(r"htm \d+\.\d+\.\d+, Apache", text)


async def test_it_can_be_turned_off() -> None:
    app: App = create_app(Settings(threads=1, page=False))
    async with client_of(app) as client:
        answer = await client.get("/", headers={"Accept": BROWSERS[0]})
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["links"]["docs"] == "/docs"
        problem(await client.get(f"/page/{assets().version}/main.js"), 404)


async def test_it_needs_no_key_and_what_it_shows_does() -> None:
    app = create_app(Settings(threads=1, api_keys=KEY))
    async with client_of(app) as client:
        page = await client.get("/", headers={"Accept": BROWSERS[0]})
        assert page.status_code == 200
        for link in files_in(page.text):
            assert (await client.get(link)).status_code == 200
        problem(await client.get("/model"), 401)


async def test_below_a_prefix_all_addresses_have_it() -> None:
    app = create_app(Settings(threads=1, root_path="/vae"))
    async with client_of(app) as client:
        for path in ("/vae", "/vae/", "/"):
            page = await client.get(path, headers={"Accept": BROWSERS[0]})
            addresses = re.findall(r'(?:src|href|content)="(/[^"]*)"', page.text)
            assert addresses
            assert all(address.startswith("/vae/") for address in addresses), path
            for link in addresses:
                if Path(urlsplit(link).path).suffix:
                    assert (await client.get(link)).status_code == 200, link
        links = (await client.get("/vae/")).json()["links"]
        assert links["model"] == "/vae/model"
