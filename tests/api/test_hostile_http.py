"""Hostile HTTP: endless heads, smuggled requests, clients that do not read."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import numpy as np
import pytest

from benchmarks.reliability.harness import Service, is_held, service, wait_for
from service.server.write_backlog import MIN_PROGRESS_BYTES
from tests.api.connections import ZEROS, Connection, request
from tests.api.helpers import HANG_S
from tests.processes import Server, address, running

STALL_S = 1.0
FLOOD = 40_000_000
"""Bytes, of which the service must not keep any number."""

SIZES = 850, 1150, 15
"""Images of answers: 3 MB or so, of which the kernel takes most, in steps of 47 kB."""

HEAD = b"POST /encode HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAA")

LARGE = request("/decode", b'{"n": 4096}', headers=("Accept: application/x-npy",))
"""Its answer has 12.8 MB."""


@pytest.fixture(scope="module")
def live() -> Iterator[Service]:
    flags = ("--header-timeout-s", str(STALL_S), "--keep-alive-s", "2", "--shutdown-timeout-s", "5")
    with service(*flags, "--max-connections", "30") as live:
        yield live


@pytest.fixture
def connection(live: Service) -> Iterator[Connection]:
    with closing(Connection(live.host, live.port)) as connection:
        yield connection


def flood(live: Service, start: bytes, piece: bytes) -> tuple[bytes, int]:
    """What is answered, and how much was taken until then."""
    sent = 0
    with socket.create_connection((live.host, live.port), timeout=HANG_S) as plain:
        with suppress(OSError):
            plain.sendall(start)
            while sent < FLOOD:
                plain.sendall(piece)
                sent += len(piece)
        with suppress(OSError):
            return plain.recv(65_536), sent
    return b"", sent


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (HEAD, b"a: b\r\n" * 10_000),
        (HEAD + b"a: ", b"b" * 50_000),
        (HEAD, b"b" * 50_000),
        (b"POST /", b"b" * 50_000),
        (CHUNKED + b"1\r\n{\r\n0\r\n", b"a: b\r\n" * 10_000),
        (CHUNKED + b"1\r\n{\r\n0\r\na: ", b"b" * 50_000),
        (CHUNKED + b"1;a=", b"b" * 50_000),
        (b"", b"\r\n" * 25_000),
    ],
    ids=["headers", "value", "name", "url", "trailers", "trailer", "extension", "empty lines"],
)
def test_endless_input_is_cut_off(live: Service, start: bytes, piece: bytes) -> None:
    live.forget_peak()
    before = live.resident_mib()
    answer, sent = flood(live, start, piece)
    assert sent < FLOOD / 4, "it is not read to the end"
    assert answer[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")  # a reset may overtake it
    assert live.peak_mib() - before < 20
    assert live.get("/livez").status == 200


def test_a_head_up_to_the_limit_is_read(connection: Connection) -> None:
    """In one piece and in many."""
    for size in (1_000, 30_000, 60_000):
        whole = request("/encode", ZEROS, headers=(f"X-Long: {'b' * size}",))
        connection.send(whole)
        assert connection.answer()[0] == "HTTP/1.1 200 OK"
        for start in range(0, len(whole), 5_000):
            connection.send(whole[start : start + 5_000])
            time.sleep(0.002)
        assert connection.answer()[0] == "HTTP/1.1 200 OK"


def test_too_many_headers_are_refused(connection: Connection) -> None:
    connection.send(request("/encode", ZEROS, headers=("a: b",) * 100))
    assert connection.answer()[0] == "HTTP/1.1 200 OK"
    connection.send(request("/encode", ZEROS, headers=("a: b",) * 200))
    status, headers, body = connection.answer()
    assert status == "HTTP/1.1 431 Request Header Fields Too Large"
    assert headers["connection"] == "close"
    assert b"65,536" in body
    assert connection.is_closed()


def test_a_body_is_never_parsed_as_a_request(connection: Connection) -> None:
    """As curl --http2 and Java's client send by default."""
    for _ in range(3):
        inner = request("/model")
        headers = (*UPGRADE, "Content-Type: application/json")
        connection.send(request("/decode", inner, headers=headers).partition(inner)[0])
        time.sleep(0.05)
        connection.send(inner)
        status, _, body = connection.answer()
        assert status == "HTTP/1.1 400 Bad Request"
        assert b"JSON" in body
        connection.send(request("/livez"))
        assert connection.answer()[2] == b'{"status":"ok"}'


