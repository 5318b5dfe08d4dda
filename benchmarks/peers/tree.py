"""A server's processes, all of them: what they use, and their end.

Servers start helpers, some of them daemons in sessions of their own that outlive whoever started
them. They are found by a mark in their environment, by their parents and by their sessions.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Final, NamedTuple

PROC: Final = Path("/proc")

TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")

POLL_S: Final = 0.05

HELPERS_S: Final = 3.0
"""For helpers to follow once the server itself has ended."""


class Stat(NamedTuple):
    """What is used of a line of /proc/PID/stat, see proc_pid_stat(5)."""

    pid: int
    parent: int
    session: int
    ended: bool
    ticks: int
    """Of processor time, and of the children that have ended and were waited for."""
    started: int


class ProcessTree:
    """The processes that came from one. `mark` is a piece of its environment that no other has."""

    def __init__(self, root: Popen[bytes], mark: str) -> None:
        self._root = root
        self._mark = mark.encode()
        self._seen: dict[int, int] = {}
        """When each process that was found was started, as process ids are used again."""
        self._sessions = {root.pid}
        """Theirs alone: the first was started in one of its own."""

    def pids(self) -> list[int]:
        """Those that live now."""
        return sorted(stat.pid for stat in self._find())

    def cpu_seconds(self) -> float:
        """Processor time, user and system, of those that live and the children they waited for."""
        return sum(stat.ticks for stat in self._find()) / TICKS_A_SECOND

    def resident_bytes(self) -> int:
        """Memory. Pages that several share are counted once, a share to each (PSS)."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):  # it may have ended just now
                text = (PROC / str(pid) / "smaps_rollup").read_text()
                if found := re.search(r"^Pss:\s*(\d+) kB", text, re.MULTILINE):
                    total += int(found[1]) * 1024
        return total

    def stop(self, timeout_s: float) -> list[int]:
        """SIGTERM, and SIGKILL for whoever still lives then. Returns those that outlive that."""
        self._find()  # whom only parents lead to cannot be found once these have ended
        with suppress(ProcessLookupError):
            os.killpg(self._root.pid, signal.SIGTERM)
        self._wait(timeout_s, root_only=True)
        self._wait(HELPERS_S)
        for _ in range(3):  # a process may have been started between look and kill
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
        found = {stat.pid for stat in living if self._is_known(stat) or self._is_marked(stat.pid)}
        while more := {
            stat.pid
            for stat in living
            if stat.pid not in found and (stat.parent in found or stat.session in self._sessions)
        }:
            found |= more
        members = [stat for stat in living if stat.pid in found]
        self._seen |= {stat.pid: stat.started for stat in members}
        self._sessions |= {stat.session for stat in members} - {os.getsid(0)}
        return members

    def _is_known(self, stat: Stat) -> bool:
        return self._seen.get(stat.pid) == stat.started

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in (PROC / str(pid) / "environ").read_bytes()
        except OSError:  # it ended, or is someone else's
            return False


def _all_pids() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def _stat(pid: int) -> Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks
    return Stat(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        ended=fields[0] in "ZX",
        ticks=sum(map(int, fields[11:15])),
        started=int(fields[19]),
    )
