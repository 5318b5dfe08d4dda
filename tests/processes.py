"""The service as a process: starting it, talking to it, looking at it from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
POLL_S = 0.02


@dataclass(frozen=True)
class Server:
    """A running service."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)


def restore_interrupts() -> None:
    """Undo an ignored SIGINT, which every child would inherit.

    A shell ignores it for what it starts in the background, and `trap '' INT` does. Python then
    installs no handler of its own, and a service that is started from here would not hear Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def start(log: Path, *flags: str) -> Server:
    """`python -m service` on a free port, ready, with its standard error in `log`."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "service", "--port", "0", *flags], stderr=stderr
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if "running on http" in line:
                return Server(line.split("running on ")[1].split()[0], process, log)
        time.sleep(POLL_S)
    process.kill()
    process.wait()
    raise AssertionError(f"the service did not start: {log.read_text()}")


@contextmanager
def running(*flags: str) -> Iterator[Server]:
    """A service for the block."""
    with tempfile.TemporaryDirectory(prefix="vae-test-") as directory:
        server = start(Path(directory, "log"), *flags)
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait(STOP_TIMEOUT_S)


def address(server: Server) -> tuple[str, int]:
    """Host and port."""
    url = httpx.URL(server.url)
    assert url.port is not None
    return url.host, url.port


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def run_service(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m service` until it ends by itself, on a free port unless `flags` name one."""
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "service", "--port", "0", *flags],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )


def check_refused(status: int, stderr: str, *mentioned: str) -> None:
    """Status 2, and one line that has all of `mentioned`."""
    assert status == 2
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.startswith("error: ")
    for word in mentioned:
        assert word in stderr


def start_and_fail(*flags: str, **environment: str) -> str:
    """The one line of a service that refuses to start."""
    done = run_service(*flags, **environment)
    assert done.returncode == 2, done.stderr
    (reason,) = done.stderr.splitlines()
    return reason


def children(pid: int, name: str = "vae-worker") -> set[int]:
    """The live children of a process that have this name: by default, the workers of a service."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # it ended meanwhile
        before, _, after = text.rpartition(")")
        state, parent = after.split()[:2]
        if int(parent) == pid and state != "Z" and before.partition("(")[2] == name:
            found.add(int(stat.parent.name))
    return found


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Return when it holds; fail where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
