"""Several processes on one port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.api.helpers import HANG_S, uint8_body
from tests.api.test_process import address, check_refused, metric, run_service
from tests.conftest import Server

WORKERS = 2

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="children are looked up in /proc"
)


def children(pid: int) -> set[int]:
    """Live workers of a parent: its children that serve."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        state, parent = text.rpartition(")")[2].split()[:2]
        if int(parent) == pid and state != "Z" and b"spawn_main" in command:
            found.add(int(stat.parent.name))
    return found


@pytest.fixture
def workers(start_server: Callable[..., Server]) -> Iterator[Server]:
    server = start_server("--workers", str(WORKERS))
    yield server
    server.process.terminate()
    assert server.process.wait(HANG_S) == 0


def ask(server: Server, images: NDArray[np.uint8]) -> httpx.Response:
    """One request over a connection of its own, so that any worker may take it."""
    with server.client() as client:
        return client.post("/anomaly-score", json=uint8_body(images))


def test_metrics_add_up_over_workers_and_their_restarts(
    workers: Server, digits: NDArray[np.uint8]
) -> None:
    before = children(workers.process.pid)
    assert len(before) == WORKERS
    first = ask(workers, digits[:3])
    for _ in range(19):
        assert ask(workers, digits[:3]).json() == first.json()

    def counted() -> tuple[float, float, float]:
        with workers.client() as client:
            return (
                metric(client, "vae_requests_total", route="/anomaly-score", status="200"),
                metric(client, "vae_batch_images_sum"),
                metric(client, "vae_model_info"),
            )

    assert {counted() for _ in range(8)} == {(20, 60, 1)}  # whichever worker is asked
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + HANG_S
    while len(after := children(workers.process.pid) - {killed}) < WORKERS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert before - after == {killed}
    for _ in range(10):
        assert ask(workers, digits[:3]).json() == first.json()  # waits where nobody listens yet
    assert {counted() for _ in range(8)} == {(30, 90, 1)}
    assert f"worker {killed} died (exit code -9)" in workers.log.read_text()


def test_connections_reach_all_workers(workers: Server) -> None:
    pids = children(workers.process.pid)
    port = address(workers)[1]
    clients = [httpx.Client(base_url=workers.url) for _ in range(40)]
    for client in clients:
        client.get("/livez")
    shown = subprocess.run(  # noqa: S603
        ["/usr/bin/env", "ss", "-tnpH", "state", "established", f"sport = :{port}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for client in clients:
        client.close()
    if shown.returncode:
        pytest.skip("no ss here")
    assert {int(pid) for pid in re.findall(r"pid=(\d+)", shown.stdout)} == pids


def test_a_stop_ends_all_and_frees_the_port(
    start_server: Callable[..., Server], digits: NDArray[np.uint8]
) -> None:
    server = start_server("--workers", str(WORKERS))
    pids = children(server.process.pid)
    ask(server, digits[:1])
    server.process.terminate()
    assert server.process.wait(HANG_S) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(address(server))


def test_a_parent_that_is_killed_takes_its_workers_along(
    start_server: Callable[..., Server],
) -> None:
    server = start_server("--workers", str(WORKERS))
    pids = children(server.process.pid)
    server.process.kill()
    server.process.wait(HANG_S)
    deadline = time.monotonic() + HANG_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_no_worker_can_start_with_is_one_clear_line(server: Server) -> None:
    done = run_service("--workers", "2", VAE_BUNDLE="nope")
    check_refused(done.returncode, done.stderr, "'nope'")
    port = str(address(server)[1])
    done = run_service("--workers", "2", "--port", port)
    check_refused(done.returncode, done.stderr, "port", port, "in use")
