"""Hot routes, straight to their handlers.

For a request of 100 µs, what a framework does around the handler is most of it: matching the path,
solving parameters, three more layers. The routes stay FastAPI's own, and so does the page that
describes them. Here the same handlers are called with what FastAPI would have given them, request
and query. Dependencies that a route may have beside those are not heeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Final, get_type_hints

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.codecs.responses import BODY, START, InPieces
from service.errors import ServiceError, response_to
from service.http.lifecycle import CLIENT_LEFT, Contexts, OwnAnswer, OwnHeaders, RequestContext

MAX_PACK_BYTES: Final = 1 << 20
"""Larger answers are not compressed: that would hold all others up for tens of milliseconds."""

KEPT_QUERIES: Final = 256
"""Query strings whose parsed form is kept, a route: callers send the same few again and again."""

KEPT_QUERY_BYTES: Final = 256
"""Longer ones are not: callers could fill the memory with them."""

Handler = Callable[[Request], Awaitable[Response]]
Routes = dict[tuple[str, str], tuple[APIRoute, Handler]]
"""By method and path: the route, as metrics name it, and what answers."""

OnError = Callable[[Request, Exception], Awaitable[Response]]


class DirectRoutes:
    """Calls the handlers of `routes`, by method and path.

    `check_room` raises `QueueFullError` if the queue `is_full`.
    `on_error` makes answers of the errors that handlers raise, a function a type. Answers of
    `pack_bytes` or more go out through what `pack` puts around them.
    """

    def __init__(
        self,
        *,
        routes: Routes,
        contexts: Contexts,
        on_error: Mapping[type[Exception], OnError],
        pack: Callable[[ASGIApp], ASGIApp],
        pack_bytes: int,
        is_full: Callable[[], bool],
        check_room: Callable[[], object],
    ) -> None:
        self._routes = routes
        self._is_full = is_full
        self._check_room = check_room
        self._contexts = contexts
        self._on_error = on_error
        self._errors = tuple(on_error)
        self._pack = pack
        self._pack_bytes = pack_bytes

    def __contains__(self, method_and_path: tuple[str, str]) -> bool:
        return method_and_path in self._routes

    def refuse(self, scope: Scope) -> OwnAnswer | None:
        """The answer to a request that finds the queue full, before there is a task for it.

        Most of what a refusal takes is what leads to it, and in an overload that is taken from
        those who are served. None for a request that is to be called.
        """
        if (scope["method"], scope["path"]) not in self._routes or not self._is_full():
            return None
        scope["route"], _ = self._routes[scope["method"], scope["path"]]
        context = self._contexts.begin(scope)
        try:
            self._contexts.admit(scope, context)
            self._check_room()
        except ServiceError as error:
            refusal = response_to(error, scope["path"], context.request_id)
            headers = OwnHeaders(refusal.raw_headers)
            headers += self._contexts.headers(context)
            self._contexts.end(scope, context, refusal.status_code)
            return OwnAnswer(refusal.status_code, headers, bytes(refusal.body))
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, which is one of `routes`."""
        scope["route"], handler = self._routes[scope["method"], scope["path"]]
        context = self._contexts.begin(scope)
        status = CLIENT_LEFT
        try:
            response = await self._answer(handler, Request(scope, receive), context)
            context.release()
            status = response.status_code
            own = self._contexts.headers(context)
            if isinstance(response, InPieces):
                response.raw_headers += own
                await response(scope, receive, send)
            elif not self._pack_bytes <= len(response.body) < MAX_PACK_BYTES:
                headers = OwnHeaders(response.raw_headers)
                headers += own
                await send({"type": START, "status": status, "headers": headers})
                await send({"type": BODY, "body": response.body})
            else:
                response.raw_headers += own
                await self._pack(response)(scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if not context.left:
                raise
        finally:
            self._contexts.end(scope, context, status)

    async def _answer(
        self, handler: Handler, request: Request, context: RequestContext
    ) -> Response:
        try:
            self._contexts.admit(request.scope, context)
            return await handler(request)
        except self._errors as error:
            kind = next(kind for kind in self._on_error if isinstance(error, kind))
            return await self._on_error[kind](request, error)
        except ClientDisconnect:
            raise
        except Exception:
            return self._contexts.failed(request.scope, context)


def handler_of(route: APIRoute, **path_parameters: str) -> Handler:
    """A route's endpoint with its query read as FastAPI does: by the pydantic model it asks for.

    Raises `RequestValidationError`, as FastAPI does, when called with a query that is wrong.
    """
    endpoint: Callable[..., Awaitable[Response]] = route.endpoint
    model = get_type_hints(endpoint).get("query")
    if model is None:
        return lambda request: endpoint(request, **path_parameters)

    kept = lru_cache(maxsize=KEPT_QUERIES)(lambda query_string: _read_query(model, query_string))

    def read(query_string: bytes) -> BaseModel:
        short = len(query_string) <= KEPT_QUERY_BYTES
        return kept(query_string) if short else _read_query(model, query_string)

    return lambda request: endpoint(request, read(request.scope["query_string"]), **path_parameters)


def _read_query(model: type[BaseModel], query_string: bytes) -> BaseModel:
    values: dict[str, Any] = dict(QueryParams(query_string))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = [item | {"loc": ("query", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(errors) from error
