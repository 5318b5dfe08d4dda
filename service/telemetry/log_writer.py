"""Writes log lines to stderr without ever blocking the code that logs.

If the reader stops, the disk is full or the descriptor is closed, lines are lost, but nothing else
is affected.
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

STANDARD_STREAMS: Final = (0, 1, 2)
"""stdin, stdout and stderr."""

MAX_LINES: Final = 16_384
"""Limit on waiting lines: two seconds of the fastest traffic, about 10 MB."""

GATHER_S: Final = 0.01
"""How long lines of requests are gathered before they are written. Each time the writer's thread
runs, it takes the interpreter from the event loop. Once per line would cost more than the line, and
the lines of a tenth of a second would hold up requests for several milliseconds."""

PIPE_BYTES: Final = select.PIPE_BUF
"""Limit on one write to a pipe. Up to this size, lines of several processes do not mix."""

FILE_BYTES: Final = 16 * 1024
"""Limit on one write to a file. Formatting this many bytes blocks the event loop for 0.2 ms."""

REPORT_INTERVAL_S: Final = 1.0
"""Minimum time between two reports of lost lines while more are being lost."""

FLUSH_TIMEOUT_S: Final = 1.0
"""How long a process that ends waits for its lines to be written."""


class LogWriter(Generic[T]):
    """Writes lines to a descriptor from a thread of its own.

    Lines are bytes that end with a line break, or values that `format_line` turns into such bytes.
    It is called in the thread, for many lines in a row, which takes a third of the time that it
    would take between two steps of a request. Lines are dropped when `MAX_LINES` are waiting or
    writing fails. Once writing works again, a line from `format_loss` says how many were lost.
    """

    def __init__(
        self,
        descriptor: int,
        format_loss: Callable[[int], bytes],
        format_line: Callable[[T], bytes],
    ) -> None:
        self._descriptor = descriptor
        self._format_loss = format_loss
        self._format_line = format_line
        self._lines: deque[bytes | T | Event] = deque()
        self._pending = Event()
        self._urgent = Event()
        self._dropped = 0  # counted by threads that add lines
        self._failed = 0  # counted by the writer's thread, so that no counter has two writers
        self._reported = 0  # of both, how many have been reported
        self._reported_at = 0.0
        self._ends_mid_line = False  # whether the last write ended within a line
        Thread(target=self._run, name="log", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._dropped + self._failed

    def add(self, line: bytes | T) -> None:
        """Queue a line. It is written within about `GATHER_S`."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._pending.is_set():  # reading the event costs a tenth of setting it
            self._pending.set()

    def hurry(self) -> None:
        """Have all queued lines written at once. Does not wait for it."""
        self._pending.set()
        self._urgent.set()

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
        """Wait until all queued lines have been written or dropped; False if that times out."""
        done = Event()
        self._lines.append(done)
        self.hurry()
        return done.wait(timeout_s)

    def _run(self) -> None:
        while True:
            self._pending.wait()
            self._urgent.wait(GATHER_S)
            self._urgent.clear()
            self._pending.clear()  # before the lines are taken, as a later line sets it again
            self._write_all()

    def _write_all(self) -> None:
        max_bytes = self._max_write_bytes()
        chunk: list[bytes] = []
        size = 0
        while self._lines:
            item = self._lines.popleft()
            if isinstance(item, Event):
                self._write_chunk(chunk)
                chunk, size = [], 0
                item.set()
                continue
            line = item if isinstance(item, bytes) else self._format_line(item)
            if chunk and size + len(line) > max_bytes:
                self._write_chunk(chunk)
                chunk, size = [], 0
            chunk.append(line)
            size += len(line)
        self._write_chunk(chunk)
        self._report_lost()

    def _max_write_bytes(self) -> int:
        try:
            regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        except OSError:  # the descriptor is closed; writing will fail, too
            regular = False
        return FILE_BYTES if regular else PIPE_BYTES

    def _report_lost(self) -> None:
        lost = self.dropped - self._reported
        if lost and self._try_write([self._format_loss(lost)]):
            self._reported += lost
            self._reported_at = monotonic()

    def _write_chunk(self, lines: list[bytes]) -> None:
        if monotonic() - self._reported_at >= REPORT_INTERVAL_S:
            self._report_lost()
        self._failed += len(lines) - self._try_write(lines)

    def _try_write(self, lines: list[bytes]) -> int:
        """Write lines in one piece, and return how many of them were written completely."""
        text = b"\n" * self._ends_mid_line + b"".join(lines)
        written = 0
        try:
            while written < len(text):
                written += self._write_some(text[written:] if written else text)
        except OSError:
            ends = list(accumulate(map(len, lines), initial=self._ends_mid_line))
            if written:
                self._ends_mid_line = written not in ends
            return sum(end <= written for end in ends[1:])
        self._ends_mid_line = False
        return len(lines)

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another process that shares it has made it non-blocking
            select.select([], [self._descriptor], [])
            return 0


def open_standard_streams() -> None:
    """Open stdin, stdout and stderr on the null device if they are closed.

    Otherwise the next socket would get one of their descriptors, and log lines would go to its
    peer. Must be called before anything else is opened.
    """
    for number in STANDARD_STREAMS:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            os.set_inheritable(number, True)
