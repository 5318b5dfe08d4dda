"""Log lines reach their descriptor, and a blocked descriptor blocks nobody."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from service.telemetry import log_writer
from service.telemetry.log_writer import MAX_LINES, LogWriter

HANG_S = 20
HIGH = 700
"""Descriptors from here on, which nothing else in this process is given once they are closed."""


def tell(lost: int) -> bytes:
    return b"lost %d\n" % lost


class Pipe:
    """One that is read only when the test says so."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.received = b""
        os.set_blocking(self.reader, False)
        self.writers: list[LogWriter[str]] = []

    def log_writer(self) -> LogWriter[str]:
        self.writers.append(LogWriter(self.writer, tell, str.encode))
        return self.writers[-1]

    def close(self) -> None:
        """Nobody writes any more to a number that another pipe may get."""
        os.close(self.reader)
        for writer in self.writers:
            assert writer.flush(HANG_S)
        os.close(self.writer)

    def read(self) -> list[bytes]:
        """All that has come so far."""
        try:
            while data := os.read(self.reader, 1 << 20):
                self.received += data
        except BlockingIOError:
            pass
        return self.received.splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def accounted(lines: list[bytes]) -> int:
    """Lines that came, and those that were told to be lost."""
    lost = [int(line.split()[1]) for line in lines if line.startswith(b"lost")]
    return sum(lost) + len(lines) - len(lost)


def high_copy(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)


def test_lines_come_in_order(pipe: Pipe) -> None:
    writer = pipe.log_writer()
    for i in range(3):
        writer.add(b"%d\n" % i)
    assert writer.flush(HANG_S)
    assert pipe.read() == [b"0", b"1", b"2"]


def test_what_is_no_line_yet_is_made_one(pipe: Pipe) -> None:
    writer = pipe.log_writer()
    for line in ("é\n", b"x\n", "y\n"):
        writer.add(line)
    assert writer.flush(HANG_S)
    assert pipe.read() == ["é".encode(), b"x", b"y"]


def test_lines_come_without_a_flush(pipe: Pipe) -> None:
    writer = pipe.log_writer()
    for word in (b"one", b"two"):  # the second when the thread sleeps again
        writer.add(word + b"\n")
        while word not in pipe.read():
            time.sleep(0.01)


def test_those_in_a_hurry_do_not_wait_for_others(
    monkeypatch: pytest.MonkeyPatch, pipe: Pipe
) -> None:
    monkeypatch.setattr(log_writer, "GATHER_S", 10 * HANG_S)
    writer = pipe.log_writer()
    writer.add(b"slow\n")
    time.sleep(0.05)
    assert pipe.read() == []
    writer.add(b"urgent\n")
    writer.hurry()
    wait_for(lambda: pipe.read() == [b"slow", b"urgent"])


def test_a_stalled_log_reader_blocks_nobody_and_learns_how_many_lines_were_dropped(
    pipe: Pipe,
) -> None:
    writer = pipe.log_writer()
    line = b"x" * 99 + b"\n"
    count = 2 * MAX_LINES
    started = time.perf_counter()
    for _ in range(count):
        writer.add(line)
    assert not writer.flush(0.1)
    assert time.perf_counter() - started < HANG_S / 4
    wait_for(lambda: accounted(pipe.read()) == count)
    assert writer.dropped > MAX_LINES / 2
    assert set(pipe.read()) == {line[:-1], b"lost %d" % writer.dropped}, "told in one line"


def test_what_waits_is_bounded(pipe: Pipe) -> None:
    writer = pipe.log_writer()
    for _ in range(2 * MAX_LINES):
        writer.add(b"x" * 99 + b"\n")
    assert len(writer._lines) <= MAX_LINES


@pytest.mark.parametrize("fault", ["closed", "full", "no reader"])
def test_dropped_lines_are_reported_later(tmp_path: Path, fault: str) -> None:
    if fault == "full":
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full")
        bad = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, bad = os.pipe()
        os.close(reader)
    descriptor = high_copy(bad)
    os.close(bad)
    writer = LogWriter(descriptor, tell, str.encode)
    if fault == "closed":
        os.close(descriptor)
    for _ in range(5):
        writer.add(b"x\n")
        assert writer.flush(HANG_S)
    assert writer.dropped == 5

    good = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(good, descriptor)
    os.close(good)
    writer.add(b"y\n")
    writer.add(b"z\n")
    assert writer.flush(HANG_S)
    assert (tmp_path / "log").read_bytes() == b"lost 5\ny\nz\n"
    writer.add(b"!\n")
    assert writer.flush(HANG_S)
    os.close(descriptor)
    assert (tmp_path / "log").read_bytes() == b"lost 5\ny\nz\n!\n"


def test_a_line_that_was_torn_does_not_take_the_next_along(
    monkeypatch: pytest.MonkeyPatch, pipe: Pipe
) -> None:
    room = 7
    write = os.write

    def write_while_there_is_room(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[:room])
        room -= written
        return written

    writer = pipe.log_writer()
    monkeypatch.setattr(os, "write", write_while_there_is_room)
    for word in (b"one\n", b"two\n", b"six\n"):
        writer.add(word)
    assert writer.flush(HANG_S)
    assert (pipe.read(), writer.dropped) == ([b"one", b"two"], 2)
    room = 1000
    writer.add(b"ten\n")
    assert writer.flush(HANG_S)
    assert pipe.read() == [b"one", b"two", b"lost 2", b"ten"]


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = pipe.log_writer()
    for _ in range(2_000):
        writer.add(b"x" * 99 + b"\n")
    wait_for(lambda: len(pipe.read()) == 2_000)
    assert writer.dropped == 0


def test_lines_of_several_writers_do_not_mix(pipe: Pipe) -> None:
    """Each writes a pipe in pieces that the kernel does not divide."""
    writers = [pipe.log_writer() for _ in range(4)]
    lines = [bytes([letter]) * 700 + b"\n" for letter in b"abcd"]

    def add(writer: LogWriter[str], line: bytes) -> None:
        for _ in range(500):
            writer.add(line)

    threads = [Thread(target=add, args=pair) for pair in zip(writers, lines, strict=True)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(pipe.read()) >= 2_000)
    assert set(pipe.read()) == {line[:-1] for line in lines}


STREAMS = """
import os, socket, sys
from service.telemetry.log_writer import open_standard_streams
open_standard_streams()
taken = socket.socket().fileno()
names = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
inherited = [os.get_inheritable(number) for number in range(3)]
open(sys.argv[1], "w").write(repr((taken > 2, names, inherited)))
"""


def test_standard_streams_that_are_closed_lead_nowhere(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("what a descriptor leads to is seen in /proc")
    answer = tmp_path / "answer"
    subprocess.run(  # noqa: S603 - our own command
        ["/bin/sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", STREAMS, answer],
        check=True,
        timeout=HANG_S,
    )
    assert answer.read_text() == repr((True, ["/dev/null"] * 3, [True] * 3))
