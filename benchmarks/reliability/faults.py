"""Faults of the machine: a full or read-only disk, closed streams, a jumping clock.

Each fault affects only the processes of the service. Those of disks and shared memory are produced
in a mount namespace, which needs root. Faults that cannot be produced here are skipped and
reported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.common import PIXELS
from benchmarks.reliability.caller import Answer
from benchmarks.reliability.crowd import Crowd
from benchmarks.reliability.harness import (
    Figures,
    Promise,
    pixels,
    raw,
    run,
    service,
    tell,
    told,
    wait_for,
)
from model.bundle.bundle import find_bundle, load_bundle
from model.engine.engine import Engine

REQUESTS: Final = 200

CLIENTS: Final = 4

ANSWER_S: Final = 30.0
"""Longest wait for the answers to `REQUESTS` requests."""

PATHS: Final = ("/livez", "/readyz", "/metrics", "/model", "/sample?n=4&seed=7", "/openapi.json")

FULL_BYTES: Final = 64 * 1024
"""Size of the full disk."""


@dataclass(frozen=True)
class Fault:
    """How the service is started under the fault."""

    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    log: Path | None = None


class Tried(NamedTuple):
    """A fault, a number of workers, and the outcome."""

    what: str
    promise: Promise | None
    left_out: str
    """Why the fault could not be produced."""


class CannotError(Exception):
    """The fault cannot be produced here."""


def in_own_mounts(script: str) -> tuple[str, ...]:
    """A command prefix that runs the script in a new mount namespace, then the command."""
    if os.geteuid() or not shutil.which("unshare"):
        raise CannotError("only root can mount")
    words = ("unshare", "-m", "sh", "-ec", f'{script}; exec "$@"', "sh")
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:  # noqa: S603
        raise CannotError("mounting is not allowed here")
    return words


@contextmanager
def full_disk(scratch: Path) -> Iterator[Fault]:
    """The temporary directory, the log file and shared memory are on a full disk."""
    in_own_mounts("true")
    disk = scratch / "full"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "full", str(disk)]
    subprocess.run(mount, check=True)  # noqa: S603 - a directory of our own
    try:
        log = disk / "log"
        log.touch()
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:  # until the disk is full
                file.write(bytes(1024))
        inside = in_own_mounts(f"mount --bind '{disk}' /dev/shm")
        yield Fault(inside, {"TMPDIR": str(disk)}, log)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # noqa: S603, S607 - as above


@contextmanager
def read_only(_: Path) -> Iterator[Fault]:
    """Only shared memory is writable."""
    tmp = "if mountpoint -q /tmp; then mount -o remount,bind,ro /tmp; fi"
    yield Fault(in_own_mounts(f"mount -o remount,bind,ro /; {tmp}"))


@contextmanager
def closed_streams(_: Path) -> Iterator[Fault]:
    """Standard input, output and error are closed."""
    yield Fault(("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))


@contextmanager
def mad_clock(scratch: Path) -> Iterator[Fault]:
    """The time of day jumps by two days every second."""
    library = scratch / "jumping_clock.so"
    if not shutil.which("cc"):
        raise CannotError("there is no C compiler")
    source = Path(__file__).with_name("jumping_clock.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)  # noqa: S603 - our own file
    yield Fault(environment={"LD_PRELOAD": str(library)})


@contextmanager
def no_shared_memory(_: Path) -> Iterator[Fault]:
    """Shared memory is not writable."""
    yield Fault(in_own_mounts("mount -t tmpfs -o ro none /dev/shm"))


FAULTS: Final[dict[str, Callable[[Path], AbstractContextManager[Fault]]]] = {
    "a full disk": full_disk,
    "a read-only file system": read_only,
    "closed standard streams": closed_streams,
    "a clock that jumps by days": mad_clock,
    "no /dev/shm": no_shared_memory,
}


def serve_with(fault: Fault, workers: int, expected: NDArray[Any]) -> tuple[list[str], int]:
    """Serve under the fault. Returns the errors and the number of right answers."""

    def check(answer: Answer) -> str | None:
        if answer.status != 200:
            return f"{answer.status} {answer.body[:200]!r}"
        scores = json.loads(answer.body)["score"]
        return None if np.allclose(scores, expected, 1e-4) else f"scores {scores}"

    with service(
        *("--workers", str(workers)),
        quiet=True,
        prefix=fault.prefix,
        environment=fault.environment,
        log=fault.log,
    ) as live:
        statuses = {path: live.get(path).status for path in PATHS}
        errors = [f"{path}: status {got}" for path, got in statuses.items() if got != 200]
        with Crowd(live.port, raw(1), clients=CLIENTS, check=check) as crowd:
            wait_for(lambda: len(crowd.answers) >= REQUESTS or bool(crowd.failures), ANSWER_S)
        status, _ = live.stop()
    errors += [failure.what for failure in crowd.failures]
    if status:
        errors.append(f"exit status {status}")
    return errors, len(crowd.answers) - len(crowd.failures)


def try_one(name: str, workers: int, expected: NDArray[Any]) -> Tried:
    what = f"{name}, {workers} worker{'s' * (workers > 1)}"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vae-fault-") as scratch,
            FAULTS[name](Path(scratch)) as fault,
        ):
            errors, answered = serve_with(fault, workers, expected)
    except CannotError as error:
        tell(f"{what}: skipped, {error}")
        return Tried(what, None, str(error))
    except (RuntimeError, OSError, HTTPException) as error:
        errors, answered = [f"{type(error).__name__}: {error}"], 0
    promise = Promise(
        what=f"{what}: the service starts, serves and stops",
        goal=f"≥ {REQUESTS} right answers",
        measured=", ".join([f"{answered} right answers", *errors[:1]]),
        reached=not errors and answered >= REQUESTS,
    )
    tell(f"{what}: {promise.measured}")
    return Tried(what, promise, "")


def measure(*, short: bool) -> Figures:
    """Try two faults at a time, as most of the time is startup."""
    image = np.frombuffer(pixels(), np.uint8)[:PIXELS].reshape(1, -1)
    expected = Engine(load_bundle(find_bundle("mnist")), device="cpu", threads=1).score(image).score
    chosen = [
        (name, workers)
        for number, name in enumerate(FAULTS)
        for workers in ((1 + number % 2,) if short else (1, 2))
    ]
    with ThreadPoolExecutor(2) as threads:
        tried = list(threads.map(lambda one: try_one(one[0], one[1], expected), chosen))
    return told(
        [one.promise for one in tried if one.promise],
        left_out={one.what: one.left_out for one in tried if one.left_out},
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
