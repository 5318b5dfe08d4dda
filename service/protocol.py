"""HTTP/1.1 by uvicorn, that writes this service's own answers in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.connections import Connections
from service.context import OwnAnswer, OwnHeaders, new_id
from service.errors import error_response

REQUEST_TIMEOUT = 408


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
        if status == REQUEST_TIMEOUT:
            self.keep_alive = False  # the rest of the body is not waited for
        lines = [name + b": " + value for name, value in (*self.default_headers, *headers)]
        if not self.keep_alive:
            lines.append(b"connection: close")
        self.head = STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n"

    async def _finish(self, body: bytes) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self._write(body)

    def answer(self, answer: OwnAnswer) -> None:
        """Give the whole answer, to a request that nothing works on."""
        self._begin(answer.status, answer.headers)
        self._write(answer.body)

    def _write(self, body: bytes) -> None:
        self.transport.write(self.head + body)
        self.head = b""
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Protocol(HttpToolsProtocol):
    """A connection, whose requests are `Cycle`s."""

    def __init__(
        self,
        *given: Any,
        shared: Connections,
        refuse: Callable[[Any], OwnAnswer | None],
        **named: Any,
    ) -> None:
        """`refuse` gives the answer to a request that is not to be worked on."""
        super().__init__(*given, **named)
        self._shared = shared
        self._refuse_early = refuse
        self._may_refuse = False
        self._in_head = False
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Called by the event loop."""
        super().connection_made(transport)
        if not self._shared.add(self):
            self._refuse(503, "there are too many connections", ("retry-after", "1"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop: nobody waits for the answers that are not out."""
        self._shared.remove(self)
        unanswered = [cycle for cycle, _ in self.pipeline]
        if self.cycle is not None:
            unanswered.append(self.cycle)
        super().connection_lost(exc)
        for cycle in unanswered:
            context = cycle.scope["state"].get("context")
            if context is not None and not cycle.response_complete:
                context.leave()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words for it
        """Answer what is not HTTP, and close."""
        self._refuse(400, "this is not HTTP/1.1")

    def _refuse(self, status: int, detail: str, *more: tuple[str, str]) -> None:
        """Answer what is no request yet, and close."""
        request_id = new_id()
        answer = error_response("", status, detail, request_id=request_id, headers=dict(more))
        headers = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            (b"x-request-id", request_id.encode("ascii")),
            (b"connection", b"close"),
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def too_late(self) -> None:
        """The time is over in which a head, the rest of a body or another request may come."""
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            limit = f"{self._shared.header_timeout_s:g} s"
            self._refuse(408, f"the request's head did not arrive within {limit}")
        else:
            self.transport.close()

    def close(self) -> None:
        """Make room for another connection."""
        self.transport.close()

    def close_after_answer(self) -> None:
        """The answer under way, or the next one, is the last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False
        for cycle, _ in self.pipeline:
            cycle.keep_alive = False

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._in_head = True
        self._shared.sends(self)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        super().on_message_complete()
        self._in_body = False
        if self.cycle.response_complete:  # it was answered before it was all there
            self._shared.waits(self, self._shared.keep_alive_s)

    def on_response_complete(self) -> None:
        """Called by the cycle. As uvicorn's, but for its timer of each connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._in_body:
            self._shared.sends(self)
        elif not self._in_head:
            self._shared.waits(self, self._shared.keep_alive_s)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False
        self._in_body = True
        self._shared.works(self)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Called when it is a request's turn: the answers before it are out."""
        if self._shared.closing:
            cycle.keep_alive = False
        cycle.__class__ = Cycle  # uvicorn has no place to say which class it shall be of
        answer = None
        if self._may_refuse and not self.pipeline and not self.flow.write_paused:
            answer = self._refuse_early(cycle.scope)
        if answer is None:
            super()._start_asgi_task(cycle, app)
        else:
            self._may_refuse = False
            cast("Cycle", cycle).answer(answer)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._may_refuse = True  # one request of these: others wait while it is answered
        super().data_received(data)
