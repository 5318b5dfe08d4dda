"""Over a real socket: requests that find the queue full, refused before they become tasks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from benchmarks.peers.common import PIXELS
from benchmarks.reliability.harness import Service, raw, service, wait_for
from tests.api.connections import ZEROS, Connection, request

QUEUE = 256
"""More than runs on the event loop: there the network would not hang."""

LIMITS = (
    *("--max-batch-images", str(QUEUE), "--max-queue-images", str(QUEUE)),
    *("--max-images-per-request", str(QUEUE), "--stall-timeout-s", "300"),
)
WORK = ("/encode", "/decode", "/reconstruct", "/anomaly-score", "/v2/models/encode/infer")


@contextmanager
def full(directory: Path, *flags: str, key: str = "") -> Iterator[Service]:
    """A service whose network hangs, and whose queue is full."""
    environment = {"SICK_DIRECTORY": str(directory)} | ({"VAE_API_KEYS": key} if key else {})
    module = "benchmarks.reliability.sick_service"
    with service(*LIMITS, *flags, module=module, environment=environment) as live:
        (directory / str(live.pid)).write_text("hang")

        def ask() -> None:
            with suppress(OSError, HTTPException), live.caller(300) as caller:
                while caller.ask(raw(QUEUE, Authorization=f"Bearer {key}")).status == 503:
                    time.sleep(0.01)  # the other one does not run yet

        for _ in range(2):  # a batch that runs, and one that waits
            threading.Thread(target=ask, daemon=True).start()
        assert wait_for(lambda: is_full(live, key), 20) is not None
        yield live
        live.process.kill()  # what hangs would be waited for


def is_full(live: Service, key: str) -> bool:
    """Whether one of the two requests waits while the other one runs: both hold their bytes."""
    with closing(Connection(live.host, live.port)) as connection:
        connection.send(request("/metrics", headers=(f"Authorization: Bearer {key}",)))
        lines = connection.answer()[2].decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines)
    both = float(found["vae_queue_bytes"]) > 1.5 * 2 * QUEUE * PIXELS  # body and images of each
    return both and float(found["vae_queue_images"]) == QUEUE


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with full(tmp_path_factory.mktemp("sick")) as live:
        yield live


@pytest.fixture
def connection(live: Service) -> Iterator[Connection]:
    with closing(Connection(live.host, live.port)) as connection:
        yield connection


def check_refused(answer: tuple[str, dict[str, str], bytes], request_id: str | None = None) -> None:
    status, headers, body = answer
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert int(headers["retry-after"]) >= 1
    assert {"date", "x-model-version", "server-timing"} <= set(headers)
    found = json.loads(body)
    assert "256 wait already, the maximum is 256" in (found.get("detail") or found["error"])
    if request_id is not None:
        assert headers["x-request-id"] == request_id


@pytest.mark.parametrize("path", WORK)
def test_each_route_refuses_and_the_connection_goes_on(connection: Connection, path: str) -> None:
    for number in range(3):
        connection.send(request(path, ZEROS, headers=(f"X-Request-ID: id-{number}",)))
        check_refused(connection.answer(), f"id-{number}")
        connection.send(request("/livez"))
        assert connection.answer()[0] == "HTTP/1.1 200 OK"


def test_pipelined_requests_are_refused_in_order(connection: Connection) -> None:
    """Ten thousand of them, too, which are many in each piece that the service reads."""
    paths = [("/encode", ZEROS), ("/livez", b""), ("/decode", b'{"n": 1}')]
    few = [(f"id-{number}", *paths[number % 3]) for number in range(60)]
    connection.send(
        b"".join(request(p, body, headers=(f"X-Request-ID: {name}",)) for name, p, body in few)
    )
    for name, path, _ in few:
        answer = connection.answer()
        if path == "/livez":
            assert answer[1]["x-request-id"] == name
        else:
            check_refused(answer, name)
    sender = threading.Thread(
        target=connection.send, args=(request("/decode", b'{"n": 1}') * 10_000,)
    )
    sender.start()
    for _ in range(10_000):
        check_refused(connection.answer())
    sender.join()


def test_a_body_that_follows_a_refusal_is_skipped(connection: Connection) -> None:
    """In pieces, and with what looks like a request in it."""
    whole = request("/encode", request("/livez") * 50)
    head, body = whole.split(b"\r\n\r\n", 1)
    connection.send(head + b"\r\n\r\n")
    check_refused(connection.answer())
    for start in range(0, len(body), 999):
        connection.send(body[start : start + 999])
    connection.send(request("/readyz", headers=("X-Request-ID: next",)))
    assert connection.answer()[1]["x-request-id"] == "next"


def test_connection_close_is_honoured(live: Service) -> None:
    for options in ({"headers": ("Connection: close",)}, {"version": "1.0"}):
        with closing(Connection(live.host, live.port)) as connection:
            connection.send(request("/encode", ZEROS, **options))
            answer = connection.answer()
            check_refused(answer)
            assert answer[1]["connection"] == "close"
            assert connection.is_closed()


def test_refusals_are_counted_and_logged(live: Service, connection: Connection) -> None:
    labels = {"method": "POST", "route": "/encode", "status": "503"}
    before = live.metric("vae_requests_total", **labels), live.metric("vae_refusals_total")
    for number in range(5):
        connection.send(request("/encode", ZEROS, headers=(f"X-Request-ID: seen-{number}",)))
        check_refused(connection.answer())
    after = live.metric("vae_requests_total", **labels), live.metric("vae_refusals_total")
    assert [b - a for a, b in zip(before, after, strict=True)] == [5, 5]
    assert wait_for(lambda: "seen-4" in live.said(), 5) is not None
    lines = [line for line in live.said().splitlines() if "seen-" in line]
    assert len(lines) == 5
    assert all("503" in line and "/encode" in line for line in lines)


def test_a_caller_without_a_key_gets_401_and_not_503(tmp_path: Path) -> None:
    """Also: a refusal has the CORS header that lets a page of an allowed origin read it."""
    key, origin = "k" * 32, "https://page.example"
    bearer = f"Authorization: Bearer {key}"
    with (
        full(tmp_path, "--cors-origins", origin, key=key) as live,
        closing(Connection(live.host, live.port)) as connection,
    ):
        connection.send(request("/encode", ZEROS))
        assert connection.answer()[0] == "HTTP/1.1 401 Unauthorized"
        for headers, allowed in (((bearer,), ""), ((bearer, f"Origin: {origin}"), origin)):
            connection.send(request("/encode", ZEROS, headers=headers))
            answer = connection.answer()
            check_refused(answer)
            assert answer[1].get("access-control-allow-origin", "") == allowed
