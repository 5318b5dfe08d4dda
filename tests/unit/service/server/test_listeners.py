"""Listening sockets: closing them without losing connections."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from benchmarks.reliability.harness import wait_for
from service.server.listeners import drain_accept_queue, resume_connections, stop_new_connections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no filter")

HANG_S = 5.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def waiting(listener: socket.socket) -> list[socket.socket]:
    found: list[socket.socket] = []
    drain_accept_queue(listener.fileno(), found.append)
    return found


def greetings(accepted: list[socket.socket]) -> set[bytes]:
    with ExitStack() as closed:
        for one in accepted:
            closed.enter_context(one)
            one.settimeout(HANG_S)
        return {one.recv(10) for one in accepted}


def test_waiting_connections_are_accepted_and_later_ones_are_not(listener: socket.socket) -> None:
    address = listener.getsockname()
    with socket.create_connection(address, timeout=HANG_S) as client:
        client.sendall(b"first")
        stop_new_connections(listener.fileno())
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.2)
        assert greetings(waiting(listener)) == {b"first"}
    resume_connections(listener)
    with socket.create_connection(address, timeout=HANG_S) as client:
        client.sendall(b"second")
        assert greetings(waiting(listener)) == {b"second"}


def test_a_handshake_that_has_begun_ends(listener: socket.socket) -> None:
    """Its last packet is put off here until there are data: the client believes to be connected."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    with socket.create_connection(listener.getsockname(), timeout=HANG_S) as client:
        stop_new_connections(listener.fileno())
        assert waiting(listener) == []
        client.sendall(b"late")
        accepted: list[socket.socket] = []

        def came() -> bool:
            accepted.extend(waiting(listener))
            return bool(accepted)

        assert wait_for(came, HANG_S) is not None
        assert greetings(accepted) == {b"late"}