def test_pipelined_upgrades_are_answered_in_order(connection: Connection) -> None:
    ids = [f"id-{number}" for number in range(60)]
    parts = [
        request(*(("/encode", ZEROS), ("/livez",))[i % 2], headers=(*UPGRADE, f"X-Request-ID: {n}"))
        for i, n in enumerate(ids)
    ]
    connection.send(b"".join(parts))
    answers = [connection.answer() for _ in ids]
    assert [headers["x-request-id"] for _, headers, _ in answers] == ids
    assert {status for status, _, _ in answers} == {"HTTP/1.1 200 OK"}


def test_curl_may_ask_for_http2(live: Service) -> None:
    url = f"http://{live.host}:{live.port}/decode"
    done = subprocess.run(  # noqa: S603 - our own command
        ["curl", "-s", "--http2", "-d", '{"n": 1}', "-o", "/dev/null", "-w", "%{http_code}", url],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert done.stdout == "200"


def test_connect_is_refused(connection: Connection) -> None:
    connection.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + request("/livez"))
    assert connection.answer()[0] == "HTTP/1.1 400 Bad Request"
    assert connection.is_closed()


def test_trailers_are_not_headers(start_server: Callable[..., Server], tmp_path: object) -> None:
    """A proxy in front may have taken a key out of the head for a reason."""
    server = start_server("--api-keys", "k" * 32)
    with closing(Connection(*address(server))) as connection:
        size = f"{len(ZEROS):x}".encode()
        start = b"POST /encode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        key = b"Authorization: Bearer " + b"k" * 32 + b"\r\n"
        connection.send(start + size + b"\r\n" + ZEROS + b"\r\n0\r\n" + key + b"\r\n")
        assert connection.answer()[0] == "HTTP/1.1 401 Unauthorized"


def test_garbage_never_ends_up_inside_an_answer(live: Service) -> None:
    with closing(Connection(live.host, live.port)) as connection:
        connection.send(LARGE)
        time.sleep(0.2)
        connection.send(b"\0garbage\r\n\r\n")
        status, _, body = connection.answer()
        assert status == "HTTP/1.1 200 OK"
        assert np.frombuffer(body[-784 * 4 :], np.float32).max() <= 1
        assert connection.is_closed()
    with closing(Connection(live.host, live.port)) as connection:
        good = b"".join(request("/encode", ZEROS) for _ in range(3))
        connection.send(good + b"\0garbage\r\n\r\n")
        for _ in range(3):
            assert connection.answer()[0] == "HTTP/1.1 200 OK"
        assert connection.is_closed()


def unread(live: Service) -> socket.socket:
    """A connection whose large answer is not read."""
    plain = socket.create_connection((live.host, live.port), timeout=HANG_S)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.sendall(LARGE)
    return plain


@pytest.mark.parametrize("accept", ["application/x-npy", "application/json"])
def test_a_client_that_does_not_read_is_disconnected(live: Service, accept: str) -> None:
    large = request("/decode", b'{"n": 4096}', headers=(f"Accept: {accept}",))
    with socket.create_connection((live.host, live.port), timeout=HANG_S) as plain:
        plain.sendall(large)
        time.sleep(0.5)
        assert is_held(live.port, plain)
        gone_s = wait_for(lambda: not is_held(live.port, plain), 10)
    assert gone_s is not None
    assert gone_s < 2 * STALL_S + 2
    assert live.metric("vae_queue_bytes") == 0


def test_a_client_that_does_not_read_its_last_answer_is_disconnected(live: Service) -> None:
    """Of all sizes: of some of them little is left when the kernel's buffers are full, less than
    what makes a writer pause."""
    unread_ones = []
    for n in range(*SIZES):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect((live.host, live.port))
        headers = ("Connection: close", "Accept: application/x-npy")
        plain.sendall(request("/decode", b'{"n": %d}' % n, headers=headers))
        unread_ones.append(plain)
        time.sleep(0.02)
    try:
        gone_s = wait_for(
            lambda: not any(is_held(live.port, plain) for plain in unread_ones), 2 * STALL_S + 4
        )
        assert gone_s is not None
    finally:
        for plain in unread_ones:
            plain.close()


