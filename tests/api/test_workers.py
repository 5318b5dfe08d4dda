"""Several processes on one port."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import PRETRAINED
from tests.api.helpers import HANG_S, uint8_body
from tests.processes import (
    Server,
    address,
    check_refused,
    children,
    handles,
    metric,
    run_service,
    running,
    wait_until,
)

WORKERS = 2

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="children are looked up in /proc"
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Server]:
    """Shared: a test that ends a worker waits until its successor serves."""
    with running("--workers", str(WORKERS)) as server:
        yield server
        server.process.terminate()
        assert server.process.wait(HANG_S) == 0


def in_memory(server: Server) -> int:
    """How many workers have been ready so far."""
    return server.log.read_text().count("is in memory")


def cpu_ticks(pid: int) -> int:
    """What a process has used so far, of its own and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def ask(server: Server, images: NDArray[np.uint8]) -> httpx.Response:
    """One request over a connection of its own, so that any worker may take it."""
    with server.client() as client:
        return client.post("/anomaly-score", json=uint8_body(images))


def test_metrics_add_up_over_workers_and_their_restarts(
    workers: Server, digits: NDArray[np.uint8]
) -> None:
    before, started = children(workers.process.pid), in_memory(workers)
    assert len(before) == WORKERS

    def counted() -> tuple[float, float, float]:
        with workers.client() as client:
            return (
                metric(client, "vae_requests_total", route="/anomaly-score", status="200"),
                metric(client, "vae_batch_images_sum"),
                metric(client, "vae_model_info"),
            )

    requests, images, _ = counted()
    first = ask(workers, digits[:3])
    for _ in range(19):
        assert ask(workers, digits[:3]).json() == first.json()
    expected = requests + 20, images + 60, 1
    assert {counted() for _ in range(8)} == {expected}, "whichever worker is asked"
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(children(workers.process.pid) - {killed}) == WORKERS)
    for _ in range(10):
        assert ask(workers, digits[:3]).json() == first.json()  # waits where nobody listens yet
    assert {counted() for _ in range(8)} == {(requests + 30, images + 90, 1)}
    assert f"worker {killed} died (exit code -9)" in workers.log.read_text()
    wait_until(lambda: in_memory(workers) > started)


def test_the_successor_of_a_worker_that_was_stopped_is_reached(workers: Server) -> None:
    """On its way out the worker closed the socket that is the successor's now."""
    stopped = min(children(workers.process.pid))
    started = in_memory(workers)
    os.kill(stopped, signal.SIGTERM)
    wait_until(lambda: in_memory(workers) > started)
    for _ in range(40):  # each goes to either of them by chance
        with socket.create_connection(address(workers), timeout=HANG_S) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.recv(65_536)


def test_the_parent_sleeps_after_a_reload(workers: Server) -> None:
    loaded = workers.log.read_text().count("was loaded")
    workers.process.send_signal(signal.SIGHUP)
    wait_until(lambda: workers.log.read_text().count("was loaded") >= loaded + WORKERS)
    before = cpu_ticks(workers.process.pid)
    time.sleep(1)
    assert cpu_ticks(workers.process.pid) - before < 0.2 * os.sysconf("SC_CLK_TCK")


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
    if shown.returncode or "pid=" not in shown.stdout:
        pytest.skip("ss is not here, or does not show whose sockets they are")
    assert {int(pid) for pid in re.findall(r"pid=(\d+)", shown.stdout)} == pids


def test_a_stop_ends_all_workers_and_frees_the_port(
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


def test_killing_the_parent_ends_the_workers(
    start_server: Callable[..., Server],
) -> None:
    server = start_server("--workers", str(WORKERS))
    pids = children(server.process.pid)
    server.process.kill()
    server.process.wait(HANG_S)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_setting_no_worker_can_start_with_gives_one_clear_line(server: Server) -> None:
    done = run_service("--workers", "2", VAE_BUNDLE="nope")
    check_refused(done.returncode, done.stderr, "'nope'")


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize("other", ["server", "workers"])
def test_a_port_in_use_gives_one_clear_line(
    other: str, count: str, request: pytest.FixtureRequest
) -> None:
    """By a service that shares it among its own workers, too."""
    port = str(address(request.getfixturevalue(other))[1])
    done = run_service("--workers", count, "--port", port)
    check_refused(done.returncode, done.stderr, "port", port, "in use")


@pytest.mark.slow
def test_a_worker_that_cannot_come_back_leaves_the_others(
    start_server: Callable[..., Server], tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    """The bundle is damaged while the service runs, and then one worker dies."""
    bundle = tmp_path / "mine"
    shutil.copytree(PRETRAINED / "mnist", bundle)
    server = start_server("--workers", str(WORKERS), "--bundle", str(bundle))
    weights = bundle / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    before = children(server.process.pid)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: "a worker cannot start" in server.log.read_text())
    assert max(before) in children(server.process.pid)
    weights.write_bytes(whole)
    wait_until(lambda: in_memory(server) == WORKERS + 1)
    wait_until(lambda: len(children(server.process.pid)) == WORKERS)
    assert ask(server, digits[:1]).status_code == 200
    server.process.terminate()
    assert server.process.wait(HANG_S) == 0


def test_a_stop_closes_the_port_while_answers_are_on_their_way(
    start_server: Callable[..., Server],
) -> None:
    server = start_server("--workers", str(WORKERS))
    with socket.create_connection(address(server), timeout=HANG_S) as busy:
        busy.sendall(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        time.sleep(0.1)
        server.process.terminate()

        def is_closed() -> bool:
            try:
                with socket.create_connection(address(server), timeout=HANG_S):
                    return False
            except ConnectionError:
                return True

        wait_until(is_closed)
        assert server.process.poll() is None  # it waits for the body that was announced
        busy.sendall(b"{}        ")
        assert b" 422 " in busy.recv(65_536)
    assert server.process.wait(HANG_S) == 0


@pytest.mark.parametrize("moment_s", [0.0, 0.3, 0.8])
def test_a_stop_during_startup(moment_s: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--workers", "2", "--port", "0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: handles(process.pid, signal.SIGTERM))
    time.sleep(moment_s)
    process.terminate()
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 0
    assert "Traceback" not in errors
