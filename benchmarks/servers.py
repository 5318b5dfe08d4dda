"""The service and the servers it is compared with: installed, started, checked and stopped.

::

    with running(SERVERS["litserve"]) as live:
        path, headers, body = live.server.request(images)
        before = live.cpu_seconds()

All hold the same network on one thread in one worker, so that only the server differs; what is
tuned in each, and why, is said in its file in `benchmarks/peers/`. `python -m benchmarks.servers`
tries all of them, or those that are named.
"""

from __future__ import annotations

import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.peers import environment
from benchmarks.peers.common import HOST
from benchmarks.peers.environment import ROOT, PeerError
from benchmarks.peers.sample import IMAGES, expected_scores, sample_images
from benchmarks.peers.table import SERVERS, Request, Server
from benchmarks.peers.tree import ProcessTree

READY_S: Final = 120.0
"""From the start to the first right answer; Ray takes the longest."""

STOP_S: Final = 20.0
"""From SIGTERM to the end of the process that was started; after it, SIGKILL."""

POLL_S: Final = 0.02

TOLERANCE: Final = 1e-4
"""Of a score, relative: another numpy or batch size changes the last bits."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers. `ready_s` is from its start to its first right answer."""

    server: Server
    pid: int
    port: int
    ready_s: float
    _tree: ProcessTree

    def cpu_seconds(self) -> float:
        """Processor time, user and system, of all its processes since they were started."""
        return self._tree.cpu_seconds()

    def resident_bytes(self) -> int:
        """Memory of all its processes; what they share is counted once."""
        return self._tree.resident_bytes()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether one could listen on it."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def install(server: Server) -> None:
    """Make a peer's environment if it is missing or out of date. Raises `PeerError`."""
    if server.is_peer:
        environment.install(server.name)


@contextmanager
def running(
    server: Server, port: int | None = None, flags: Sequence[str] = ()
) -> Iterator[Running]:
    """Start it, wait until it answers rightly, and stop it and all that it started.

    `flags` are added to its command line. Raises `PeerError` with the end of its log if it does not
    get ready, answers wrongly, or leaves something behind.
    """
    install(server)
    port = port or free_port()
    if not is_free(port):
        raise PeerError(f"{server.name} cannot be started: port {port} is taken")
    expected_scores(server.score)  # before the clock runs
    command = server.command(port, flags)
    with tempfile.TemporaryDirectory(prefix="vae-", ignore_cleanup_errors=True) as scratch:
        log = Path(scratch, "log.txt")
        mark = {"VAE_BENCH_ID": uuid.uuid4().hex}
        # What a server writes on its way stays where it is removed with it.
        places = {"HOME": scratch, "TMPDIR": scratch} if server.is_peer else {}
        own = {
            name: value.format(scratch=scratch, spare_port=free_port())
            for name, value in server.environment.items()
        }
        paths = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        started = time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - commands of the table
                command,
                cwd=ROOT,
                env=os.environ | paths | places | own | mark,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        tree = ProcessTree(process, mark["VAE_BENCH_ID"])
        live = None
        try:
            _wait_until_ready(server, port, process, log)
            ready_s = time.perf_counter() - started
            check(server, port, IMAGES)
            live = Running(server=server, pid=process.pid, port=port, ready_s=ready_s, _tree=tree)
            yield live
        finally:
            status = process.poll()
            left = tree.stop(STOP_S)
            if live and status is not None:
                raise PeerError(f"{server.name} ended by itself, status {status}: {_end_of(log)}")
            if left:
                raise PeerError(f"{server.name} left processes behind: {left}")
            if not is_free(port):
                raise PeerError(f"{server.name} has ended, and port {port} is taken still")


def check(server: Server, port: int, count: int) -> None:
    """Send the first `count` of the images, and compare. Raises `PeerError`."""
    images = sample_images()[:count]
    connection = HTTPConnection(HOST, port, timeout=30)
    try:
        status, answer = ask(connection, server.request(images))
    except (OSError, HTTPException) as error:
        raise NoAnswerError(f"{server.name} does not answer: {error}") from error
    finally:
        connection.close()
    if status != 200:
        raise NoAnswerError(f"{server.name} answers with {status}: {answer[:200]!r}")
    right = expected_scores(server.score)[: 1 if server.fixed else count]
    try:
        given = server.scores(answer)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise PeerError(f"{server.name} answers {answer[:200]!r}") from error
    if len(given) != len(right) or not np.allclose(given, right, rtol=TOLERANCE, atol=0):
        raise PeerError(f"{server.name} gives other scores: {given[:3]}, not {right[:3].tolist()}")


class NoAnswerError(PeerError):
    """It answers not at all, or not with 200, as before it is ready."""


def ask(connection: HTTPConnection, request: Request) -> tuple[int, bytes]:
    """Status and body of the answer."""
    path, headers, body = request
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _wait_until_ready(
    server: Server, port: int, process: subprocess.Popen[bytes], log: Path
) -> None:
    end = time.monotonic() + READY_S
    reason = ""
    while time.monotonic() < end:
        if process.poll() is not None:
            raise PeerError(f"{server.name} ended, status {process.returncode}: {_end_of(log)}")
        try:
            return check(server, port, 1)
        except NoAnswerError as error:
            reason = str(error)
            time.sleep(POLL_S)
    raise PeerError(f"{reason}, even after {READY_S:.0f} s: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return environment.last_lines(log.read_text(errors="replace"), 2)


def _median_ms(server: Server, port: int, requests: int = 20) -> float:
    connection = HTTPConnection(HOST, port, timeout=30)
    request = server.request(sample_images()[:1])
    times = []
    for _ in range(requests):
        started = time.perf_counter()
        status, _ = ask(connection, request)
        times.append(time.perf_counter() - started if status == 200 else math.inf)
    connection.close()
    return statistics.median(times) * 1e3


def main(names: Sequence[str]) -> int:
    """Try each; a line for each. Returns the exit status, 1 if one failed."""
    failed = 0
    for server in [SERVERS[name] for name in names] or SERVERS.values():
        try:
            with running(server) as live:
                told = (
                    f"ready in {live.ready_s:.1f} s, "
                    f"{live.resident_bytes() / 2**20:.0f} MiB resident, "
                    f"{_median_ms(server, live.port):.2f} ms for one image, "
                    f"{live.cpu_seconds():.1f} s of processor time"
                )
            print(f"{server.name}: OK, {next(iter(server.versions.values()))}, {told}")
        except PeerError as error:
            failed = 1
            print(f"{server.name}: FAILED, {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
