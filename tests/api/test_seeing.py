"""Logs and metrics of real processes, also where nothing can be written."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from tests.api.helpers import HANG_S, uint8_body
from tests.processes import START_TIMEOUT_S, Server, children, running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
REQUESTS = 3_000
"""Their lines are ten times what a pipe holds."""


@pytest.fixture(scope="module")
def as_json() -> Iterator[Server]:
    with running("--log-format", "json") as server:
        yield server


def lines_with(server: Server, text: str) -> list[str]:
    """Lines of the log that have `text`, of which there is one at least."""
    until = time.monotonic() + HANG_S
    while not (found := [line for line in server.log.read_text().splitlines() if text in line]):
        assert time.monotonic() < until, server.log.read_text()[-2000:]
        time.sleep(0.02)
    return found


def logged(server: Server, request_id: str) -> dict[str, Any]:
    """A request's only line."""
    (line,) = lines_with(server, request_id)
    found: dict[str, Any] = json.loads(line)
    assert found["request_id"] == request_id
    return found


def test_a_request_is_a_line_of_json(as_json: Server, digits: NDArray[np.uint8]) -> None:
    with as_json.client() as client:
        answer = client.post(
            "/anomaly-score?score=mse&alpha=0.0321",
            json=uint8_body(digits[:3]),
            headers={"X-Request-ID": "lines-1", "Authorization": "Bearer hush"},
        )
    line = logged(as_json, "lines-1")
    assert (line["method"], line["route"], line["path"]) == ("POST", *["/anomaly-score"] * 2)
    assert (line["status"], line["level"], line["images"]) == (200, "info", 3)
    assert line["model_version"] == answer.headers["x-model-version"]
    assert 0 < line["infer_ms"] < line["ms"]
    assert line["queue_ms"] < line["ms"]
    assert "traceparent" not in line
    text = as_json.log.read_text()
    assert "hush" not in text
    assert "0.0321" not in text


def test_every_line_is_json(as_json: Server, digits: NDArray[np.uint8]) -> None:
    with as_json.client() as client:
        for path in ("/v2/models/a%0A%1B%22%E2%80%A8b/ready", "/nowhere%0a", "/livez?%0a"):
            client.get(path)
        client.post("/encode", json=uint8_body(digits[:2]))
        client.post("/encode", content=b"\xff")
        client.get("/livez", headers={"X-Request-ID": "every-line"})
    url = httpx.URL(as_json.url)
    with socket.create_connection((url.host, url.port or 0), timeout=HANG_S) as garbage:
        garbage.sendall(b"BREW /\n\n\x1b\r\n\r\n")
        garbage.recv(1000)
    lines_with(as_json, "every-line")
    lines_with(as_json, "this is not HTTP/1.1")
    lines = [json.loads(line) for line in as_json.log.read_text().splitlines()]
    assert all({"time", "level"} <= line.keys() for line in lines)
    assert any("running on http://" in line.get("message", "") for line in lines)
    paths = {line["path"] for line in lines if "path" in line}
    assert '/v2/models/a\n\x1b"\u2028b/ready' in paths
    assert not any("nowhere" in path for path in paths)


def test_a_trace_is_propagated(as_json: Server) -> None:
    with as_json.client() as client:
        for path in ("/livez", "/v2", "/sample?n=0", "/nowhere"):  # by both ways, and refused
            traceparent = f"00-{TRACE}-{CALLER}-01"
            request_id = f"trace{path.replace('/', '-')}"
            answer = client.get(
                path, headers={"traceparent": traceparent, "X-Request-ID": request_id}
            )
            version, trace, span, flags = answer.headers["traceparent"].split("-")
            assert (version, trace, flags) == ("00", TRACE, "01")
            assert span != CALLER
            line = logged(as_json, request_id)
            assert line["traceparent"] == answer.headers["traceparent"]
            assert line["parent_id"] == CALLER


def test_an_invalid_trace_is_not_propagated(as_json: Server) -> None:
    with as_json.client() as client:
        for wrong in (f"ff-{TRACE}-{CALLER}-01", "x" * 5_000, f"00-{'0' * 32}-{CALLER}-01"):
            answer = client.get("/livez", headers={"traceparent": wrong})
            assert answer.status_code == 200
            assert "traceparent" not in answer.headers


def test_a_request_is_a_line_of_text(server: Server, digits: NDArray[np.uint8]) -> None:
    with server.client() as client:
        client.post("/encode", json=uint8_body(digits[:3]), headers={"X-Request-ID": "lines-2"})
        client.get("/v2/models/a%0A2026-01-01T00:00:00.000Z%20ERROR%20forged/ready")
        client.get("/livez", headers={"X-Request-ID": "lines-3"})
    lines_with(server, "lines-3")
    (line,) = lines_with(server, "lines-2")
    assert " INFO POST /encode 200 " in line
    assert line.endswith(" images=3")
    (line,) = lines_with(server, "forged")
    assert ' INFO GET "/v2/models/a\\n2026-01-01T00:00:00.000Z ERROR forged/ready" 404 ' in line


def test_a_log_of_warnings_has_no_requests() -> None:
    """Its start is not told either, so that another way to know its port is needed."""
    process, port = started("--log-level", "warning")
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    finally:
        process.terminate()
    assert process.communicate(timeout=HANG_S)[1] == b""
    assert process.returncode == 0


