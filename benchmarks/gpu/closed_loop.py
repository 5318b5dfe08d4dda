"""A closed loop without wrk: several processes, each with some of the connections.

A connection sends its next request when the last one is answered. `measure` starts the processes
(`python -m benchmarks.gpu.closed_loop`), waits until each connection has been answered once, and
then lets all of them run at the same time. They use plain sockets and epoll, and read exactly as
many bytes as an answer's Content-Length says.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.open_loop import CONNECT_S, CONTENT_LENGTH, HOST, percentile
from benchmarks.peers.environment import ROOT

READY_S: Final = 120.0
"""Until each connection has been answered once: workers that start at the same time warm up
slowly."""

GRACE_S: Final = 30.0
"""For a process to end, beyond the seconds that it is to run."""

STALL_S: Final = 10.0
"""Without any answer; then the run ends, and its figures say so."""

RECEIVE_BYTES: Final = 1 << 18

clock = time.perf_counter


class ClosedLoopError(Exception):
    """A process of the generator failed. One line says why."""


@dataclass(eq=False)
class Connection:
    """A connection that is kept open, and the request in progress on it."""

    port: int
    request: bytes
    socket: socket.socket = field(init=False)
    started: float = 0.0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    answer_bytes: int | None = None
    """Length of the answer with its head, once that has arrived."""

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Connect, for the first time or again."""
        self.socket = socket.create_connection((HOST, self.port), timeout=CONNECT_S)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Begin the next request."""
        self.started = clock()
        self.unsent = memoryview(self.request)
        self.received.clear()
        self.answer_bytes = None
        self.send()

    def send(self) -> None:
        """Send as much of the request as the kernel takes now. Raises `OSError`."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            pass

    def receive(self) -> bytes | None:
        """The status if the answer is complete, empty if it never will be, None while it may."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if not data:
            return b""
        self.received += data
        if self.answer_bytes is None:
            head = self.received.find(b"\r\n\r\n")
            if head < 0:
                return None
            length = CONTENT_LENGTH.search(self.received, 0, head + 2)
            if not length:
                raise SystemExit("an answer has no Content-Length, and others are not supported")
            self.answer_bytes = head + 4 + int(length[1])
        return bytes(self.received[9:12]) if len(self.received) >= self.answer_bytes else None


class Client:
    """Some connections of one process."""

    def __init__(self, port: int, request: bytes, connections: int) -> None:
        self._poller = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._sending: set[int] = set()
        """Those that wait for the kernel to take the rest of a request."""
        for _ in range(connections):
            connection = Connection(port, request)
            self._connections[connection.socket.fileno()] = connection
            self._poller.register(connection.socket, select.EPOLLIN)

    def try_each(self, timeout_s: float) -> None:
        """Send one request on each connection, and wait for its answer.

        Raises `ClosedLoopError` for an answer other than 2xx, or none in time.
        """
        end = clock() + timeout_s
        missing = set(self._connections)
        for number in list(self._connections):
            self._start(number)
        while missing:
            if clock() > end:
                raise ClosedLoopError(f"{len(missing)} requests without answer in {timeout_s:g} s")
            for number, status in self._poll():
                if not status.startswith(b"2"):
                    raise ClosedLoopError(f"answered with {status.decode() or 'nothing'}")
                missing.discard(number)

    def run(self, warm_s: float, seconds: float) -> dict[str, Any]:
        """Keep every connection busy. Counts what is answered in the `seconds` after `warm_s`."""
        latencies: list[float] = []
        errors = 0
        begin = last = clock()
        count_from, end = begin + warm_s, begin + warm_s + seconds
        cpu_s = time.process_time()
        for number in list(self._connections):
            self._start(number)
        while (now := clock()) < end and now - last < STALL_S:
            for number, status in self._poll():
                last = clock()
                if count_from <= last <= end:
                    if status.startswith(b"2"):
                        latencies.append(last - self._connections[number].started)
                    else:
                        errors += 1
                self._start(number if status else self._open_again(number))
        return {
            "latencies_us": [round(latency * 1e6) for latency in latencies],
            "errors": errors,
            "stalled": now < end,
            "cpu": (time.process_time() - cpu_s) / (clock() - begin),
        }

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.socket.close()
        self._poller.close()

    def _poll(self) -> list[tuple[int, bytes]]:
        """Send and receive what is possible now, and return the finished requests' statuses."""
        finished = []
        for number, events in self._poller.poll(0.1):
            connection = self._connections[number]
            if events & select.EPOLLOUT:
                self._send(number)
            if events & ~select.EPOLLOUT:
                status = connection.receive()
                if status is not None:
                    finished.append((number, status))
        return finished

    def _start(self, number: int) -> None:
        connection = self._connections[number]
        if connection.unsent:  # it was answered before its request was complete
            number = self._open_again(number)
        try:
            connection.start()
        except OSError:
            return  # it was closed, which the next read notices
        self._wait_for_room(number)

    def _send(self, number: int) -> None:
        try:
            self._connections[number].send()
        except OSError:
            self._connections[number].unsent = memoryview(b"")
        self._wait_for_room(number)

    def _wait_for_room(self, number: int) -> None:
        """Hear of room in the kernel's buffer only while there is something to send."""
        is_sending = bool(self._connections[number].unsent)
        if is_sending != (number in self._sending):
            events = select.EPOLLIN | (select.EPOLLOUT if is_sending else 0)
            self._poller.modify(number, events)
            (self._sending.add if is_sending else self._sending.discard)(number)

    def _open_again(self, number: int) -> int:
        connection = self._connections.pop(number)
        self._sending.discard(number)
        self._poller.unregister(number)
        connection.socket.close()
        connection.unsent = memoryview(b"")
        connection.open()
        number = connection.socket.fileno()
        self._connections[number] = connection
        self._poller.register(number, select.EPOLLIN)
        return number


