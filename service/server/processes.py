"""Child processes, and what ties them to their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any, Final, Protocol

SPAWN: Final = get_context("spawn")
"""A fork would copy locks that are held by threads which it does not copy."""

HELD_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Blocked in a new process until it handles them as it should. A terminal sends Ctrl-C to all of
its processes, and would end one that is still starting with a traceback."""

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
"""From Linux's <linux/prctl.h>."""


class ChildProcess(Protocol):
    """What is needed of `multiprocessing.Process`, and what `ForkedProcess` has too."""

    @property
    def pid(self) -> int | None:
        """The process id."""

    @property
    def exitcode(self) -> int | None:
        """The exit status, or the negative number of the signal that ended it; None if alive."""

    def is_alive(self) -> bool:
        """Whether it has not ended. Reaps it if it has."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


class ForkedProcess:
    """A child of this process that another process has forked: see `adopt_orphans`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exitcode: int | None = None

    def is_alive(self) -> bool:
        """Whether it has not ended. Reaps it if it has."""
        if self.exitcode is None:
            with suppress(ChildProcessError):  # its first parent has not ended yet
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.exitcode = os.waitstatus_to_exitcode(status)
        return self.exitcode is None

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.is_alive():  # otherwise the id may belong to another process by now
            os.kill(self.pid, number)


def spawn(target: Callable[..., None], *args: Any) -> SpawnProcess:
    """Run `target(*args)` in a new interpreter, with `HELD_SIGNALS` blocked."""
    process = SPAWN.Process(target=target, args=args)
    resource_tracker.ensure_running()  # `start` would do it, and then unblock the signals
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return process


def end_with_parent(number: signal.Signals) -> bool:
    """Have Linux send `number` to this process when its parent ends. False if it has ended."""
    _prctl(PR_SET_PDEATHSIG, number)
    parent = parent_process()
    return parent is not None and os.getppid() == parent.pid


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent ends. False where that is not possible."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """Set the name that `top` and `ps -o comm` show, of up to 15 characters, where possible."""
    _prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: Any) -> bool:
    """Call prctl(2). Returns whether that succeeded."""
    if sys.platform != "linux":
        return False
    return not ctypes.CDLL(None).prctl(option, argument)
