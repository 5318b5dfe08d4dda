"""HTTP/1.1 by uvicorn, that writes this service's own answers in one piece."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.context import OwnHeaders


class Cycle(RequestResponseCycle):
    """A request and its answer.

    uvicorn gives head and body to the kernel one by one, and each time takes 5 to 15 µs; and it
    searches each header for what may not stand there, and for what changes how it writes. This
    service's `OwnHeaders` have small names, none of them `connection`, no line breaks, and the
    content's length.
    """

    head = b""
    """Of the answer, until its body is there."""

    async def send(self, message: Any) -> None:
        """Take a part of the answer, as ASGI has it."""
        if not self.response_started and type(message.get("headers")) is OwnHeaders:
            self._begin(message["status"], message["headers"])
        elif self.head:
            await self._finish(message["body"])
        else:
            await super().send(message)

    def _begin(self, status: int, headers: OwnHeaders) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [name + b": " + value for name, value in (*self.default_headers, *headers)]
        if not self.keep_alive:
            lines.append(b"connection: close")
        self.head = STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n"

    async def _finish(self, body: bytes) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.transport.write(self.head + body)
        self.head = b""
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Protocol(HttpToolsProtocol):
    """A connection, whose requests are `Cycle`s."""

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        super().on_headers_complete()
        # It was made a moment ago, and its task has not begun. uvicorn has no place to say which
        # class it shall be of.
        if type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = Cycle
