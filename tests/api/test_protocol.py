"""Bytes on the socket: answers of fast routes and of FastAPI's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from itertools import product

import pytest

from tests.api.connections import ZEROS, Connection, request
from tests.processes import Server, address

OWN, FRAMEWORK, LARGE = "/encode", "/livez", "/decode"


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with closing(Connection(*address(server))) as connection:
        yield connection


def test_one_connection_takes_any_answers_one_after_another(connection: Connection) -> None:
    bodies = {OWN: ZEROS, FRAMEWORK: b"", LARGE: b'{"n": 64}', "/anomaly-score": b"{"}
    for first, second in product(bodies, bodies):
        for path in (first, second):
            connection.send(request(path, bodies[path]))
            status, headers, body = connection.answer()
            assert status == (
                "HTTP/1.1 400 Bad Request" if bodies[path] == b"{" else "HTTP/1.1 200 OK"
            )
            assert json.loads(body)
            assert "connection" not in headers
            assert {"x-request-id", "x-model-version", "server-timing", "date"} <= set(headers)
            assert "server" not in headers


@pytest.mark.parametrize("path", ["/nowhere", OWN, "/model", "/sample", "/v2/nowhere"])
def test_an_answer_to_head_has_no_body(connection: Connection, path: str) -> None:
    """Its bytes would be taken for the next answer."""
    status = {"/model": b"200", "/sample": b"200", OWN: b"405"}.get(path, b"404")
    for _ in range(2):
        connection.send(request(path).replace(b"GET", b"HEAD", 1))
        head = connection.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"content-length: " in head
        connection.send(request("/livez"))
        assert connection.answer()[0] == "HTTP/1.1 200 OK"


def test_pipelined_requests_are_answered_in_order(connection: Connection) -> None:
    ids = [f"id-{i}" for i in range(20)]
    paths = [(OWN, ZEROS), (FRAMEWORK, b"")] * 10
    connection.send(
        b"".join(
            request(path, body, headers=(f"X-Request-ID: {name}",))
            for name, (path, body) in zip(ids, paths, strict=True)
        )
    )
    assert [connection.answer()[1]["x-request-id"] for _ in ids] == ids


@pytest.mark.parametrize(("path", "body"), [(OWN, ZEROS), (FRAMEWORK, b""), (LARGE, b'{"n": 64}')])
def test_connection_close_is_honoured(server: Server, path: str, body: bytes) -> None:
    for options in ({"headers": ("Connection: close",)}, {"version": "1.0"}):
        with closing(Connection(*address(server))) as connection:
            connection.send(request(path, body, **options))
            status, headers, _ = connection.answer()
            assert status == "HTTP/1.1 200 OK"
            assert headers["connection"] == "close"
            assert connection.is_closed()


def test_a_body_in_small_pieces_and_expect_100_continue(connection: Connection) -> None:
    whole = request(OWN, ZEROS)
    for start in range(0, len(whole), 97):
        connection.send(whole[start : start + 97])
    assert connection.answer()[0] == "HTTP/1.1 200 OK"
    head, body = request(OWN, ZEROS, headers=("Expect: 100-continue",)).split(b"\r\n\r\n", 1)
    connection.send(head + b"\r\n\r\n")
    assert connection.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    connection.send(body)
    assert connection.answer()[0] == "HTTP/1.1 200 OK"


def test_a_request_id_cannot_inject_headers(connection: Connection) -> None:
    for name in ("a\tb", "x" * 129, "ä", "a b"):
        connection.send(request(OWN, ZEROS, headers=(f"X-Request-ID: {name}",)))
        _, headers, _ = connection.answer()
        assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])


def test_clients_that_leave_early_affect_nobody(server: Server) -> None:
    many = json.dumps({"images": [[0.5] * 784] * 64}).encode()
    for _ in range(30):
        with closing(Connection(*address(server))) as connection:
            connection.send(request("/reconstruct", many))
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
    assert "Traceback" not in server.log.read_text()
