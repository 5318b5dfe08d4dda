"""Shared by all scripts: the running service, promises and figures, the exit status.

Run a script as `python -m benchmarks.reliability.NAME`. With `--short`, it takes seconds instead of
minutes. It prints its figures as JSON on the last line, and exits with status 1 if a promise is
broken.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.peers.common import HOST, PIXELS
from benchmarks.peers.environment import ROOT
from benchmarks.peers.table import Request
from benchmarks.reliability.caller import ANSWER_TIMEOUT_S, Answer, Caller
from benchmarks.reliability.running import Running
from benchmarks.servers import free_port

START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 30
POLL_S: Final = 0.01

RAW: Final = {"Content-Type": "application/octet-stream"}

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A row of the reliability table."""

    what: str
    goal: str
    measured: str
    reached: bool


def at_most(what: str, figure: float, limit: float, unit: str = "", digits: int = 1) -> Promise:
    """A promise that is kept if `figure` ≤ `limit`. NaN breaks it."""
    shown = f"{figure:,.{digits}f}{unit}"
    return Promise(what=what, goal=f"≤ {limit:g}{unit}", measured=shown, reached=figure <= limit)


def at_least(what: str, figure: float, limit: float, unit: str = "", digits: int = 2) -> Promise:
    """A promise that is kept if `figure` ≥ `limit`. NaN breaks it."""
    shown = f"{figure:,.{digits}f}{unit}"
    return Promise(what=what, goal=f"≥ {limit:g}{unit}", measured=shown, reached=figure >= limit)


def equals(what: str, figure: object, goal: object) -> Promise:
    """A promise that is kept if `figure` equals `goal`."""
    return Promise(what=what, goal=str(goal), measured=str(figure), reached=figure == goal)


def told(promises: Sequence[Promise], **figures: object) -> Figures:
    """The return value of `measure`: its promises and other figures."""
    return {"promises": [asdict(promise) for promise in promises], **figures}


def broken(figures: Figures) -> list[Mapping[str, Any]]:
    """The promises that were broken."""
    return [promise for promise in figures["promises"] if not promise["reached"]]


def run(measure: Callable[..., Figures], description: str | None) -> int:
    """The `main` function of a script. Returns the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--short", action="store_true", help="seconds, as in `make test-all`")
    figures = measure(short=parser.parse_args().short)
    for promise in figures["promises"]:
        mark = "kept  " if promise["reached"] else "BROKEN"
        print(f"{mark}  {promise['what']}: {promise['measured']} (goal: {promise['goal']})")
    print(json.dumps(figures, ensure_ascii=False))
    return 1 if broken(figures) else 0


def tell(line: str) -> None:
    """Report progress."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Service(Running):
    """A service started by `service`. Its output is in the file `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    def caller(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Caller:
        return Caller(self.port, timeout_s)

    def get(self, path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Send a GET request over a new connection. Raises `OSError` or `HTTPException`."""
        with self.caller(timeout_s) as caller:
            return caller.get(path)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples with these labels."""
        text = self.get("/metrics").body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def workers(self) -> set[int]:
        """Process ids of the workers, or of the service itself if it has none."""
        pids = {pid for pid in _children(self.pid) if _name(pid) == "vae-worker"}
        return pids or {self.pid}

    def open_files(self) -> int:
        """Number of open file descriptors of all serving processes."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.workers())

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM. Returns the exit status and the seconds until the process ended."""
        began = time.monotonic()
        self.process.terminate()
        return self.process.wait(STOP_TIMEOUT_S), time.monotonic() - began


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip()
    except OSError:
        return ""


@contextmanager
def service(
    *flags: str,
    apart: bool = False,
    quiet: bool = False,
    module: str = "service",
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Service]:
    """Run `python -m service` on a free port while the block runs, and end all its processes.

    The block begins when the service is ready. With `apart`, the service does not use the last
    core, and the calling thread and all that it starts use only that core. With `quiet`, the
    service logs only warnings, so its readiness is polled over HTTP instead of read from the log.
    `prefix` goes before the command, which it must start by exec.
    """
    cores = os.sched_getaffinity(0)
    last = {max(cores)} if apart and len(cores) > 1 else cores
    with tempfile.TemporaryDirectory(prefix="vae-load-", ignore_cleanup_errors=True) as scratch:
        log = log or Path(scratch, "log")
        port = free_port() if quiet else 0
        words = ["--log-level", "warning"] if quiet else []
        command = [*prefix, sys.executable, "-m", module, "--port", str(port), *words, *flags]
        os.sched_setaffinity(0, cores - last or cores)  # inherited by the new process
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command, cwd=ROOT, env=os.environ | (environment or {}), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        os.sched_setaffinity(0, last)
        try:
            port = _wait_until_ready(process, port, log)
            yield Service(HOST, port, process.pid, process, log)
        finally:
            end(process)
            os.sched_setaffinity(0, cores)


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process, then kill its whole session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> int:
    """Wait until the service is ready. Returns its port."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if port:
            with suppress(OSError, HTTPException), Caller(port, 5) as caller:
                if caller.get("/readyz").status == 200:
                    return port
        elif match := re.search(r"running on http://[\d.]+:(\d+)", log.read_text()):
            return int(match[1])
        time.sleep(POLL_S)
    tail = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise RuntimeError(f"the service did not start, status {process.poll()}: {' | '.join(tail)}")


def wait_for(condition: Callable[[], bool], timeout_s: float) -> float | None:
    """Seconds until `condition` holds, or None if it does not within `timeout_s`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            return None
        time.sleep(POLL_S)
    return time.monotonic() - began


def is_held(port: int, connection: socket.socket) -> bool:
    """Whether the server on this port of 127.0.0.1 still has its end of the connection open."""
    ends = f":{port:04X}", f":{connection.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *_, inode = line.split()[:10]
        if (local[-5:], remote[-5:]) == ends:
            return inode != "0"
    return False


@cache
def pixels() -> bytes:
    """4,096 images drawn by the network, 784 bytes each."""
    from benchmarks.workloads import bulk_pixels

    return bulk_pixels().tobytes() * 4


def raw(images: int, path: str = "/anomaly-score", **headers: str) -> Request:
    """A request with this many images, as raw bytes."""
    return path, RAW | headers, pixels()[: images * PIXELS]
