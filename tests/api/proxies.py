"""Reverse proxies in front of a service: nginx and HAProxy where they are installed, and a small
one that runs anywhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.processes import Server, address, wait_until

PREFIX = "/vae"

HOP_BY_HOP = {"connection", "transfer-encoding", "host", "keep-alive"}

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location {prefix}/ {{ {header} proxy_pass http://{host}:{upstream}{slash}; }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend outside
    bind 127.0.0.1:{port}
    default_backend service
backend service
    {header}
    {strip}
    server one {host}:{upstream}
"""

Proxy = Callable[..., AbstractContextManager[str]]
"""Takes the service, whether to take the prefix off paths, and what to say of it in
`X-Forwarded-Prefix`. Gives the address that callers see, prefix and all."""


@contextmanager
def nginx(server: Server, folder: Path, *, strip: bool, says: str | None = None) -> Iterator[str]:
    host, upstream = address(server)
    config = folder / "nginx.conf"
    port = _free_port()
    header = f"proxy_set_header X-Forwarded-Prefix {says};" if says else ""
    values = {"folder": folder, "port": port, "prefix": PREFIX, "header": header}
    slash = "/" if strip else ""
    config.write_text(NGINX.format(**values, host=host, upstream=upstream, slash=slash))
    command = [_installed("nginx"), "-c", str(config), "-p", str(folder), "-e", "stderr"]
    with _running(command, port) as url:
        yield url


@contextmanager
def haproxy(server: Server, folder: Path, *, strip: bool, says: str | None = None) -> Iterator[str]:
    host, upstream = address(server)
    config = folder / "haproxy.cfg"
    port = _free_port()
    header = f"http-request set-header X-Forwarded-Prefix {says}" if says else ""
    stripped = rf"http-request replace-path {PREFIX}/(.*) /\1" if strip else ""
    values = {"port": port, "header": header, "strip": stripped}
    config.write_text(HAPROXY.format(**values, host=host, upstream=upstream))
    with _running([_installed("haproxy"), "-db", "-f", str(config)], port) as url:
        yield url


@contextmanager
def small(server: Server, folder: Path, *, strip: bool, says: str | None = None) -> Iterator[str]:
    """One of our own. It needs nothing to be installed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            path = self.path.removeprefix(PREFIX) if strip else self.path
            headers = [(k, v) for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP]
            if says:
                headers.append(("X-Forwarded-Prefix", says))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = upstream.build_request(self.command, path, headers=headers, content=body)
            answer = upstream.send(request, stream=True)
            content = b"".join(answer.iter_raw())
            answer.close()
            self.send_response_only(answer.status_code)
            for name, value in answer.headers.items():
                if name not in HOP_BY_HOP | {"content-length"}:
                    self.send_header(name, value)
            length = answer.headers.get("content-length", str(len(content)))
            if answer.status_code != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_OPTIONS = do_DELETE = forward  # noqa: N815 - as it looks them up

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base
            pass

    with (
        httpx.Client(base_url=server.url, timeout=30) as upstream,
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy,
    ):
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}{PREFIX}"
        finally:
            proxy.shutdown()
            thread.join()


PROXIES: dict[str, Proxy] = {"nginx": nginx, "haproxy": haproxy, "small": small}


def _installed(name: str) -> str:
    """The program, which Debian puts where only root looks; skips the test if there is none."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt install {name})")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(command)  # noqa: S603 - what Debian installed
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, "it did not start"
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
