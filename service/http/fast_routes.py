"""Fast routes: handlers that are called without FastAPI's routing around them.

For a request of 100 µs, most of the time goes into what a framework does around the handler:
matching the path, solving parameters, three more layers. A route says that it is fast where it is
declared, by `@fast()`. It stays a FastAPI route, which documents it; here its handler is called
with the request and the query as FastAPI would pass them. Other dependencies are not resolved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from service.http.lifecycle import Handler

CACHED_QUERIES: Final = 256
"""Parsed query strings that are kept for each route: callers send the same few again and again."""

CACHED_QUERY_BYTES: Final = 256
"""Longer ones are not kept: callers could fill the memory with them."""

MARK: Final = "__fast_route__"

Endpoint = Callable[..., Awaitable[Response]]
E = TypeVar("E", bound=Endpoint)


class FastRoute(NamedTuple):
    """A route, as metrics and logs name it, and its handler."""

    route: APIRoute
    handler: Handler


def fast(**path_parameters: Iterable[str]) -> Callable[[E], E]:
    """Mark an endpoint as fast. Each path parameter needs the values that it may have."""

    def mark(endpoint: E) -> E:
        setattr(endpoint, MARK, path_parameters)
        return endpoint

    return mark


def fast_routes(*routers: APIRouter) -> dict[tuple[str, str], FastRoute]:
    """The routes that are marked, by method and path."""
    return {
        (method, path): FastRoute(route, handler)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for path, handler in _handlers(route)
        for method in route.methods or ()
    }


def _handlers(route: APIRoute) -> Iterator[tuple[str, Handler]]:
    """The paths of a route, each with its handler; none if the route is not marked."""
    parameters: dict[str, Iterable[str]] | None = getattr(route.endpoint, MARK, None)
    if parameters is not None:
        for values in product(*parameters.values()):
            fixed = dict(zip(parameters, values, strict=True))
            yield route.path.format(**fixed), _handler(route.endpoint, fixed)


def _handler(endpoint: Endpoint, fixed: dict[str, str]) -> Handler:
    """The endpoint with its query parsed as FastAPI does: by the pydantic model it asks for."""
    model = get_type_hints(endpoint).get("query")
    if model is None:
        return lambda request: endpoint(request, **fixed)

    cached = lru_cache(maxsize=CACHED_QUERIES)(lambda query_string: _parse(model, query_string))

    def handle(request: Request) -> Awaitable[Response]:
        query_string: bytes = request.scope["query_string"]
        short = len(query_string) <= CACHED_QUERY_BYTES
        query = cached(query_string) if short else _parse(model, query_string)
        return endpoint(request, query, **fixed)

    return handle


def _parse(model: type[BaseModel], query_string: bytes) -> BaseModel:
    """Raises `RequestValidationError`, as FastAPI does."""
    values: dict[str, Any] = dict(QueryParams(query_string))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = [item | {"loc": ("query", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(errors) from error
