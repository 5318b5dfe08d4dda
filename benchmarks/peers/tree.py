"""All processes of a server: the resources they use, and how they are stopped.

Servers start helpers, and some of these are daemons in sessions of their own that outlive their
parent. They are recognized by a mark in their environment, by their parents and by their sessions.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import Final, NamedTuple

PROC: Final = Path("/proc")

TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")

POLL_S: Final = 0.05

HELPERS_S: Final = 3.0
"""For helpers to exit once the server itself has."""


SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that end a benchmark."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold `SIGNALS` back until the end of the block, so that a process started in it is known.

    Their Python handlers are replaced: blocking them would block them in the new process too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread runs handlers
        return
    pending: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        pending.append(number)

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for held in pending:
            signal.raise_signal(held)


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that are used; see proc_pid_stat(5)."""

    pid: int
    parent: int
    session: int
    ended: bool
    ticks: int
    """Of processor time, its own and that of children that it waited for."""
    started: int


class ProcessTree:
    """A process and all that descend from it. `mark` is text that only its environment contains."""

    def __init__(self, root: Popen[bytes], mark: str) -> None:
        self._root = root
        self._mark = mark.encode()
        self._seen: dict[int, int] = {}
        """The start time of each process seen, as process ids are reused."""
        self._sessions = {root.pid}
        """Sessions that belong to the server; the root process was started in a new one."""

    def pids(self) -> list[int]:
        """The ids of the processes that are alive."""
        return sorted(stat.pid for stat in self._find())

    def cpu_seconds(self) -> float:
        """Processor time, user and system, of live processes and of children they waited for."""
        return sum(stat.ticks for stat in self._find()) / TICKS_A_SECOND

    def resident_bytes(self) -> int:
        """Memory as proportional set size: pages that several processes share are counted once."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):  # it may have just ended
                text = (PROC / str(pid) / "smaps_rollup").read_text()
                if pss := re.search(r"^Pss:\s*(\d+) kB", text, re.MULTILINE):
                    total += int(pss[1]) * 1024
        return total

    def stop(self, timeout_s: float) -> list[int]:
        """Send SIGTERM to the server, then SIGKILL to the rest. Returns the ids of survivors."""
        self._find()  # some are recognized by their parents alone, which are about to end
        with suppress(ProcessLookupError):
            os.killpg(self._root.pid, signal.SIGTERM)
        self._wait(timeout_s, root_only=True)
        self._wait(HELPERS_S)
        for _ in range(3):  # one may be started between the search and the kill
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._wait(HELPERS_S)
        return self.pids()

    def _wait(self, timeout_s: float, *, root_only: bool = False) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self._root.poll() is not None and (root_only or not self._find()):
                return
            time.sleep(POLL_S)

    def _find(self) -> list[Stat]:
        living = [stat for stat in map(_stat, _all_pids()) if stat and not stat.ended]
        pids = {stat.pid for stat in living if self._is_known(stat) or self._is_marked(stat.pid)}
        while more := {
            stat.pid
            for stat in living
            if stat.pid not in pids and (stat.parent in pids or stat.session in self._sessions)
        }:
            pids |= more
        members = [stat for stat in living if stat.pid in pids]
        self._seen |= {stat.pid: stat.started for stat in members}
        self._sessions |= {stat.session for stat in members} - {os.getsid(0)}
        return members

    def _is_known(self, stat: Stat) -> bool:
        return self._seen.get(stat.pid) == stat.started

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in (PROC / str(pid) / "environ").read_bytes()
        except OSError:  # it ended, or belongs to another user
            return False


def _all_pids() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def _stat(pid: int) -> Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may contain spaces
    return Stat(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        ended=fields[0] in "ZX",
        ticks=sum(map(int, fields[11:15])),
        started=int(fields[19]),
    )
