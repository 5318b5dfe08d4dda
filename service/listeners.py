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

DROP_ALL: Final = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A program of Berkeley's packet filter: return 0 bytes of each packet."""


def take_what_waits(listener: int, take: Callable[[socket.socket], object]) -> None:
    """Give `take` the connections that wait at a listening socket, and let no others come.

    Closing the socket would reset those that are in the kernel's queue, whose callers think that
    they are connected. A filter drops what arrives from now on: they will hear that nobody listens.
    """
    with socket.socket(fileno=socket.dup(listener)) as own:
        if sys.platform == "linux":
            program = create_string_buffer(DROP_ALL, len(DROP_ALL))
            with suppress(OSError):  # without it, a caller who comes just now is reset
                own.setsockopt(
                    socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, addressof(program))
                )
        own.setblocking(False)
        while True:
            try:
                accepted, _ = own.accept()
            except OSError:
                return
            take(accepted)


def let_callers_come(listener: socket.socket) -> None:
    """Undo what `take_what_waits` left behind: the filter is the socket's, whoever holds it."""
    if sys.platform == "linux":
        with suppress(OSError):  # there is none
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
