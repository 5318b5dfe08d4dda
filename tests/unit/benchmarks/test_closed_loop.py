"""The load generator of `benchmarks/gpu.sh`: it counts what was answered, and nothing else."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.gpu.closed_loop import Client, ClosedLoopError, measure, summary
from benchmarks.load import raw_http

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n1234"
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
LARGE = 6 << 20
"""Bytes: more than the kernel's buffers hold."""


@contextmanager
def server(answer: Callable[[int, int], bytes], *, reads_bodies: bool = True) -> Iterator[int]:
    """Answers by `answer`, called with the number of the request and the length of its body; an
    empty one closes the connection. Yields the port."""
    count = 0
    lock = threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            nonlocal count
            while True:
                length = 0
                while (line := self.rfile.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                if not line:
                    return
                body = self.rfile.read(length) if reads_bodies else b""
                with lock:
                    count += 1
                    number = count
                data = answer(number, len(body))
                self.wfile.write(data)
                if not data or not reads_bodies:
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """Clients leave."""

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()
            thread.join()


@contextmanager
def client(port: int, connections: int = 3, body: bytes = b"12") -> Iterator[Client]:
    sender = Client(port, raw_http(port, ("/score", {}, body)), connections)
    try:
        yield sender
    finally:
        sender.close()


def test_every_answer_counts_once() -> None:
    answered = 0

    def answer(number: int, _: int) -> bytes:
        nonlocal answered
        answered = max(answered, number)
        return OK

    with server(answer) as port, client(port) as sender:
        sender.try_each(5)
        figures = sender.run(0, 0.2)
    counted = len(figures["latencies_us"])
    assert figures["errors"] == 0
    assert not figures["stalled"]
    # One on each connection before, and up to two after: the last counted one was followed by one
    # that came too late, and that by another.
    assert 0 <= answered - 3 - counted <= 6
    assert all(0 < latency < 200_000 for latency in figures["latencies_us"])


def test_bodies_larger_than_the_kernels_buffers_arrive_whole() -> None:
    lengths: list[int] = []

    def answer(_: int, length: int) -> bytes:
        lengths.append(length)
        return OK

    with server(answer) as port, client(port, body=bytes(LARGE)) as sender:
        sender.try_each(5)
        figures = sender.run(0, 0.1)
    assert figures["errors"] == 0
    assert lengths[:3] == [LARGE] * 3
    assert lengths.count(LARGE) >= 3 + len(figures["latencies_us"])


def test_refusals_and_closed_connections_are_errors_without_latency() -> None:
    answers = (OK, FULL, b"")
    with server(lambda number, _: answers[number % 3]) as port, client(port, 1) as sender:
        figures = sender.run(0, 0.2)
    good, bad = len(figures["latencies_us"]), figures["errors"]
    assert good > 2
    assert bad == pytest.approx(2 * good, abs=2)


def test_an_answer_before_the_body_is_sent_does_not_block() -> None:
    early = server(lambda *_: FULL, reads_bodies=False)
    with early as port, client(port, body=bytes(LARGE)) as sender:
        figures = sender.run(0, 0.2)
    assert figures["errors"] > 2
    assert not figures["latencies_us"]


def test_warm_up_does_not_count() -> None:
    with server(lambda *_: OK) as port, client(port) as sender:
        assert not sender.run(0.1, 0)["latencies_us"]


def test_a_service_that_refuses_is_not_measured() -> None:
    with (
        server(lambda *_: FULL) as port,
        client(port) as sender,
        pytest.raises(ClosedLoopError, match="503"),
    ):
        sender.try_each(5)


def test_processes_share_the_connections() -> None:
    with server(lambda *_: OK) as port:
        request = raw_http(port, ("/score", {}, b"12"))
        figures = measure(
            port,
            request,
            connections=3,
            processes=2,
            warm_s=0,
            seconds=0.2,
            sample=lambda: 7,
        )
    assert (figures["connections"], figures["processes"], figures["sampled"]) == (3, 2, 7)
    assert figures["requests"] > 3
    assert figures["requests_per_s"] == figures["requests"] / 0.2
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]


def test_a_process_that_fails_says_why() -> None:
    with server(lambda *_: FULL) as port, pytest.raises(ClosedLoopError, match="503"):
        measure(
            port,
            raw_http(port, ("/score", {}, b"")),
            connections=1,
            processes=1,
            warm_s=0,
            seconds=0.1,
        )


def test_figures_of_several_processes_are_of_all_requests() -> None:
    runs = [
        {"latencies_us": [1000, 1000, 1000], "errors": 1, "stalled": False, "cpu": 0.5},
        {"latencies_us": [9000], "errors": 0, "stalled": True, "cpu": 0.25},
    ]
    assert summary(runs, 2) == {
        "requests": 4,
        "requests_per_s": 2,
        "p50_ms": 1.0,
        "p99_ms": 9.0,
        "errors": 1,
        "stalled": True,
        "generator_cpu": 0.75,
    }
    nothing = summary([{"latencies_us": [], "errors": 3, "stalled": False, "cpu": 0}], 1)
    assert (nothing["p50_ms"], nothing["errors"]) == (None, 3)
