"""What belongs to one request from its first byte to its last: id, deadline, timings."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from time import perf_counter, time
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.policy import Access
from service.access.rates import Quota
from service.errors import (
    InvalidContentError,
    QueueFullError,
    ServiceError,
    error_response,
    response_to,
)
from service.limits.byte_budget import Room
from service.telemetry.metrics import NO_ROUTE, Metrics
from service.telemetry.request_log import MAX_PATH, Ended, request_log
from service.telemetry.trace_context import Trace, join_trace

log = logging.getLogger("service")

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""A caller's X-Request-ID is taken if it is printable and short: it ends up in logs and headers."""

CLIENT_LEFT = 499
"""Counted as the status where the caller went before the body was there; nginx's number."""

RANDOM = Random()  # noqa: S311 - for what is no secret
"""Makes request ids: asking the kernel for each costs 7 µs."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods counted under their own name; a caller can invent any other."""

REFUSALS = {401: "unauthorized", 403: "forbidden", 429: "rate_limit"}
"""Statuses that are counted as refusals too."""


class OwnHeaders(list[tuple[bytes, bytes]]):
    """Headers that this service made itself, of an answer in one piece.

    `service.server.http_protocol` takes them without looking at them again.
    """


class OwnAnswer(NamedTuple):
    """An answer of this service's own, in one piece."""

    status: int
    headers: OwnHeaders
    body: bytes


@dataclass
class RequestContext:
    """One request. `queue_s` and `infer_s` are filled in by `service.inference.admission`."""

    request_id: str
    model_version: str
    """Of the network that answers it, though another may take its place meanwhile."""
    room: Room
    """For its body, its result and its answer."""
    timeout_s: float
    started: float
    headers: Mapping[str, str] = field(default_factory=dict)
    """As `headers_of` gives them."""
    queue_s: float = 0.0
    infer_s: float = 0.0
    images: int = 0
    """Or latents; filled in by `service.inference.admission` too."""
    trace: Trace | None = None
    """Where the caller sent a valid `traceparent`. Without one none is begun: nobody here records
    spans, and the request id tells requests apart."""
    key_name: str | None = None
    """Of the API key."""
    quota: Quota | None = None
    """What the key may send, if that is limited."""
    held_bytes: int = 0
    """Of `room`: its body's and its result's until its answer is there, and that of an answer in
    pieces until it is sent."""
    task: asyncio.Task[Any] | None = None
    """What works on the answer."""
    left: bool = False
    """Whether the caller has gone."""
    retry_after_s: Callable[[], int] = lambda: 1
    """For whom there is no room."""
    was_refused_room: bool = False
    """Counted when it ends."""

    @classmethod
    def of(cls, request: Request) -> RequestContext:
        """The context that `ContextMiddleware` made for this request."""
        context: RequestContext = request.scope["state"]["context"]
        return context

    @property
    def deadline(self) -> float:
        """When its time is over, on `time.perf_counter`'s clock."""
        return self.started + self.timeout_s

    def hold(self, n: int) -> None:
        """Take room for so many bytes more of the body. Raises `QueueFullError`."""
        if not self.room.take(n):
            self.was_refused_room = True
            raise QueueFullError(
                f"{n:,} bytes more do not fit: requests hold {self.room.taken:,} already, the "
                f"maximum is {self.room.max_bytes:,}",
                of="bytes",
                retry_after_s=self.retry_after_s(),
            )
        self.held_bytes += n

    def hold_answer(self, n: int) -> None:
        """Take room for the bytes of a result or an answer, which is there already."""
        self.room.force(n)
        self.held_bytes += n

    def release(self) -> None:
        """Body and result are worked off, or the answer is sent."""
        self.room.give(self.held_bytes)
        self.held_bytes = 0

    def leave(self) -> None:
        """The caller has gone: what has not begun is not computed."""
        self.left = True
        if self.task is not None:
            self.task.cancel()

    def shorten_timeout(self) -> None:
        """Take the caller's `X-Request-Timeout` if it is less. Raises `InvalidContentError`."""
        if (text := self.headers.get("x-request-timeout")) is None:
            return
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise InvalidContentError(
                f"X-Request-Timeout is {text!r}, expected seconds above 0",
                ("header", "X-Request-Timeout"),
            )
        self.timeout_s = min(self.timeout_s, seconds)

    def shorten_timeout_us(self, microseconds: object) -> None:
        """Take an infer request's `timeout` if it is less; None and 0 say nothing."""
        if microseconds is None or microseconds == 0:
            return
        if type(microseconds) is not int or microseconds < 0:
            raise InvalidContentError(
                f"timeout is {str(microseconds)[:32]}, expected whole microseconds",
                ("body", "parameters", "timeout"),
            )
        self.timeout_s = min(self.timeout_s, microseconds / 1e6)


