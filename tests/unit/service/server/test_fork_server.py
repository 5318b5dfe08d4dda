"""The fork server alone, with workers that do nothing but report what they are."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from service.server import fork_server, processes
from service.server.fork_server import ForkServer, RunWorker
from service.server.processes import HELD_SIGNALS, ForkedProcess, adopt_orphans
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a fork server")

HANG_S = 20

STAYS = 0
"""The slot of a worker that does not end by itself."""


def report(slot: int, startup_pipe: Connection) -> None:
    """A worker that ends with its slot as its exit status."""
    processes.set_name("vae-worker")
    processes.end_with_parent(signal.SIGKILL)  # nothing stays behind when a test fails
    parent = parent_process()
    startup_pipe.send(
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "parent_process": parent and parent.pid,
            "threads": len(list(Path("/proc/self/task").iterdir())),
            "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
            "random": random.getrandbits(64),
            "frozen": gc.get_freeze_count(),
            "has_torch": "torch" in sys.modules,
            "sockets": sum("socket:" in str(fd.readlink()) for fd in open_files()),
        }
    )
    if slot == STAYS:
        signal.sigwait({signal.SIGTERM})
    sys.exit(slot)


def open_files() -> Iterator[Path]:
    return (fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


class FailingForks:
    """`report`, in a fork server in which the n-th call of `os.fork` fails."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> tuple[Callable[[int], RunWorker], tuple[int]]:
        return fail_fork, (self.n,)

    def __call__(self, slot: int, startup_pipe: Connection) -> None:
        """Never called: it is pickled."""


def fail_fork(n: int) -> RunWorker:
    fork, calls = os.fork, iter(range(1, 100))

    def failing() -> int:
        if next(calls) == n:
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        return fork()

    os.fork = failing
    return report


@contextmanager
def forking(run_worker: RunWorker) -> Iterator[ForkServer]:
    """A fork server that is ready."""
    server = ForkServer(run_worker)
    try:
        wait_until(lambda: is_ready(server))
        yield server
    finally:
        server.close()


def is_ready(server: ForkServer) -> bool:
    assert server.poll() is None
    return server.is_ready


@pytest.fixture(scope="module", autouse=True)
def _adopting() -> Iterator[None]:
    assert adopt_orphans()
    yield
    processes._prctl(processes.PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """Shared: a test that ends it waits until it is ready again."""
    with forking(report) as server:
        yield server


def start(server: ForkServer, slot: int) -> tuple[ForkedProcess, dict[str, Any]]:
    """A worker, and what it reports."""
    ours, theirs = Pipe(duplex=False)
    with ours:
        with theirs:
            process = server.start_worker(slot, theirs)
        assert process
        assert ours.poll(HANG_S)
        return process, ours.recv()


def pid_of(server: ForkServer) -> int:
    assert server._process
    assert server._process.pid
    return server._process.pid


def test_a_worker_is_a_child_of_this_process(server: ForkServer) -> None:
    process, facts = start(server, STAYS)
    assert facts["pid"] == process.pid
    assert facts["parent"] == facts["parent_process"] == os.getpid()
    assert process.is_alive()
    process.kill()
    wait_until(lambda: not process.is_alive())
    assert process.exitcode == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists(), "it was reaped"


def test_a_worker_s_exit_status_arrives(server: ForkServer) -> None:
    process, _ = start(server, 7)
    wait_until(lambda: not process.is_alive())
    assert process.exitcode == 7


def test_a_worker_begins_with_everything_imported_and_nothing_running(server: ForkServer) -> None:
    process, facts = start(server, 1)
    wait_until(lambda: not process.is_alive())
    assert facts["has_torch"]
    assert facts["frozen"] > 100_000
    assert facts["threads"] == 1
    assert facts["blocked"] == set(HELD_SIGNALS)
    assert facts["sockets"] == 0, "it has no connection to the fork server's parent"


def test_workers_draw_different_random_numbers(server: ForkServer) -> None:
    assert len({start(server, 1)[1]["random"] for _ in range(3)}) == 3


def test_signals_do_not_end_the_fork_server(server: ForkServer) -> None:
    for number in HELD_SIGNALS:
        os.kill(pid_of(server), number)
    start(server, 1)


def test_nor_while_it_starts() -> None:
    server = ForkServer(report)
    try:
        server.poll()
        for _ in range(50):
            for number in HELD_SIGNALS:
                os.kill(pid_of(server), number)
            time.sleep(0.01)
        wait_until(lambda: is_ready(server))
    finally:
        server.close()


def test_a_fork_server_that_dies_is_replaced_and_its_workers_stay(server: ForkServer) -> None:
    stays, _ = start(server, STAYS)
    os.kill(pid_of(server), signal.SIGKILL)
    ours, theirs = Pipe(duplex=False)
    with ours, theirs:
        assert server.start_worker(1, theirs) is None
    assert not server.is_ready
    wait_until(lambda: is_ready(server))
    assert start(server, 1)[1]["parent"] == os.getpid()
    assert stays.is_alive()
    stays.terminate()
    wait_until(lambda: not stays.is_alive())


def test_its_death_is_noticed_between_two_starts(server: ForkServer) -> None:
    os.kill(pid_of(server), signal.SIGKILL)
    wait_until(lambda: server.poll() is None and not server.is_ready)
    wait_until(lambda: is_ready(server))


def test_a_fork_server_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "REPLY_TIMEOUT_S", 0.2)
    with forking(report) as server:
        hangs = pid_of(server)
        os.kill(hangs, signal.SIGSTOP)
        ours, theirs = Pipe(duplex=False)
        with ours, theirs:
            assert server.start_worker(1, theirs) is None
        assert not Path(f"/proc/{hangs}").exists()
        monkeypatch.undo()
        wait_until(lambda: is_ready(server))
        start(server, 1)


@pytest.mark.parametrize("n", [1, 2])
def test_a_fork_that_fails_is_reported(n: int) -> None:
    """Of the fork server, and of the process that it forks first."""
    with forking(FailingForks(n)) as server:
        pid = pid_of(server)
        ours, theirs = Pipe(duplex=False)
        with ours, theirs, pytest.raises(OSError, match="unavailable") as failed:
            server.start_worker(1, theirs)
        assert failed.value.errno == errno.EAGAIN
        assert server.is_ready
        assert pid_of(server) == pid


def test_a_fork_server_that_cannot_start_says_so() -> None:
    server = ForkServer(Unreadable())
    reasons: list[str] = []

    def has_failed() -> bool:
        reasons.extend(filter(None, [server.poll()]))
        return bool(reasons)

    wait_until(has_failed)
    assert reasons == ["the fork server could not start (exit code 1)"]
    assert server.wait_s, "the next start is delayed"
    server.close()


class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return int, ("not a number",)

    def __call__(self, slot: int, startup_pipe: Connection) -> None:
        """Never called: it is pickled."""
