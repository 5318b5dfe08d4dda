"""Listening sockets of workers: opened, stopped without losing clients, and resumed for another
process. A single process listens through uvicorn."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from typing import Final

BACKLOG: Final = 2048
"""Length of a socket's accept queue; uvicorn's default."""

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
"""From Linux's <asm-generic/socket.h>; Python's socket module lacks them."""

DROP_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte with the TCP flags
        (0x45, 0, 1, 0x02),  # if SYN is not set, skip the next instruction
        (0x06, 0, 0, 0),  # drop the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # accept the packet
    )
)
"""A Berkeley Packet Filter program that drops only SYN packets. Handshakes that have begun must
complete: a client whose last packet is dropped would believe that it is connected."""


def open_listeners(host: str, port: int, workers: int) -> list[socket.socket]:
    """Open a socket for each worker, all on `port`, or on a free one if that is 0.

    On systems other than Linux, all share one socket. Raises `OSError` if the port is in use.
    """
    is_distributed = sys.platform == "linux"
    # The first socket does not share its port: it fails if another service uses the port, even one
    # that would share it.
    probe = _listen(host, port, share=False)
    port = probe.getsockname()[1]
    if not is_distributed:
        return [probe] * workers
    probe.close()
    return [_listen(host, port, share=True) for _ in range(workers)]


def _listen(host: str, port: int, *, share: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def stop_new_connections(listener: int) -> None:
    """Refuse new connections as if nothing were listening, but keep those in the accept queue."""
    if sys.platform == "linux":
        program = create_string_buffer(DROP_SYN, len(DROP_SYN))
        length = len(DROP_SYN) // struct.calcsize("HBBI")
        with (
            _duplicate(listener) as duplicate,
            suppress(OSError),
        ):  # without the filter, clients that connect right now are reset
            duplicate.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", length, addressof(program))
            )


def drain_accept_queue(listener: int, take: Callable[[socket.socket], object]) -> None:
    """Pass the connections in a listening socket's accept queue to `take`.

    Closing the socket would reset them, although their clients believe that they are connected.
    """
    with _duplicate(listener) as duplicate:
        duplicate.setblocking(False)
        while True:
            try:
                accepted, _ = duplicate.accept()
            except OSError:
                return
            take(accepted)


def _duplicate(listener: int) -> socket.socket:
    """A duplicate of a socket. The caller closes it."""
    return socket.socket(fileno=socket.dup(listener))


def resume_connections(listener: socket.socket) -> None:
    """Undo `stop_new_connections`. The filter belongs to the socket, not to the process."""
    if sys.platform == "linux":
        with suppress(OSError):  # there is no filter
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