def measure(
    port: int,
    request: bytes,
    *,
    connections: int,
    processes: int,
    warm_s: float,
    seconds: float,
    server_cpu_s: Callable[[], float] = lambda: 0.0,
    sample: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Send the request over `connections` connections from `processes` processes.

    Returns requests/s, latencies and cores used. `server_cpu_s` is the server's processor time so
    far; `sample` is called once while all run, and its result returned. Raises `ClosedLoopError`.
    """
    shares = [len(range(i, connections, processes)) for i in range(min(processes, connections))]
    clients: list[subprocess.Popen[str]] = []
    with tempfile.NamedTemporaryFile(prefix="vae-request-") as file:
        file.write(request)
        file.flush()
        try:
            started = clock()
            for share in shares:
                command = [sys.executable, "-m", "benchmarks.gpu.closed_loop"]
                command += ["--port", str(port), "--connections", str(share)]
                command += ["--warm-s", str(warm_s), "--seconds", str(seconds), file.name]
                pipe = subprocess.PIPE
                clients.append(
                    subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)  # noqa: S603 - ours
                )
            for client in clients:
                _read(client)
            answered_after_s = clock() - started
            cpu_s, begin = server_cpu_s(), clock()
            for client in clients:
                _input(client).write("go\n")
                _input(client).flush()
            time.sleep(warm_s + seconds / 2)
            sampled = sample()
            time.sleep(max(0.0, begin + warm_s + seconds - clock()))
            server_cpu = (server_cpu_s() - cpu_s) / (clock() - begin)
            runs = [_read(client) for client in clients]
            for client in clients:
                client.wait(GRACE_S)
        finally:
            for client in clients:
                client.kill()
                client.wait()
                _input(client).close()
                if client.stdout:
                    client.stdout.close()
    figures = summary(runs, seconds)
    figures |= {"connections": connections, "processes": len(shares), "server_cpu": server_cpu}
    return figures | {"answered_after_s": answered_after_s, "sampled": sampled}


def summary(runs: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The figures of several clients as one."""
    latencies = [latency for run in runs for latency in run["latencies_us"]]
    return {
        "requests": len(latencies),
        "requests_per_s": len(latencies) / seconds,
        "p50_ms": percentile(latencies, 0.5) / 1e3 if latencies else None,
        "p99_ms": percentile(latencies, 0.99) / 1e3 if latencies else None,
        "errors": sum(run["errors"] for run in runs),
        "stalled": any(run["stalled"] for run in runs),
        "generator_cpu": sum(run["cpu"] for run in runs),
    }


def _read(client: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a client. Raises `ClosedLoopError` if it reports a failure or has ended."""
    assert client.stdout is not None  # noqa: S101 - for mypy
    line = client.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"error": "a client ended early"}
    if "error" in answer:
        raise ClosedLoopError(answer["error"])
    return answer


def _input(client: subprocess.Popen[str]) -> IO[str]:
    assert client.stdin is not None  # noqa: S101 - for mypy
    return client.stdin


def main() -> None:
    """Send the request in a file over and over; print figures as JSON. Starts after a line of
    input, once each connection has been answered."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.closed_loop", description=main.__doc__
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--warm-s", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("request", type=Path, help="a file with the request, head and body")
    given = parser.parse_args()
    gc.disable()  # nothing here has cycles
    try:
        client = Client(given.port, given.request.read_bytes(), given.connections)
        client.try_each(READY_S)
        print(json.dumps({"ready": True}), flush=True)
        if sys.stdin.readline():
            print(json.dumps(client.run(given.warm_s, given.seconds)), flush=True)
    except (ClosedLoopError, OSError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


if __name__ == "__main__":
    main()
