"""Listening sockets that end without losing a caller, and go on where others hold them."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from typing import Final

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
"""From Linux's <asm-generic/socket.h>; Python's socket module has no names for them."""

DROP_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte of TCP's flags
        (0x45, 0, 1, 0x02),  # SYN? else skip one
        (0x06, 0, 0, 0),  # keep nothing of the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
    )
)
"""A program of Berkeley's packet filter. Handshakes that have begun end: whose last packet were
dropped would think that it is connected."""


def stop_new_connections(listener: int) -> None:
    """Drop what would be a new connection, as if nobody listened, and keep those that wait."""
    if sys.platform == "linux":
        program = create_string_buffer(DROP_SYN, len(DROP_SYN))
        length = len(DROP_SYN) // struct.calcsize("HBBI")
        with _own(listener) as own, suppress(OSError):  # without it, who comes just now is reset
            own.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", length, addressof(program))
            )


def drain_accept_queue(listener: int, take: Callable[[socket.socket], object]) -> None:
    """Give `take` the connections that wait at a listening socket.

    Closing it would reset them, and their callers think that they are connected.
    """
    with _own(listener) as own:
        own.setblocking(False)
        while True:
            try:
                accepted, _ = own.accept()
            except OSError:
                return
            take(accepted)


def _own(listener: int) -> socket.socket:
    """The same socket by another descriptor, to close."""
    return socket.socket(fileno=socket.dup(listener))


def resume_connections(listener: socket.socket) -> None:
    """Undo `stop_new_connections`. The filter belongs to the socket, whichever process holds it."""
    if sys.platform == "linux":
        with suppress(OSError):  # there is none
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
