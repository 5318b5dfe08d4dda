"""A request on its way through the app, and its answer."""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.http.prepared import PreparedResponse, TrustedHeaders

REQUEST_TIMEOUT: Final = 408


class Cycle(RequestResponseCycle):
    """A request and its answer.

    uvicorn writes head and body separately, each of which costs 5 to 15 µs, and checks every
    header. A response with `TrustedHeaders` is written in one piece, unchecked.
    """

    head = b""
    """The head of the answer until its body is written."""

    async def send(self, message: Any) -> None:
        """Send one ASGI message of the answer."""
        if not self.response_started and type(message.get("headers")) is TrustedHeaders:
            self._begin(message["status"], message["headers"])
        elif self.head:
            await self._finish(message["body"])
        else:
            await super().send(message)

    def answer(self, response: PreparedResponse) -> None:
        """Write the whole answer to a request that has no task."""
        self._begin(response.status, response.headers)
        self._write(response.body)

    def _begin(self, status: int, headers: TrustedHeaders) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        if status == REQUEST_TIMEOUT:
            self.keep_alive = False  # do not wait for the rest of the body
        lines = [name + b": " + value for name, value in (*self.default_headers, *headers)]
        if not self.keep_alive:
            lines.append(b"connection: close")
        self.head = STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n"

    async def _finish(self, body: bytes) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self._write(body)

    def _write(self, body: bytes) -> None:
        is_head = self.scope["method"] == "HEAD"  # whose answer has no body (RFC 9110, 9.3.2)
        self.transport.write(self.head if is_head else self.head + body)
        self.head = b""
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
