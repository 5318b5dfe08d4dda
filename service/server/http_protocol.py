"""HTTP/1.1 by uvicorn, that writes this service's own answers in one piece."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.http.lifecycle import new_id
from service.http.prepared import PreparedResponse, TrustedHeaders
from service.http.problems import error_response
from service.server.connections import Connections

if sys.platform == "linux":
    import fcntl
    import termios

log = logging.getLogger("service")

REQUEST_TIMEOUT = 408

MAX_HEAD_BYTES: Final = 65_536
"""Of a head, or of what else the parser gathers without an end to it: a line, trailers."""

MAX_HEADERS: Final = 128

LEAST_TAKEN: Final = 65_536
"""Bytes of an answer that a client is to take in each `header_timeout_s`."""

TLS_END_S: Final = 1.0
"""For a client to agree to the end of a TLS connection of which it has got all."""


class Cycle(RequestResponseCycle):
    """A request and its answer.

    uvicorn gives head and body to the kernel one by one, and each time takes 5 to 15 µs; and it
    searches each header for what may not stand there, and for what changes how it writes. This
    service's `TrustedHeaders` have small names, none of them `connection`, no line breaks, and the
    content's length.
    """

    head = b""
    """Of the answer, until its body is there."""

    async def send(self, message: Any) -> None:
        """Take a part of the answer, as ASGI has it."""
        if not self.response_started and type(message.get("headers")) is TrustedHeaders:
            self._begin(message["status"], message["headers"])
        elif self.head:
            await self._finish(message["body"])
        else:
            await super().send(message)

    def _begin(self, status: int, headers: TrustedHeaders) -> None:
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

    def answer(self, answer: PreparedResponse) -> None:
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
        refuse: Callable[[Any], PreparedResponse | None],
        **named: Any,
    ) -> None:
        """`refuse` gives the answer to a request that is not to be worked on."""
        super().__init__(*given, **named)
        self._shared = shared
        self._refuse_early = refuse
        self._may_refuse = False
        self._in_head = False
        self._in_body = False
        self._got_on = False
        """Whether the parser has come to a head's end, or to a part of a body."""
        self._gathered = 0
        """Bytes in which it has not."""
        self._upgrades = False
        """Whether the head asks for another protocol."""
        self._broken = False
        """Whether nothing more is read."""
        self._unsent = 0
        """Bytes of answers that the kernel did not take; room is held for them."""
        self._untaken = 0
        """With those that the kernel has, when it was looked last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Called by the event loop."""
        super().connection_made(transport)
        if not self._shared.add(self):
            self._refuse(503, "there are too many connections", ("retry-after", "1"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop: nobody waits for the answers that are not out."""
        self._shared.remove(self)
        self._note_unsent(0)
        unanswered = [cycle for cycle, _ in self.pipeline]
        if self.cycle is not None:
            unanswered.append(self.cycle)
        super().connection_lost(exc)
        for cycle in unanswered:
            context = cycle.scope["state"].get("context")
            if context is not None and not cycle.response_complete:
                context.leave()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._may_refuse = True  # one request of these: others wait while it is answered
        self._got_on = False
        size = len(data)
        while data and not self._broken:
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as error:
                data = self._without_upgrade() + data[error.args[0] :]
            except httptools.HttpParserError:
                if not self._broken:
                    self._break_off(400, "this is not HTTP/1.1")
        self._gathered = 0 if self._got_on else self._gathered + size
        if self._gathered > MAX_HEAD_BYTES and not self._broken:
            self._break_off_head()

    def _without_upgrade(self) -> bytes:
        """The head once more, for another parser, without what asks for another protocol.

        A server need not heed that (RFC 9110, section 7.8). The parser does, and takes the body for
        something else. What it asks for cannot be done where there are no headers: CONNECT.
        """
        self._upgrades = False
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._break_off(400, "CONNECT is for proxies, and this is none")
            return b""
        version = self.parser.get_http_version().encode("ascii")
        lines = [method + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _break_off_head(self) -> None:
        self._break_off(
            431,
            f"a request's head has {MAX_HEAD_BYTES:,} bytes in {MAX_HEADERS} lines at most, and so "
            "has what follows a body",
        )

    def _break_off(self, status: int, detail: str) -> None:
        """Read nothing more: answer what is no request, and close.

        Requests that are here as a whole get their answers first, and then that is all.
        """
        self._broken = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not self._in_body or self.pipeline or cycle.response_started:
                cycle.keep_alive = False
                return
            cycle.disconnected = True  # its own body is what is broken off
        self._refuse(status, detail)

    def _refuse(self, status: int, detail: str, *more: tuple[str, str]) -> None:
        """Answer what is no request yet, and close."""
        request_id = new_id()
        self._shared.note_refusal(status)
        log.info("no request, %s: %d, %s", request_id, status, detail)
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
        self._limit_unsent()

    def on_timeout(self) -> None:
        """The time is over in which a head, the rest of a body or another request may come, or an
        answer be taken."""
        left = self.transport.get_write_buffer_size()
        if left and self._untaken - self._count_untaken() >= LEAST_TAKEN:
            self._limit_unsent()
        elif self._in_head and not left and (self.cycle is None or self.cycle.response_complete):
            limit = f"{self._shared.header_timeout_s:g} s"
            self._refuse(408, f"the request's head did not arrive within {limit}")
        else:
            self.close()

    def close(self) -> None:
        """End now. An answer that the client does not take is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()
            self._end_tls_soon()

    def shutdown(self) -> None:
        """Called by the server at its end."""
        super().shutdown()
        if self.transport.is_closing():
            self._end_tls_soon()

    def _end_tls_soon(self) -> None:
        """An idle client may not look for the end of TLS, to which it is to agree."""
        if self.scheme == "https":
            self.loop.call_later(TLS_END_S, self._end_tls)

    def _end_tls(self) -> None:
        if self.transport.get_extra_info("socket") is not None and not self._count_untaken():
            self.transport.abort()

    def close_after_answer(self) -> None:
        """The answer under way, or the next one, is the last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False
        for cycle, _ in self.pipeline:
            cycle.keep_alive = False

    def pause_writing(self) -> None:
        """Called by the transport: the client takes less than it is given."""
        super().pause_writing()
        self._limit_unsent()

    def resume_writing(self) -> None:
        """Called by the transport: nearly all is out."""
        super().resume_writing()
        self._note_unsent(0)
        self._limit()

    def _note_unsent(self, n: int) -> None:
        """Hold room for so many bytes, as for bodies: who does not read fills it, not memory."""
        self._shared.budget.release(self._unsent)
        self._shared.budget.reserve(n)
        self._unsent = n
        self._untaken = self._count_untaken() if n else 0

    def _count_untaken(self) -> int:
        """Bytes that the client's side has not acknowledged: the kernel has megabytes of them, and
        takes no more until a third of those are gone."""
        unsent = self.transport.get_write_buffer_size()
        own = self.transport.get_extra_info("socket")
        if sys.platform != "linux" or own is None:
            return unsent
        queued = fcntl.ioctl(own, termios.TIOCOUTQ, bytes(4))
        return unsent + int.from_bytes(queued, sys.byteorder)

    def _limit_unsent(self) -> None:
        """Limit the time in which an answer may stand still; of a last one, though little of it be
        left."""
        left = self.transport.get_write_buffer_size()
        if left:
            self._note_unsent(left)
            self._shared.mark_reading(self)

    def _limit(self) -> None:
        """Limit the time of what is waited for now."""
        if self.flow.write_paused:
            self._shared.mark_reading(self)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._shared.mark_busy(self)
        elif self._in_head or self._in_body:
            self._shared.mark_reading(self)
        else:
            self._shared.mark_idle(self, self._shared.keep_alive_s)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._in_head = self._got_on = True
        self._shared.mark_reading(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too, which are no part of the head."""
        if self._in_head:
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                self._break_off_head()
                raise ValueError  # which ends the parser

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._upgrades:
            return
        super().on_message_complete()
        self._in_body = False
        self._got_on = True
        if self.cycle.response_complete:  # it was answered before it was all there
            self._limit()

    def on_response_complete(self) -> None:
        """Called by the cycle. As uvicorn's, but for its timer of each connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._limit_unsent()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._limit()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self.parser.should_upgrade():
            self._upgrades = True  # it ends here
            return
        self._in_head = False
        self._in_body = self._got_on = True
        self._shared.mark_busy(self)
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
