"""The audit of pinned versions: it fails on a known vulnerability and on nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

VULNERABLE = {
    "id": "PYSEC-2018-28",
    "summary": "sends credentials elsewhere",
    "affected": [
        {
            "package": {"name": "requests", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.20.0"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """An advisory service that knows one package."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = (asked["package"]["name"], asked["version"]) == ("requests", "2.19.0")
        body = json.dumps({"vulns": [VULNERABLE]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as its base has it
        pass


@contextmanager
def advisories() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Advisories) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def audit(tmp_path: Path, pins: str, url: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "pins.txt"
    file.write_text(pins)
    options = ["--vulnerability-service", "osv", "--osv-url", url]
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "tests.audit", file, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_known_vulnerability_fails(tmp_path: Path) -> None:
    with advisories() as url:
        done = audit(tmp_path, "numpy==2.4.6\nrequests==2.19.0\n", url)
    assert (done.returncode, done.stdout) == (
        1,
        "requests 2.19.0: PYSEC-2018-28, mended in 2.20.0\n",
    )


def test_no_vulnerability_prints_nothing(tmp_path: Path) -> None:
    with advisories() as url:
        done = audit(tmp_path, "numpy==2.4.6\nrequests==2.34.2\n", url)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_unreachable_advisory_service_is_one_line(tmp_path: Path) -> None:
    with create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = audit(tmp_path, "requests==2.19.0\n", f"http://127.0.0.1:{port}/")
    assert done.returncode == 0
    assert "was not audited" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("pins", ["requests=2.19.0\n", "requests\n"])
def test_an_unpinned_requirement_fails(pins: str, tmp_path: Path) -> None:
    with advisories() as url:
        done = audit(tmp_path, pins, url)
    assert done.returncode == 1
    assert done.stdout
