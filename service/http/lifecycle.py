"""The life of a request, once for all routes: begin, authorize, answer, count and log.

Fast routes and FastAPI's routes go through `RequestLifecycle.serve`. A request that arrives while
the queue is full goes through `refuse`, before there is a task for it. Requests that need no task
at all live in `service.http.direct`, out of the same parts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from random import getrandbits
from time import perf_counter, time
from typing import Any, Final, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.keys import digest_of_header
from service.access.policy import Access
from service.codecs.responses import BODY, START, ChunkedResponse
from service.errors import ServiceError
from service.http.compression import compressed, depends_on_encoding, is_accepted, note_encoding
from service.http.methods import HeadAsGet, allow_header, declared_methods
from service.http.prepared import PreparedResponse, TrustedHeaders
from service.http.problems import no_such_path, problem_response
from service.limits.byte_budget import ByteBudget
from service.request import RequestContext
from service.telemetry.metrics import NO_ROUTE, Metrics
from service.telemetry.request_log import MAX_PATH, RequestRecord, request_log
from service.telemetry.trace_context import join_trace

REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
"""A caller's X-Request-ID is kept if it is printable and short: it goes into logs and headers."""

CLIENT_LEFT: Final = 499
"""Counted as the status if the client disconnected before the answer began; nginx's number."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods counted under their own name. A caller can invent any others."""

Handler = Callable[[Request], Awaitable[ASGIApp]]
"""Gives the response to a request, or an application that sends one."""


class Target(NamedTuple):
    """What a request was sent to, as metrics and the log call it."""

    method: str
    route: str
    """The route template."""
    path: str | None
    """None if there is no such route: unknown paths are not logged."""

    @classmethod
    def of(cls, scope: Scope) -> Target:
        """The target of a request whose route, if it has one, was found."""
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        method = scope["method"] if scope["method"] in METHODS else "other"
        return cls(method, route, None if route == NO_ROUTE else scope["path"][:MAX_PATH])