def test_a_slow_reader_gets_the_whole_answer(live: Service) -> None:
    """For longer than an answer may stand still."""
    with socket.create_connection((live.host, live.port), timeout=HANG_S) as plain:
        plain.sendall(LARGE)
        got, began = 0, time.monotonic()
        while got < 12_000_000:
            got += len(plain.recv(1 << 20))
            time.sleep(0.1)
        assert time.monotonic() - began > 1.2 * STALL_S


@pytest.mark.slow
def test_a_slow_but_steady_reader_is_not_cut_off(
    start_server: Callable[..., Server],
) -> None:
    """Though the kernel's buffers move by megabytes. It reads three times the required minimum."""
    stall_s = 3.0
    host, port = address(start_server("--header-timeout-s", str(stall_s)))
    with socket.create_connection((host, port), timeout=HANG_S) as plain:
        plain.sendall(LARGE)
        began, got = time.monotonic(), 0
        while (seconds := time.monotonic() - began) < 3 * stall_s:
            got += len(
                plain.recv(max(0, int(3 * MIN_PROGRESS_BYTES / stall_s * seconds) - got) or 1)
            )
            time.sleep(0.02)
        assert 6 * MIN_PROGRESS_BYTES < got < 10 * MIN_PROGRESS_BYTES
        assert is_held(port, plain)


@pytest.fixture(scope="module")
def limited() -> Iterator[Server]:
    """Two or three large answers fill its room."""
    with running("--max-queue-bytes", "60000000", "--max-body-bytes", "30000000") as server:
        yield server


@pytest.mark.parametrize(
    "large",
    [
        LARGE,
        request("/decode", b'{"n": 2048}'),
        b"GET /sample?n=4096 HTTP/1.1\r\nHost: x\r\nAccept: application/octet-stream\r\n\r\n",
    ],
    ids=["npy", "json", "sample"],
)
def test_unread_answers_count_against_the_byte_budget(large: bytes, limited: Server) -> None:
    unread_ones = []
    try:
        with limited.client() as client:
            answers = []

            def is_refused() -> bool:
                """After one large answer more."""
                plain = socket.create_connection(address(limited), timeout=HANG_S)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                plain.sendall(large)
                unread_ones.append(plain)
                answers.append(client.post("/decode", json={"n": 1}))
                return answers[-1].status_code == 503

            assert wait_for(is_refused, 8) is not None
            assert "60,000,000" in answers[-1].json()["detail"]
            for plain in unread_ones:
                plain.close()
            assert wait_for(lambda: client.post("/decode", json={"n": 1}).is_success, 5) is not None
    finally:
        for plain in unread_ones:
            plain.close()


def test_an_evicted_connection_is_really_closed(live: Service) -> None:
    """Of those whose answer is not read as well as of idle ones."""
    open_before = live.open_files()
    unread_ones = [unread(live) for _ in range(20)]
    idle = [socket.create_connection((live.host, live.port), timeout=HANG_S) for _ in range(40)]
    time.sleep(0.3)
    assert live.open_files() <= open_before + 31
    for plain in (*unread_ones, *idle):
        plain.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "a TLS handshake; the address begins with",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "it is HTTP/2"),
        (b"patch /livez HTTP/1.1\r\nHost: x\r\n\r\n", "the method is patch, expected PATCH"),
        (b"post /encode HTTP/1.1\r\nHost: x\r\n\r\n", "the method is post, expected POST"),
        (b"brew /encode HTTP/1.1\r\nHost: x\r\n\r\n", 'this is not HTTP/1.1"'),
        (CHUNKED + b"post /x\r\n", 'this is not HTTP/1.1"'),
    ],
)
def test_what_is_not_http_is_named(connection: Connection, data: bytes, words: str) -> None:
    connection.send(data)
    status, _, body = connection.answer()
    assert status.startswith("HTTP/1.1 400 ")
    assert words in body.decode()