def started(*flags: str, by: str = '"$@"') -> tuple[subprocess.Popen[bytes], int]:
    """A service that answers, started by a shell from its command line; its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "--port", str(port), "--threads", "1", *flags]
    process = subprocess.Popen(  # noqa: S603 - our own command
        ["/bin/sh", "-c", f"exec {by}", "sh", *command], stderr=subprocess.PIPE
    )
    until = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < until:
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return process, port
    process.kill()
    raise AssertionError(f"the service did not start: {process.communicate()[1].decode()}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    "shell",
    ['"$@"', '"$@" 2>/dev/full', '"$@" <&- >&- 2>&-', '"$@" 2>&-'],
    ids=["nobody reads", "full", "all closed", "closed"],
)
def test_an_unread_log_does_not_block_the_service(shell: str, workers: str) -> None:
    if "full" in shell and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    process, port = started("--workers", workers, by=shell)
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=HANG_S)
        for _ in range(REQUESTS):
            connection.request("GET", "/livez", headers={"X-Request-ID": "x" * 100})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()
    finally:
        process.terminate()
    assert process.wait(HANG_S) == 0
    assert process.stderr is not None
    process.stderr.close()


def counted(port: int) -> dict[str, float]:
    """Each metric's sum over its labels."""
    found: dict[str, float] = {}
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


@pytest.fixture
def two_workers() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    process, port = started("--workers", "2")
    yield process, port
    process.terminate()
    assert process.wait(HANG_S) == 0
    assert process.stderr is not None
    process.stderr.close()


def test_totals_outlive_workers_and_gauges_do_not(
    two_workers: tuple[subprocess.Popen[bytes], int], digits: NDArray[np.uint8]
) -> None:
    process, port = two_workers
    if not Path("/proc/self/stat").exists():
        pytest.skip("workers are looked up in /proc")

    def score() -> int:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/anomaly-score?alpha=0.5",
            json=uint8_body(digits[:4]),
            timeout=HANG_S,
        )
        return sum(answer.json()["is_anomaly"])

    def totals() -> tuple[float, ...]:
        found = counted(port)
        return (
            found["vae_queue_wait_seconds_count"],
            found["vae_scored_images_total"],
            found["vae_anomalies_total"],
            found["vae_model_info"],
        )

    strange = sum(score() for _ in range(20))
    assert strange
    assert {totals() for _ in range(8)} == {(20, 80, strange, 1)}
    before = counted(port)["vae_memory_bytes"]
    assert before > 1e8
    for _ in range(2):
        killed = min(children(process.pid))
        os.kill(killed, signal.SIGKILL)
        until = time.monotonic() + HANG_S
        while len(children(process.pid) - {killed}) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        strange += sum(score() for _ in range(10))
    assert {totals() for _ in range(8)} == {(40, 160, strange, 1)}
    assert counted(port)["vae_memory_bytes"] < 1.5 * before


def test_metrics_files_are_removed_when_the_service_ends() -> None:
    process, _ = started("--workers", "2")
    try:
        if not Path(f"/proc/{process.pid}/maps").exists():
            pytest.skip("files in memory are looked up in /proc")
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in children(process.pid)]
        found = {Path(name) for text in maps for name in re.findall(r"/\S*vae-metrics-\w+", text)}
        assert len(found) == 1, "one directory for both workers"
        assert all(path.is_dir() for path in found)
    finally:
        process.terminate()
        process.communicate(timeout=HANG_S)
    assert not any(path.exists() for path in found)


MOUNTS = {
    "full": "mount -t tmpfs -o size=1m tmpfs /dev/shm",
    "read-only": "mount -t tmpfs -o ro tmpfs /dev/shm",
}
"""The first has room for half of the files, and the temporary directory is there too."""


def can_mount() -> bool:
    """Whether this user may mount something that no other process sees."""
    done = subprocess.run(  # noqa: S603 - our own command
        ["/usr/bin/env", "unshare", "--mount", "--", "sh", "-c", MOUNTS["full"]],
        check=False,
        capture_output=True,
    )
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("mount", "warnings"), [("full", 1), ("read-only", 0)])
def test_workers_keep_serving_without_shared_memory(
    mount: str, warnings: int, digits: NDArray[np.uint8]
) -> None:
    if not can_mount():
        pytest.skip("mounting needs the right to")
    inside = f'{MOUNTS[mount]} && export TMPDIR=/dev/shm && exec "$@"'
    process, port = started("--workers", "2", by=f"unshare --mount -- sh -c '{inside}' sh \"$@\"")
    try:
        for _ in range(20):
            answer = httpx.post(
                f"http://127.0.0.1:{port}/anomaly-score", json=uint8_body(digits[:4])
            )
            assert answer.status_code == 200
        images = [counted(port)["vae_scored_images_total"] for _ in range(8)]
        assert (set(images) == {20 * len(digits[:4])}) == (warnings == 0)
    finally:
        process.terminate()
    errors = process.communicate(timeout=HANG_S)[1].decode()
    assert process.returncode == 0
    told = [line for line in errors.splitlines() if " WARNING " in line]
    assert ["each worker counts on its own" in line for line in told] == [True] * warnings