class RequestLifecycle:
    """Begins each request and ends it.

    `check_queue_capacity` takes images and bytes, and raises `QueueFullError` if they would not
    fit now.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        access: Access,
        timeout_s: float,
        budget: ByteBudget,
        check_queue_capacity: Callable[[int, int], None],
    ) -> None:
        self.metrics = metrics
        self._access = access
        self.timeout_s = timeout_s
        self.budget = budget
        self.check_queue_capacity = check_queue_capacity
        self.service: object = None
        self.model_version = ""

    def use(self, service: object, model_version: str) -> None:
        """Set what answers requests that begin from now on; `Service.of` gives it to handlers."""
        self.service = service
        self.model_version = model_version

    async def serve(self, scope: Scope, receive: Receive, send: Send, handler: Handler) -> None:
        """Serve one request with `handler`. Every exception becomes a problem response."""
        context = self._begin(scope)
        reply = _Reply(send, context)
        try:
            try:
                self.authorize(scope, context)
                await _deliver(await handler(Request(scope, receive)), scope, receive, reply)
            except ClientDisconnect:
                pass
            except Exception as error:
                problem = self._problem(error, scope, context)
                if reply.status:
                    raise  # half an answer is out: only closing the connection tells the caller
                await _deliver(problem, scope, receive, reply)
        except asyncio.CancelledError:
            if not context.left:
                raise
        finally:
            self.end(context, Target.of(scope), reply.status or CLIENT_LEFT)

    def refuse(self, scope: Scope) -> PreparedResponse | None:
        """The answer to a request that finds the queue full, before there is a task for it.

        Most of a refusal's cost is getting to it, and in an overload that time is taken from the
        requests that are served. None if the request is to be served after all.
        """
        context = self._begin(scope)
        try:
            self.authorize(scope, context)
            context.check_queue_capacity(1, 1)
        except Exception as error:
            problem = self.problem(error, scope, context)
            self.end(context, Target.of(scope), problem.status)
            return problem
        return None

    def problem(self, error: Exception, scope: Scope, context: RequestContext) -> PreparedResponse:
        """The whole answer to a request that failed. `scope` has its method and path."""
        response = self._problem(error, scope, context)
        headers = TrustedHeaders(response.raw_headers)
        headers += _common_headers(context)
        return PreparedResponse(response.status_code, headers, bytes(response.body))

    def _begin(self, scope: Scope) -> RequestContext:
        """Make the request's context, and put it where `RequestContext.of` finds it."""
        headers = headers_of(scope)
        requested_id = headers.get("x-request-id", "")
        context = RequestContext(
            request_id=requested_id if REQUEST_ID.fullmatch(requested_id) else new_id(),
            model_version=self.model_version,
            budget=self.budget,
            timeout_s=self.timeout_s,
            started=perf_counter(),
            check_queue_capacity=self.check_queue_capacity,
            headers=headers,
            task=asyncio.current_task(),
        )
        if (traceparent := headers.get("traceparent")) is not None:
            context.trace = join_trace(traceparent)
        state = scope.setdefault("state", {})
        state["context"] = context
        state["service"] = self.service
        return context

    def authorize(self, scope: Scope, context: RequestContext) -> None:
        """Identify the caller and apply its deadline, before any of a body is read.

        Raises what `Access.check` raises, and `InvalidContentError` for a wrong timeout.
        """
        self.admit(scope, context, digest_of_header(context.headers.get("authorization")))

    def admit(
        self, scope: Mapping[str, Any], context: RequestContext, key_digest: bytes | None
    ) -> None:
        """As `authorize`, for a caller whose key has this digest."""
        key = self._access.find(key_digest)
        if key is not None:
            context.key_name = key.name
            context.quota = self._access.quota_of(key)
        self._access.check(key, scope["method"], scope["path"])
        if (timeout := context.headers.get("x-request-timeout")) is not None:
            context.shorten_timeout(timeout)

    def may_begin(self, scope: Mapping[str, Any], key_digest: bytes | None) -> bool:
        """Whether a request would be admitted now."""
        try:
            self._access.check(self._access.find(key_digest), scope["method"], scope["path"])
        except ServiceError:
            return False
        return True

    def _problem(self, error: Exception, scope: Scope, context: RequestContext) -> Response:
        """The answer to a request that failed, which is also counted if it was refused."""
        if isinstance(error, ServiceError) and error.refusal is not None:
            self.metrics.count_refusal(error.refusal)
        return problem_response(error, scope, context)

    def end(self, context: RequestContext, target: Target, status: int) -> None:
        """Count a request, and log it."""
        seconds = perf_counter() - context.started
        context.release()
        method, route, path = target
        self.metrics.observe_request(method, route, status, seconds)
        if context.trace is not None:
            self.metrics.note_trace(route, seconds, context.trace)
        if status == 504:
            self.metrics.count_deadline_miss()
        elif status == CLIENT_LEFT:
            self.metrics.count_disconnect()
        if request_log.add:
            request_log.add(
                RequestRecord(
                    time=time(),
                    request_id=context.request_id,
                    method=method,
                    route=route,
                    path=path,
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


class LifecycleMiddleware:
    """The entry of FastAPI's routes: outermost of its middleware, so that it sees every answer."""

    def __init__(self, app: ASGIApp, *, lifecycle: RequestLifecycle) -> None:
        self._app = app
        self._compressed = compressed(HeadAsGet(app))
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            await self._lifecycle.serve(scope, receive, send, self._handle)
        else:
            await self._app(scope, receive, send)

    async def _handle(self, request: Request) -> ASGIApp:
        if request.method != "OPTIONS":
            return self._compressed
        if request.scope["path"] == "*":  # the service as a whole: `OPTIONS *` is a ping
            return Response(status_code=204)
        declared = declared_methods(request.scope)
        if not declared:
            raise no_such_path(request.scope)
        return Response(status_code=204, headers={"Allow": allow_header(declared)})


class _Reply:
    """Sends an answer with the headers that every answer has, and notes its status."""

    __slots__ = ("context", "send", "status")

    def __init__(self, send: Send, context: RequestContext) -> None:
        self.send = send
        self.context = context
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == START:
            self.status = message["status"]
            message["headers"] = [*message["headers"], *_common_headers(self.context)]
        await self.send(message)


async def _deliver(answer: ASGIApp, scope: Scope, receive: Receive, reply: _Reply) -> None:
    """Send an answer, compressed by the rule of `service.http.compression`.

    A response that goes out in one piece and as it is takes the short way, past all middleware.
    """
    if not isinstance(answer, Response):
        await answer(scope, receive, reply)
        return
    context = reply.context
    context.release()
    if depends_on_encoding(answer):
        if is_accepted(context.headers.get("accept-encoding")):
            await compressed(answer)(scope, receive, reply)
            return
        note_encoding(answer.raw_headers)
    if isinstance(answer, ChunkedResponse):
        await answer(scope, receive, reply)
        return
    reply.status = answer.status_code
    headers = TrustedHeaders(answer.raw_headers)
    headers += _common_headers(context)
    await reply.send({"type": START, "status": reply.status, "headers": headers})
    await reply.send({"type": BODY, "body": answer.body})


def _common_headers(context: RequestContext) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that every answer has."""
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


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """A request's headers by their names in lower case.

    Read once: each look-up in Starlette's `Headers` goes through them all. Of a header that is
    there twice the first counts, except for `accept`, which is a list.
    """
    raw: list[tuple[bytes, bytes]] = scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(raw)}
    if len(headers) < len(raw) and "accept" in headers:
        headers["accept"] = ", ".join(
            value.decode("latin-1") for name, value in raw if name == b"accept"
        )
    return headers


def new_id() -> str:
    """A request id, not from the kernel, which would take 7 µs.

    The generator of the module `random` is seeded again in each process that is forked.
    """
    return f"{getrandbits(128):032x}"
