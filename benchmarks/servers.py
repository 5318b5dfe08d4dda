"""Starts, checks and stops the service and the servers it is compared with.

::

    with running(SERVERS["litserve"]) as live:
        path, headers, body = live.server.request(images)
        before = live.cpu_seconds()

Each has the same network on one thread in one worker, so only the server differs. What is tuned in
each, and why, is described in its file in `benchmarks/peers/`. `python -m benchmarks.servers` tries
all of them, or those that are named.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.machine import pinned
from benchmarks.peers import environment
from benchmarks.peers.common import HOST
from benchmarks.peers.environment import ROOT, PeerError
from benchmarks.peers.sample import IMAGES, expected_scores, sample_images
from benchmarks.peers.table import SERVERS, Request, Server
from benchmarks.peers.tree import ProcessTree, uninterrupted

READY_S: Final = 120.0
"""From the start to the first right answer; Ray takes the longest."""

STOP_S: Final = 20.0
"""From SIGTERM until the server has exited; then SIGKILL."""

POLL_S: Final = 0.02

Check = Callable[[Server, int, int], None]
"""Sends a server at a port so many images. Raises `PeerError` unless the answer is right, and
`NoAnswerError` where there is none yet."""

TOLERANCE: Final = 1e-4
"""Relative, of a score: the last bits depend on numpy's version and on the batch size."""


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
    """Whether one could listen on the port."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def install(server: Server) -> None:
    """Make a peer's environment if it is missing or out of date. Raises `PeerError`."""
    if server.is_peer:
        environment.install(server.name)


def install_all(names: Iterable[str]) -> dict[str, str]:
    """Install servers before any is measured, as pip would take a core. Returns the failures."""
    broken = {}
    for name in names:
        try:
            install(SERVERS[name])
        except PeerError as error:
            broken[name] = str(error)
    return broken


@contextmanager
def running(
    server: Server,
    port: int | None = None,
    flags: Sequence[str] = (),
    *,
    root: Path = ROOT,
    cores: Collection[int] | None = None,
    check: Check | None = None,
) -> Iterator[Running]:
    """Start a server, wait until it answers correctly, and finally stop all of its processes.

    `flags` are added to its command line. `root` is the checkout that it is run from, and `cores`
    are the only ones that it may use. `check` replaces `check_scores`. Raises `PeerError`, with the
    end of its log, if it does not get ready, answers wrongly, ends by itself or leaves a process
    behind.
    """
    install(server)
    port = port or free_port()
    if not is_free(port):
        raise PeerError(f"{server.name} cannot be started: port {port} is taken")
    if check is None:
        check = check_scores
        expected_scores(server.score)  # before the clock runs
    command = server.command(port, flags)
    with tempfile.TemporaryDirectory(prefix="vae-", ignore_cleanup_errors=True) as scratch:
        log = Path(scratch, "log.txt")
        mark = {"VAE_BENCH_ID": uuid.uuid4().hex}
        # What a peer writes to its home or its temporary directory is removed with `scratch`.
        places = {"HOME": scratch, "TMPDIR": scratch} if server.is_peer else {}
        own = {
            name: value.format(scratch=scratch, spare_port=free_port())
            for name, value in server.environment.items()
        }
        # A peer has an environment of its own; this project's may be in part on the path.
        shared = "" if server.is_peer else os.environ.get("PYTHONPATH", "")
        path = os.pathsep.join(filter(None, (str(root), shared)))
        paths = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        # The service's settings are its flags alone, whatever is set where the benchmark runs.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("VAE_")}
        tree = live = None
        try:
            started = time.perf_counter()
            with (
                log.open("wb") as output,
                pinned(cores or os.sched_getaffinity(0)),
                uninterrupted(),
            ):
                process = subprocess.Popen(  # noqa: S603 - commands of the table
                    command,
                    cwd=root,
                    env=inherited | paths | places | own | mark,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                tree = ProcessTree(process, mark["VAE_BENCH_ID"])
            _wait_until_ready(server, port, process, log, check)
            ready_s = time.perf_counter() - started
            check(server, port, IMAGES)
            live = Running(server=server, pid=process.pid, port=port, ready_s=ready_s, _tree=tree)
            yield live
        finally:
            status = process.poll() if tree else None
            left = tree.stop(STOP_S) if tree else []
            if live and status is not None:
                raise PeerError(f"{server.name} ended by itself, status {status}: {_end_of(log)}")
            if left:
                raise PeerError(f"{server.name} left processes behind: {left}")
            if not is_free(port):
                raise PeerError(f"{server.name} has ended, but port {port} is still taken")


def check_scores(server: Server, port: int, count: int) -> None:
    """Send the first `count` of the sample images, and check the scores. Raises `PeerError`."""
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
    expected = expected_scores(server.score)[: 1 if server.fixed else count]
    try:
        scores = server.scores(answer)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise PeerError(f"{server.name} answers {answer[:200]!r}") from error
    if len(scores) != len(expected) or not np.allclose(scores, expected, rtol=TOLERANCE, atol=0):
        raise PeerError(
            f"{server.name} gives other scores: {scores[:3]}, not {expected[:3].tolist()}"
        )


class NoAnswerError(PeerError):
    """No answer, or one with another status than 200, as before the server is ready."""


def ask(connection: HTTPConnection, request: Request) -> tuple[int, bytes]:
    """Send a request. Returns status and body of the answer."""
    path, headers, body = request
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def _wait_until_ready(
    server: Server, port: int, process: subprocess.Popen[bytes], log: Path, check: Check
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


def main() -> int:
    """Start each server, check its scores, and print a line about it. Status 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(SERVERS)}; all of them by default"
    )
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(SERVERS)):
        parser.error(f"no such server: {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    failed = 0
    for name in names or SERVERS:
        server = SERVERS[name]
        try:
            with running(server) as live:
                figures = (
                    f"ready in {live.ready_s:.1f} s, "
                    f"{live.resident_bytes() / 2**20:.0f} MiB resident, "
                    f"{_median_ms(server, live.port):.2f} ms for one image, "
                    f"{live.cpu_seconds():.1f} s of processor time"
                )
            print(f"{name}: OK, {next(iter(server.versions.values()))}, {figures}")
        except PeerError as error:
            failed = 1
            print(f"{name}: FAILED, {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
