"""Errors of connection name the address and what to check."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from service.client import Client, ClientError, ProblemError, UnreachableError
from service.client.addresses import check_address
from tests.api.client.helpers import Use, free_port
from tests.processes import Server

ONCE = {"timeout_s": 5, "max_attempts": 1}


def test_nobody_listens(use: Use) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError) as caught:
        use(url, "model", options=ONCE)
    said = str(caught.value)
    assert said.startswith(f"{url}/model: no connection (")
    assert "refused" in said
    assert "is the service running there?" in said
    assert len(said.splitlines()) == 1


def test_passwords_are_not_shown(use: Use) -> None:
    with pytest.raises(UnreachableError) as caught:
        use(f"http://me:secret@127.0.0.1:{free_port()}/vae/", "model", options=ONCE)
    assert "/vae/model" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_host_that_has_no_address(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableError, match=r"http://vea:8000/model.*host's name"):
        use("http://vea:8000", "model", options=ONCE)


def test_https_where_there_is_none(server: Server, use: Use) -> None:
    url = server.url.replace("http:", "https:")
    with pytest.raises(UnreachableError, match="TLS") as caught:
        use(url, "model", options=ONCE)
    assert str(caught.value).startswith(f"{url}/model")


def test_a_proxy_of_the_environment(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UnreachableError, match="HTTP_PROXY"):
        use("http://vae.example:8000", "model", options=ONCE)


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """Another server than the service; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (404, b"<html>nginx</html>", {}, "404 Not Found: {url}/model was not answered by this"),
        (404, b'{"detail": ""}', {}, "is the address right?"),
        (502, b"<html>", {}, "502 Bad Gateway: {url}/model was answered by a proxy"),
        (301, b"", {"Location": "https://vae/"}, "redirects to https://vae/: use that address"),
        (200, b"<html>Welcome</html>", {}, "{url}/model: the response cannot be parsed"),
    ],
)
def test_another_server(
    use: Use, status: int, body: bytes, headers: dict[str, str], said: str
) -> None:
    with answering(status, body, **headers) as url, pytest.raises(ClientError) as caught:
        use(url, "model", options=ONCE)
    assert said.format(url=url) in str(caught.value)
    assert "address" in str(caught.value) or status == 502


def test_a_refusal_of_the_service_is_its_own(server: Server, use: Use) -> None:
    with pytest.raises(ProblemError) as caught:
        use(f"{server.url}/nowhere", "model", options=ONCE)
    assert "/nowhere/model" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "localhost", "http://", "ftp://localhost", "http://localhost:a"),
        *("http://localhost:80000", "http://localhost:8000/?alpha=1", "//localhost", "http:/x"),
    ],
)
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url is ") as caught:
        Client(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://me:secret@vae.example/a/b/", "https://vae.example/a/b"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_the_address_as_messages_name_it(url: str, named: str) -> None:
    assert check_address(url) == named


@pytest.mark.parametrize("key", ["kéy", "a\nb", "a\0b"])
def test_a_key_that_no_header_carries(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        Client(api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "sent"), [("abc", "Bearer abc"), ("abc\n", "Bearer abc"), ("", None), (None, None)]
)
def test_the_key_as_it_is_sent(
    key: str | None, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's line break is not part of it, and an empty one is none."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b'{"id": "fake"}'))

    opened = httpx.Client
    make: Callable[..., httpx.Client] = lambda **named: opened(  # noqa: E731
        transport=httpx.MockTransport(answer), **named
    )
    monkeypatch.setattr(Client, "_open", staticmethod(make))
    with Client("http://vae", api_key=key) as client:
        client.model()
    assert seen[0].headers.get("Authorization") == sent
