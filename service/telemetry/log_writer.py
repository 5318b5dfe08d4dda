"""Log lines on their way to stderr, which nobody ever waits for.

A reader that has stopped reading, a full disk or a closed descriptor cost lines, and nothing else.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from threading import Event, Thread
from time import monotonic
from typing import Final, Generic, TypeVar

T = TypeVar("T")

STANDARD: Final = (0, 1, 2)
"""stdin, stdout and stderr."""

MAX_LINES: Final = 16_384
"""Lines that wait at most: what two seconds of the fastest traffic make, about 10 MB."""

GATHER_S: Final = 0.1
"""How long lines of requests gather before they are written: each turn of the writer's thread takes
the interpreter away from the event loop, and one for each line would cost more than the line."""

PIPE_BYTES: Final = select.PIPE_BUF
"""Written to a pipe at once: up to here, lines of several processes do not mix."""

FILE_BYTES: Final = 16 * 1024
"""Written to a file at once. While they are made, 0.2 ms, the event loop waits."""

TELL_S: Final = 1.0
"""Lines that are lost are told of at most this often while more are being lost."""

FLUSH_S: Final = 1.0
"""How long the end of a process waits for its lines to go out."""


class LogWriter(Generic[T]):
    """Writes lines, each with its line break, from a thread of its own.

    What is not yet a line is made one there, by `make`: many in a row take a third of the time that
    each would take between two steps of a request. Past `MAX_LINES` that wait, and where writing
    fails, lines are dropped. `tell` makes the line that says how many, once writing works again.
    """

    def __init__(
        self, descriptor: int, tell: Callable[[int], bytes], make: Callable[[T], bytes]
    ) -> None:
        self._descriptor = descriptor
        self._tell = tell
        self._make = make
        self._lines: deque[bytes | T | Event] = deque()
        self._some = Event()
        self._urgent = Event()
        self._dropped = 0  # by those who add lines
        self._failed = 0  # by the thread: so neither adds to the other's number
        self._told = 0  # of both
        self._told_at = 0.0
        self._torn = False  # what was written last is not a whole line
        Thread(target=self._run, name="log", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._dropped + self._failed

    def add(self, line: bytes | T) -> None:
        """Have a line written within `GATHER_S`."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._some.is_set():  # asking costs a tenth of setting
            self._some.set()

    def hurry(self) -> None:
        """Have all lines written now, without waiting for that."""
        self._some.set()
        self._urgent.set()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until all lines so far have been written or dropped. False if that takes longer."""
        done = Event()
        self._lines.append(done)
        self.hurry()
        return done.wait(timeout_s)

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._urgent.wait(GATHER_S)
            self._urgent.clear()
            self._some.clear()  # before the lines are taken: one that comes now sets it again
            self._write_all()

    def _write_all(self) -> None:
        most = self._most_at_once()
        chunk: list[bytes] = []
        size = 0
        while self._lines:
            item = self._lines.popleft()
            if isinstance(item, Event):
                self._write(chunk)
                chunk, size = [], 0
                item.set()
                continue
            line = item if isinstance(item, bytes) else self._make(item)
            if chunk and size + len(line) > most:
                self._write(chunk)
                chunk, size = [], 0
            chunk.append(line)
            size += len(line)
        self._write(chunk)
        self._tell_of_lost()

    def _most_at_once(self) -> int:
        try:
            regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        except OSError:  # it is closed: writing will say so
            regular = False
        return FILE_BYTES if regular else PIPE_BYTES

    def _tell_of_lost(self) -> None:
        lost = self.dropped - self._told
        if lost and self._put([self._tell(lost)]):
            self._told += lost
            self._told_at = monotonic()

    def _write(self, lines: list[bytes]) -> None:
        if monotonic() - self._told_at >= TELL_S:
            self._tell_of_lost()
        self._failed += len(lines) - self._put(lines)

    def _put(self, lines: list[bytes]) -> int:
        """How many of them could be written."""
        text = b"\n" * self._torn + b"".join(lines)
        written = 0
        try:
            while written < len(text):
                written += self._write_some(text[written:] if written else text)
        except OSError:
            ends = list(accumulate(map(len, lines), initial=self._torn))
            if written:
                self._torn = written not in ends
            return sum(end <= written for end in ends[1:])
        self._torn = False
        return len(lines)

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # somebody else who has it made it so
            select.select([], [self._descriptor], [])
            return 0


def open_standard_streams() -> None:
    """Open stdin, stdout and stderr on nothing where they are closed.

    Else the next socket would get such a number, and log lines would go to its peer. To be called
    before anything is opened.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
