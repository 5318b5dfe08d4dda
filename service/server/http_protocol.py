"""HTTP/1.1 connections: uvicorn's parser and request cycle, with limits on time and size.

A connection reads and writes at the same time. What its parser reads is in a `ReadState`::

    IDLE ── first byte of a head ──▶ HEAD ── end of the head ──▶ BODY ── end of the body ──▶ IDLE
                                      └── asks for another protocol ──▶ UPGRADE ──▶ HEAD again
    any ── not HTTP, or over a limit ──▶ BROKEN

While that is IDLE, a `DirectReader` takes requests that need no parsing. Written bytes that the
client has not read are the connection's `WriteBacklog`. These, and whether a request is being
answered, determine what the connection is waiting for. `Connections` limits that time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.http.direct import DirectRequests
from service.http.lifecycle import new_id
from service.http.prepared import PreparedResponse
from service.http.problems import error_response
from service.server.connections import Connections
from service.server.cycle import Cycle
from service.server.direct_reader import END_OF_HEAD, DirectReader
from service.server.write_backlog import WriteBacklog

log = logging.getLogger("service")

MAX_HEAD_BYTES: Final = 65_536
"""Limit on a head, and on what else the parser collects before it makes progress: one line, or the
trailers of a chunked body."""

MAX_HEADERS: Final = 128

TLS_HANDSHAKE: Final = b"\x16\x03"

HTTP_2: Final = b"PRI * HTTP/2"

METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")

MAX_METHOD_BYTES: Final = 8
"""Of the longest of them, and a blank."""

TLS_CLOSE_S: Final = 1.0
"""How long a client that has read all answers may take to confirm the end of a TLS connection."""


class ReadState(Enum):
    """What the next byte of a connection belongs to."""

    IDLE = auto()
    """The next request."""
    HEAD = auto()
    BODY = auto()
    UPGRADE = auto()
    """A head that asks for another protocol. It is parsed again without that request."""
    BROKEN = auto()
    """Nothing: the connection is not read any more."""


class HttpProtocol(HttpToolsProtocol):
    """One connection. Its requests are `Cycle`s."""

    def __init__(
        self,
        *args: Any,
        connections: Connections,
        refuse: Callable[[Any], PreparedResponse | None],
        direct: DirectRequests,
        **options: Any,
    ) -> None:
        """`refuse` gives the answer to a request that is refused before it gets a task, or None."""
        super().__init__(*args, **options)
        self._connections = connections
        self._refuse_early = refuse
        self._direct = direct
        self._reader = DirectReader(self, direct, connections.budget)
        self._arrived_meanwhile = b""
        """Received while a direct request was being answered."""
        self._chunk = b""
        """What is being parsed, if it begins with the head that comes next."""
        self._state = ReadState.IDLE
        self._bytes_without_progress = 0
        """Received since the parser last reached the end of a head or a part of a body."""
        self._can_refuse_early = False

    # Called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Count the connection, or refuse it."""
        super().connection_made(transport)
        self._backlog = WriteBacklog(transport, self._connections.budget)
        if not self._connections.add(self):
            self._refuse_connection(
                503, "too many connections; try again later", ("retry-after", "1")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the requests whose answers have not been sent."""
        self._parse(self._reader.give_up())
        self._connections.remove(self)
        self._backlog.clear()
        unanswered = [cycle for cycle, _ in self.pipeline]
        if self.cycle is not None:
            unanswered.append(self.cycle)
        super().connection_lost(exc)
        for cycle in unanswered:
            context = cycle.scope["state"].get("context")
            if context is not None and not cycle.response_complete:
                context.leave()
        if self._reader.request is not None:
            self._reader.request.leave()

    def data_received(self, data: bytes) -> None:
        """Read what has arrived: past the parser if that is possible."""
        if self._reader.request is not None or self._arrived_meanwhile:
            self._arrived_meanwhile += data
            self.flow.pause_reading()
            return
        if self._reader.is_collecting or self._is_between_requests:
            self._chunk = data = self._reader.take(data)
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        # Only for one request per read: those behind it wait until it is answered.
        self._can_refuse_early = True
        self._bytes_without_progress += len(data)
        while data and not self._is_broken:
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as error:
                data = self._head_without_upgrade() + data[error.args[0] :]
            except httptools.HttpParserError:
                if not self._is_broken:
                    self._break(400, self._why_not_http(data))
        self._chunk = b""
        if self._bytes_without_progress > MAX_HEAD_BYTES and not self._is_broken:
            self._break_over_limit()

    def _why_not_http(self, data: bytes) -> str:
        """What a client sent that could not be parsed, if its first bytes tell."""
        hint = ""
        if self._state in (ReadState.IDLE, ReadState.HEAD):
            if data.startswith(TLS_HANDSHAKE):
                hint = ": it is a TLS handshake; the address begins with http://, not https://"
            elif data.startswith(HTTP_2):
                hint = ": it is HTTP/2"
            else:
                method = data[:MAX_METHOD_BYTES].partition(b" ")[0]
                if method.islower() and method.upper() in METHODS:
                    hint = f": the method is {method.decode()}, expected {method.decode().upper()}"
        return f"this is not HTTP/1.1{hint}"

    def pause_writing(self) -> None:
        """The client reads more slowly than answers are written."""
        super().pause_writing()
        self._watch_backlog()

    def resume_writing(self) -> None:
        """Nearly everything has been sent."""
        super().resume_writing()
        self._backlog.clear()
        self._update_timeout()

    # Called by the parser

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._state = ReadState.HEAD
        self._bytes_without_progress = 0
        self._connections.mark_reading(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is ignored."""
        if self._state is ReadState.HEAD:
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                self._break_over_limit()
                raise ValueError  # stops the parser

    def on_headers_complete(self) -> None:
        """The end of a head."""
        chunk, self._chunk = self._chunk, b""
        if self.parser.should_upgrade():
            self._state = ReadState.UPGRADE  # the parser stops here
            return
        self._state = ReadState.BODY
        self._bytes_without_progress = 0
        self._connections.mark_busy(self)
        super().on_headers_complete()
        if chunk and self.cycle.keep_alive:
            head = chunk[: chunk.find(END_OF_HEAD) + len(END_OF_HEAD)]
            self._direct.learn(head, self.scope)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._bytes_without_progress = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        if self._state is ReadState.UPGRADE:
            return
        super().on_message_complete()
        if not self._is_broken:
            self._state = ReadState.IDLE
        self._bytes_without_progress = 0
        if self.cycle.response_complete:  # it was answered before it had arrived completely
            self._update_timeout()

    # Called by cycles, the server and `Connections`

    def on_response_complete(self) -> None:
        """An answer has been written. As in uvicorn, but without a timer per connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch_backlog()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._update_timeout()

    def on_timeout(self) -> None:
        """What the connection was waiting for has not come in time: a head, the rest of a body, the
        next request, or progress of a client that reads an answer."""
        if self._reader.is_collecting:
            self._parse(self._reader.give_up())
        elif not self._backlog.is_empty and self._backlog.has_progressed():
            self._watch_backlog()
        elif self._state is ReadState.HEAD and self._backlog.is_empty and not self._is_answering:
            limit = f"{self._connections.header_timeout_s:g} s"
            self._refuse_connection(408, f"the request's head did not arrive within {limit}")
        else:
            self.close()

    def close(self) -> None:
        """Close now. An answer that the client does not read is abandoned."""
        if self._backlog.is_empty:
            self.transport.close()
            self._end_tls_soon()
        else:
            self.transport.abort()

    def close_after_answer(self) -> None:
        """Close after the current answer, or the next one."""
        if self.cycle is not None:
            self.cycle.keep_alive = False
        for cycle, _ in self.pipeline:
            cycle.keep_alive = False

    def shutdown(self) -> None:
        """Called by the server when it stops."""
        self._parse(self._reader.give_up())
        if self._reader.request is None:  # otherwise its answer closes the connection
            self._read_meanwhile()
            super().shutdown()
        if self.transport.is_closing():
            self._end_tls_soon()

    def await_body(self) -> None:
        """See `DirectConnection`."""
        self._connections.mark_collecting(self)

    def await_batch(self) -> None:
        """See `DirectConnection`."""
        self._connections.mark_busy(self)

    def answer_directly(self, status: int, head: bytes, body: bytes) -> None:
        """Write the answer to the current request. `head` is its header lines."""
        self._reader.request = None
        lines = [
            name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers
        ]
        end = b"connection: close\r\n\r\n" if self._connections.closing else b"\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], *lines, head, end, body)))
        if self._connections.closing:
            self.transport.close()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch_backlog()
            return
        self._update_timeout()
        if self._arrived_meanwhile:  # not now: other answers of the batch are still to be written
            self.loop.call_soon(self._read_meanwhile)

    def _read_meanwhile(self) -> None:
        """Read what arrived while a direct request was being answered."""
        data, self._arrived_meanwhile = self._arrived_meanwhile, b""
        if data and not self.transport.is_closing():
            self.flow.resume_reading()
            self.data_received(data)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin a request whose turn it is: the answers before it have been written."""
        if self._connections.closing:
            cycle.keep_alive = False
        cycle.__class__ = Cycle  # uvicorn has no setting for its class
        response = None
        if self._can_refuse_early and not self.pipeline and not self.flow.write_paused:
            response = self._refuse_early(cycle.scope)
        if response is None:
            super()._start_asgi_task(cycle, app)
        else:
            self._can_refuse_early = False
            cast("Cycle", cycle).answer(response)

    @property
    def _is_broken(self) -> bool:
        return self._state is ReadState.BROKEN

    @property
    def _is_between_requests(self) -> bool:
        """Whether the next byte begins a request, and its answer could be sent at once."""
        is_quiet = self._state is ReadState.IDLE and not self.flow.write_paused
        return is_quiet and not self._is_answering and not self._connections.closing

    @property
    def _is_answering(self) -> bool:
        if self._reader.request is not None:
            return True
        return self.cycle is not None and not self.cycle.response_complete

    def _update_timeout(self) -> None:
        """Set the time limit for what the connection is waiting for now."""
        if self.flow.write_paused:
            self._connections.mark_reading(self)
        elif self._is_answering:
            self._connections.mark_busy(self)
        elif self._state is ReadState.IDLE:
            self._connections.mark_idle(self, self._connections.keep_alive_s)
        else:
            self._connections.mark_reading(self)

    def _watch_backlog(self) -> None:
        """Limit the time in which a client reads nothing of an answer, however little remains."""
        if not self._backlog.is_empty:
            self._backlog.update()
            self._connections.mark_reading(self)

    def _head_without_upgrade(self) -> bytes:
        """The head for a new parser, without the request for another protocol.

        A server may ignore that request (RFC 9110, section 7.8). The parser does not: it would take
        the body for the other protocol. CONNECT cannot be ignored: it has no headers.
        """
        self._state = ReadState.HEAD
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._break(400, "CONNECT is not supported: this is not a proxy")
            return b""
        version = self.parser.get_http_version().encode("ascii")
        lines = [method + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _break_over_limit(self) -> None:
        self._break(
            431,
            f"a request's head, like its trailers, may have at most {MAX_HEAD_BYTES:,} bytes and "
            f"{MAX_HEADERS} lines",
        )

    def _break(self, status: int, detail: str) -> None:
        """Stop reading, refuse what is not a request, and close.

        Requests that have arrived completely are still answered; then the connection closes without
        a refusal.
        """
        in_body = self._state is ReadState.BODY
        self._state = ReadState.BROKEN
        if self._is_answering:
            if not in_body or self.pipeline or self.cycle.response_started:
                self.cycle.keep_alive = False
                return
            self.cycle.disconnected = True  # the broken body is its own
        self._refuse_connection(status, detail)

    def _refuse_connection(self, status: int, detail: str, *headers: tuple[str, str]) -> None:
        """Answer something that is not a complete request, and close."""
        request_id = new_id()
        self._connections.note_refusal(status)
        log.info("not a request, %s: %d, %s", request_id, status, detail)
        response = error_response("", status, detail, request_id=request_id, headers=dict(headers))
        lines = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"x-request-id", request_id.encode("ascii")),
            (b"connection", b"close"),
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(response.body))
        self.transport.close()
        self._watch_backlog()

    def _end_tls_soon(self) -> None:
        """Close soon without the client's confirmation of the end of TLS, which may never come."""
        if self.scheme == "https":
            self.loop.call_later(TLS_CLOSE_S, self._end_tls)

    def _end_tls(self) -> None:
        is_open = self.transport.get_extra_info("socket") is not None
        if is_open and not self._backlog.count_unacknowledged():
            self.transport.abort()