def headers_of(scope: Scope) -> dict[str, str]:
    """A request's headers by their names in small letters; read once, as each look-up in
    Starlette's goes through them all.

    Of one that is there twice the first counts, but for `accept`, which is a list.
    """
    raw: list[tuple[bytes, bytes]] = scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(raw)}
    if len(headers) < len(raw) and "accept" in headers:
        headers["accept"] = ", ".join(
            value.decode("latin-1") for name, value in raw if name == b"accept"
        )
    return headers


def new_id() -> str:
    """A request id."""
    return f"{RANDOM.getrandbits(128):032x}"


class Contexts:
    """Begins each request and ends it: its context, its answer's headers, counted and logged."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        access: Access,
        timeout_s: float,
        room: Room,
        retry_after_s: Callable[[], int],
    ) -> None:
        self._metrics = metrics
        self._access = access
        self._timeout_s = timeout_s
        self._room = room
        self._retry_after_s = retry_after_s
        self._service: object = None
        self._model_version = ""

    def use(self, service: object, model_version: str) -> None:
        """What answers requests that begin from now on; `Service.of` gives it to handlers."""
        self._service = service
        self._model_version = model_version

    def begin(self, scope: Scope) -> RequestContext:
        """A request's context, which is also put where `RequestContext.of` finds it."""
        headers = headers_of(scope)
        asked_id = headers.get("x-request-id", "")
        context = RequestContext(
            request_id=asked_id if REQUEST_ID.fullmatch(asked_id) else new_id(),
            model_version=self._model_version,
            room=self._room,
            task=asyncio.current_task(),
            timeout_s=self._timeout_s,
            started=perf_counter(),
            headers=headers,
            retry_after_s=self._retry_after_s,
        )
        if (traceparent := headers.get("traceparent")) is not None:
            context.trace = join_trace(traceparent)
        state = scope.setdefault("state", {})
        state["context"] = context
        state["service"] = self._service
        return context

    def admit(self, scope: Scope, context: RequestContext) -> None:
        """Find out who asks, before any of a body is read. Raises what `Access.check` does."""
        key = self._access.find(context.headers.get("authorization"))
        if key is not None:
            context.key_name = key.name
            context.quota = self._access.quota_of(key)
        self._access.check(key, scope["method"], scope["path"])

    def headers(self, context: RequestContext) -> tuple[tuple[bytes, bytes], ...]:
        """What every answer bears."""
        timing = f"queue;dur={context.queue_s * 1e3:.3f}, infer;dur={context.infer_s * 1e3:.3f}"
        headers: tuple[tuple[bytes, bytes], ...] = (
            (b"x-request-id", context.request_id.encode("ascii")),
            (b"x-model-version", context.model_version.encode("ascii")),
            (b"server-timing", timing.encode("ascii")),
        )
        if context.trace is not None:
            headers += ((b"traceparent", context.trace.traceparent.encode("ascii")),)
        if context.quota is not None:
            headers += context.quota.headers
        return headers

    def failed(self, scope: Scope, context: RequestContext) -> Response:
        """The answer where we are to blame; the exception, which is being handled, is logged."""
        log.exception("request %s failed", context.request_id)
        return error_response(
            scope["path"],
            500,
            "the service failed; its log has the reason under the request id",
            request_id=context.request_id,
        )

    def end(self, scope: Scope, context: RequestContext, status: int) -> None:
        """Count it, and log it."""
        seconds = perf_counter() - context.started
        context.release()
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.observe_request(method, route, status, seconds)
        if status == 504:
            self._metrics.count_deadline_miss()
        elif status == CLIENT_LEFT:
            self._metrics.count_disconnect()
        elif status in REFUSALS:
            self._metrics.count_refusal(REFUSALS[status])
        if context.was_refused_room:
            self._metrics.count_refusal("queue_bytes")
        if request_log.add:
            request_log.add(
                Ended(
                    time=time(),
                    request_id=context.request_id,
                    method=method,
                    route=route,
                    path=None if route == NO_ROUTE else scope["path"][:MAX_PATH],
                    status=status,
                    seconds=seconds,
                    queue_s=context.queue_s,
                    infer_s=context.infer_s,
                    images=context.images,
                    model_version=context.model_version,
                    trace=context.trace,
                    key=context.key_name,
                )
            )


class ContextMiddleware:
    """Gives requests that FastAPI answers their contexts, and answers their headers.

    Outermost, and plain ASGI: it sees every answer, those of the framework and our own faults too.
    """

    def __init__(self, app: ASGIApp, *, contexts: Contexts) -> None:
        self._app = app
        self._contexts = contexts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = self._contexts.begin(scope)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._contexts.headers(context)]
            await send(message)

        try:
            self._contexts.admit(scope, context)
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = CLIENT_LEFT
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            if not context.left:
                raise
        except ServiceError as error:  # of the first line: FastAPI makes answers of all others
            answer = response_to(error, scope["path"], context.request_id)
            await answer(scope, receive, send_with_headers)
        except Exception:
            answer = self._contexts.failed(scope, context)
            if status:
                raise  # half an answer is out: only closing the connection tells the caller
            await answer(scope, receive, send_with_headers)
        finally:
            self._contexts.end(scope, context, status)
