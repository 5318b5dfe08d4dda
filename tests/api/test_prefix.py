"""Behind a reverse proxy that serves the service below a prefix."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urljoin

import httpx
import pytest

from service.api.plans import planners
from service.app import create_app
from service.http.prefix import Prefixes, prefix_of
from service.settings import Settings
from tests.api.helpers import client_of, problem
from tests.api.proxies import PREFIX, PROXIES
from tests.processes import Server, metric, running, start_and_fail

ANYONE = "127.0.0.0/8"
STRANGER = "192.0.2.0/24"


@pytest.fixture(scope="module")
def below() -> Iterator[Server]:
    """A service that knows its prefix."""
    with running("--root-path", PREFIX) as server:
        yield server


@pytest.fixture(scope="module")
def trusting() -> Iterator[Server]:
    """A service that believes a proxy on this machine."""
    with running("--trusted-proxies", ANYONE) as server:
        yield server


def check_page(url: str, servers: str | None = None) -> None:
    """What a browser does with /docs: load the page's files and the description, then try a route
    at the address that the description names."""
    with httpx.Client(timeout=30) as browser:
        page = f"{url}/docs"
        html = browser.get(page).raise_for_status().text
        links = re.findall(r"""(?:src|href)="([^"]+)"|\burl: ['"]([^'"]+)['"]""", html)
        found = [urljoin(page, a or b) for a, b in links]
        kinds = {link.rpartition(".")[2] for link in found}
        assert kinds == {"css", "js", "png", "json"}
        for link in found:
            answer = browser.get(link)
            assert answer.status_code == 200, link
            assert answer.content
        (document,) = (link for link in found if link.endswith("/openapi.json"))
        (server,) = browser.get(document).json()["servers"]
        if servers is not None:
            assert server["url"] == servers
        base = urljoin(document, server["url"]).rstrip("/")
        assert base == url
        for _ in range(2):
            decoded = browser.post(f"{base}/decode", json={"n": 2, "seed": 1})
            assert len(decoded.json()["images"]) == 2
        assert browser.get(f"{base}/v2/models/encode").json()["name"] == "encode"
        assert browser.head(f"{base}/livez").status_code == 200
        assert browser.options(f"{base}/encode").headers["allow"] == "POST, OPTIONS"
        docs = f"{servers or ''}/docs lists what there is"
        for method in ("GET", "OPTIONS"):
            answer = browser.request(method, f"{base}/nothing")
            problem(answer, 404, f"there is no /nothing here; {docs}")


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_that_takes_the_prefix_off(server: Server, tmp_path: Path, name: str) -> None:
    """`location /vae/ { proxy_pass …/; }`, with no setting at all."""
    with PROXIES[name](server, tmp_path, strip=True) as url:
        check_page(url)


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("name", PROXIES)
def test_root_path(below: Server, tmp_path: Path, name: str, strip: bool) -> None:
    """Whether or not the proxy takes the prefix off."""
    with PROXIES[name](below, tmp_path, strip=strip) as url:
        check_page(url, PREFIX)


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("name", PROXIES)
def test_x_forwarded_prefix(trusting: Server, tmp_path: Path, name: str, strip: bool) -> None:
    with PROXIES[name](trusting, tmp_path, strip=strip, says=PREFIX) as url:
        check_page(url, PREFIX)


def test_the_service_itself_goes_on_without_the_prefix(below: Server, trusting: Server) -> None:
    for server in (below, trusting):
        with server.client() as client:
            assert client.get("/livez").status_code == 200
            assert client.post("/decode", json={"n": 1}).status_code == 200
    with below.client() as client:
        for path in (f"{PREFIX}x", f"{PREFIX}{PREFIX}/livez"):
            problem(client.get(path), 404)
        assert client.get(PREFIX).json() == client.get(f"{PREFIX}/").json()


def servers_of(server: Server, *values: str) -> list[dict[str, str]]:
    headers = [("X-Forwarded-Prefix", value) for value in values]
    with server.client() as client:
        found: list[dict[str, str]] = client.get("/openapi.json", headers=headers).json()["servers"]
    return found


def test_only_trusted_proxies_are_believed(server: Server) -> None:
    assert servers_of(server, "/elsewhere") == [{"url": "."}]
    with running("--trusted-proxies", f"{STRANGER}, 2001:db8::/32") as distrustful:
        assert servers_of(distrustful, "/elsewhere") == [{"url": "."}]
        with distrustful.client() as client:
            headers = {"X-Forwarded-Prefix": "/elsewhere"}
            problem(client.get("/elsewhere/livez", headers=headers), 404)


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_should_set_the_header_and_not_add_to_it(
    trusting: Server, tmp_path: Path, name: str
) -> None:
    with PROXIES[name](trusting, tmp_path, strip=True, says=PREFIX) as url:
        headers = {"X-Forwarded-Prefix": "/elsewhere"}
        (server,) = httpx.get(f"{url}/openapi.json", headers=headers).json()["servers"]
        adds = name == "small"  # what the others do is in docs/deployment.md
        assert server["url"] == (f"/elsewhere{PREFIX}" if adds else PREFIX)


@pytest.mark.parametrize(
    ("client", "is_trusted"),
    [
        (("127.0.0.1", 1), True),
        (("::ffff:127.0.0.1", 1), True),  # IPv4 on an IPv6 socket
        (("2001:db8::7", 1), True),
        (("::ffff:192.0.2.1", 1), False),
        (("::1", 1), False),
        (("2001:db9::7", 1), False),
        (("a-socket", 1), False),
        (None, False),
    ],
)
def test_addresses_that_are_trusted(client: tuple[str, int] | None, is_trusted: bool) -> None:
    prefixes = Prefixes(Settings(trusted_proxies=f"{ANYONE}, 2001:db8::/32"))
    headers = [(b"x-forwarded-prefix", b"/vae")]
    stripped = prefixes.strip({"path": "/vae/livez", "headers": headers, "client": client})
    assert stripped["path"] == ("/livez" if is_trusted else "/vae/livez")


def test_a_known_head_is_answered_alike_below_a_forwarded_prefix(trusting: Server) -> None:
    """The first request of a head takes the general way, and later ones the direct way."""
    with trusting.client() as client:
        for path in (f"{PREFIX}/encode", "/encode"):
            for said, status in ((PREFIX, 200), ("/other", 200 if path == "/encode" else 404)):
                headers = {"X-Forwarded-Prefix": said}
                answers = [
                    client.post(path, json={"images": [[0.5] * 784]}, headers=headers)
                    for _ in range(3)
                ]
                assert {answer.status_code for answer in answers} == {status}
                if status == 200:
                    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("root_path", ["/my%20app", "/my%2520app", "/caf%C3%A9"])
def test_a_prefix_with_percent_signs(root_path: str) -> None:
    """It is written as in addresses, and paths come decoded."""
    path = f"{unquote(root_path)}/livez"
    known = Prefixes(Settings(root_path=root_path))
    assert known.without_root_path(path) == "/livez"
    assert known.strip({"path": path, "headers": []})["path"] == "/livez"
    trusting = Prefixes(Settings(trusted_proxies=ANYONE))
    scope = {
        "path": path,
        "headers": [(b"x-forwarded-prefix", root_path.encode())],
        "client": ("127.0.0.1", 1),
    }
    assert trusting.strip(scope)["path"] == "/livez"
    assert prefix_of(scope) == root_path


@pytest.mark.parametrize(
    "value",
    [
        "//evil.example",
        "https://evil.example",
        "evil",
        "/a b",
        "/a\\b",
        '/a"><script>',
        "/a?b",
        "/" + "a" * 300,
        "/",
        "",
    ],
)
def test_a_wrong_prefix_is_ignored(trusting: Server, value: str) -> None:
    assert servers_of(trusting, value) == [{"url": "."}]


def test_prefixes_of_several_proxies_add_up(trusting: Server) -> None:
    assert servers_of(trusting, "/outer/, /inner") == [{"url": "/outer/inner"}]
    assert servers_of(trusting, "/outer", "/inner/") == [{"url": "/outer/inner"}]


def test_metrics_and_keys_see_the_path_without_the_prefix(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Otherwise a key for images would do for /vae/metrics."""
    infer, metrics = "a-key-for-images-only", "a-key-for-metrics-only"
    lines = [
        f"{name} {sha256(key.encode()).hexdigest()} scopes={name}\n"
        for name, key in (("infer", infer), ("metrics", metrics))
    ]
    file = tmp_path / "keys"
    file.write_text("".join(lines))
    server = start_server("--root-path", PREFIX, "--api-keys-file", str(file))
    with server.client() as client:

        def status(path: str, key: str | None) -> int:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return client.get(f"{PREFIX}{path}", headers=headers).status_code

        assert status("/metrics", infer) == 403
        assert status("/metrics", metrics) == 200
        assert status("/model", infer) == 200
        assert status("/livez", None) == 200
        assert status("/docs", None) == 200
        assert status("/model", None) == 401


def test_no_prefix_that_a_client_makes_up_opens_a_route(
    start_server: Callable[..., Server],
) -> None:
    """It may be joined with the proxy's own, so scopes go by the path that is left."""
    key = f"{sha256(b'a-key-for-images-only').hexdigest()}"
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"infer {key} scopes=infer\n")
        file.flush()
        server = start_server("--trusted-proxies", ANYONE, "--api-keys-file", file.name)
        bearer = {"Authorization": "Bearer a-key-for-images-only"}
        with server.client() as client:
            for said in ("/x, /vae", "/vae", "/x", "/metrics", "/livez"):
                for path in ("/metrics", "/vae/metrics", "/x/vae/metrics", "/livez/metrics"):
                    headers = bearer | {"X-Forwarded-Prefix": said}
                    if said == path:  # what is left is /, which anyone may see
                        assert set(client.get(path, headers=headers).json()) == {"title", "links"}
                        continue
                    assert client.get(path, headers=headers).status_code in (403, 404)
                    answer = client.get(path, headers={"X-Forwarded-Prefix": said})
                    assert answer.status_code == 401


def test_routes_are_counted_without_the_prefix(below: Server) -> None:
    with below.client() as client:
        of = {"route": "/sample", "method": "GET", "status": "200"}
        before = metric(client, "vae_requests_total", **of)
        client.get(f"{PREFIX}/sample")
        assert metric(client, "vae_requests_total", **of) == before + 1


def test_the_fast_way_is_open_below_the_prefix() -> None:
    app = create_app(Settings(threads=1, root_path=f"{PREFIX}/"))
    app.direct.use(planners(app.state.service))
    headers = [(b"host", b"x"), (b"x-forwarded-prefix", b"/vae"), (b"content-length", b"9")]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    head = b"POST /vae/anomaly-score HTTP/1.1\r\n" + lines + b"\r\n"
    scope = {
        "method": "POST",
        "path": "/vae/anomaly-score",
        "query_string": b"",
        "headers": headers,
    }
    app.direct.learn(head, scope)
    known = app.direct.find(head)
    assert known is not None
    assert known.plan is not None
    assert known.target.path == "/anomaly-score"


def test_the_connection_finds_the_context_of_a_request_below_the_prefix() -> None:
    """It is in the state, by which a client that leaves is noticed."""
    scope = {"type": "http", "path": "/vae/encode", "headers": [], "state": {}}
    stripped = Prefixes(Settings(root_path=PREFIX)).strip(scope)
    assert stripped["state"] is scope["state"]
    assert (stripped["path"], scope["path"]) == ("/encode", "/vae/encode")


@pytest.mark.anyio
async def test_full_queues_refuse_below_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(threads=1, root_path=PREFIX))
    monkeypatch.setattr(app, "_is_full", lambda: True)
    scope = {"type": "http", "method": "GET", "path": "/vae/livez", "headers": []}
    assert app.refuse(scope) is None
    seen = []
    monkeypatch.setattr(app._lifecycle, "refuse", lambda scope: seen.append(scope["path"]))
    app.refuse(scope | {"path": "/vae/sample"})
    assert seen == ["/sample"]
    async with client_of(app) as client:
        assert (await client.get("/vae/livez")).status_code == 200


@pytest.mark.parametrize("path", ["vae", "//evil.example", "/a b", "/a//b", "https://x/vae"])
def test_a_root_path_that_is_none(path: str) -> None:
    reason = start_and_fail("--root-path", path)
    assert "root_path (VAE_ROOT_PATH)" in reason
    assert "not a path such as /vae" in reason


@pytest.mark.parametrize("value", ["proxy.example", "10.0.0.0/40", "10.0.0.1, nonsense"])
def test_proxies_that_are_no_addresses(value: str) -> None:
    reason = start_and_fail("--trusted-proxies", value)
    assert "trusted_proxies (VAE_TRUSTED_PROXIES)" in reason
    assert "not an address or network such as 10.0.0.0/8" in reason


@pytest.mark.parametrize("value", ["", "/"])
def test_an_empty_root_path_is_none(value: str) -> None:
    assert not Prefixes(Settings(root_path=value, trusted_proxies="")).exist
