"""HTTPS with a certificate from the settings."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trustme

from benchmarks.reliability.harness import is_held, wait_for
from tests.api.helpers import HANG_S
from tests.processes import Server, running, start_and_fail


class Files(NamedTuple):
    """A certificate for 127.0.0.1, and who signed it."""

    cert: Path
    key: Path
    authority: Path

    def flags(self) -> tuple[str, ...]:
        return ("--tls-cert-file", str(self.cert), "--tls-key-file", str(self.key))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    found = Files(folder / "cert.pem", folder / "key.pem", folder / "authority.pem")
    for i, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(found.cert), append=i > 0)
    issued.private_key_pem.write_to_path(str(found.key))
    authority.cert_pem.write_to_path(str(found.authority))
    return found


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest, files: Files) -> Iterator[Server]:
    with running("--workers", str(request.param), *files.flags()) as server:
        yield server


def test_it_speaks_https_only(server: Server, files: Files) -> None:
    assert server.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(files.authority))
    with httpx.Client(base_url=server.url, verify=context, timeout=HANG_S) as client:
        digits = client.get("/sample?n=4&seed=1", headers={"Accept": "application/x-npy"})
        scores = client.post("/anomaly-score", content=digits.content).json()["score"]
        assert len(scores) == 4
        large = client.post("/decode", json={"n": 256, "seed": 1}).json()["images"]
        assert len(large) == 256
        assert client.get("/docs").status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.url}/livez", timeout=HANG_S)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url.replace('https', 'http')}/livez", timeout=HANG_S)


def test_old_versions_of_tls_are_refused(server: Server) -> None:
    host, port = server.url.removeprefix("https://").split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((host, int(port)), timeout=HANG_S) as connection,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(connection)


def test_the_container_s_health_check_uses_https(server: Server, files: Files) -> None:
    environment = {
        "VAE_PORT": server.url.rpartition(":")[2],
        "VAE_TLS_CERT_FILE": str(files.cert),
        "VAE_TLS_KEY_FILE": str(files.key),
    }
    for changed, status in (({}, 0), ({"VAE_PORT": "1"}, 1)):
        done = subprocess.run(
            [sys.executable, "-m", "service.healthcheck"],
            env={**os.environ, **environment, **changed},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert len(done.stderr.splitlines()) == status


@pytest.mark.parametrize("workers", ["1", "2"])
def test_unusable_files_give_one_line(files: Files, tmp_path: Path, workers: str) -> None:
    def refused(cert: Path, key: Path) -> str:
        flags = ("--tls-cert-file", str(cert), "--tls-key-file", str(key))
        return start_and_fail("--workers", workers, *flags)

    gone, text = tmp_path / "gone.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    assert f"tls_cert_file (VAE_TLS_CERT_FILE) is {gone}: No such file" in refused(gone, files.key)
    assert f"tls_key_file (VAE_TLS_KEY_FILE) is {gone}: No such file" in refused(files.cert, gone)
    assert str(text) in refused(text, files.key)
    assert str(text) in refused(files.cert, text)
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(str(other))
    assert "key values mismatch" in refused(files.cert, other)
    assert "together or not at all" in start_and_fail("--tls-cert-file", str(files.cert))


def test_a_key_with_a_password_is_not_asked_for(files: Files, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    plain = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    flags = ("--tls-cert-file", str(files.cert), "--tls-key-file", str(locked))
    assert str(locked) in start_and_fail(*flags)


def test_a_handshake_that_never_begins_has_an_end(
    files: Files, start_server: Callable[..., Server]
) -> None:
    server = start_server("--header-timeout-s", "0.5", *files.flags())
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 0), timeout=HANG_S) as silent:
        began = time.monotonic()
        assert silent.recv(1) == b""
    assert 0.4 < time.monotonic() - began < 3


def test_a_peer_that_ignores_close_notify_holds_nothing_up(
    files: Files, start_server: Callable[..., Server]
) -> None:
    """Neither that of an idle connection nor that of the service."""
    server = start_server("--keep-alive-s", "0.5", *files.flags())
    url = httpx.URL(server.url)
    context = ssl.create_default_context(cafile=str(files.authority))
    plain = socket.create_connection((url.host, url.port or 0), timeout=HANG_S)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as silent:
        silent.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent.recv(12) == b"HTTP/1.1 200"
        assert wait_for(lambda: not is_held(url.port or 0, silent), 4) is not None
    plain = socket.create_connection((url.host, url.port or 0), timeout=HANG_S)
    with context.wrap_socket(plain, server_hostname="127.0.0.1"):
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(HANG_S) == 0
        assert time.monotonic() - began < 5
