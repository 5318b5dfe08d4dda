"""Fast routes: handlers that are called without going through FastAPI's routing.

When a request takes 100 µs, most of that is what the framework does around the handler: matching
the path, resolving parameters, and three more layers. A route is declared fast by `@fast()`. It
stays a FastAPI route, which documents it, but its handler is called from here, with the request and
the query that FastAPI would pass. Other dependencies are not resolved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from inspect import signature
from itertools import product
from typing import Final, NamedTuple, TypeVar, get_type_hints

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.http.lifecycle import Handler
from service.http.parameters import unique_parameters

CACHED_QUERIES: Final = 256
"""Parsed query strings to cache for each route. Callers usually send the same few."""

CACHED_QUERY_BYTES: Final = 256
"""Longer query strings are not cached, so that callers cannot fill the memory with them."""

MARK: Final = "__fast_route__"
"""Attribute of an endpoint that holds the values of its path parameters."""

Endpoint = Callable[..., Awaitable[Response]]
E = TypeVar("E", bound=Endpoint)
M = TypeVar("M", bound=BaseModel)


class FastRoute(NamedTuple):
    """A route, which gives metrics and logs its name, and its handler."""

    route: APIRoute
    handler: Handler


def fast(**path_parameters: Iterable[str]) -> Callable[[E], E]:
    """Mark an endpoint as fast. Every path parameter needs the list of its possible values."""

    def mark(endpoint: E) -> E:
        setattr(endpoint, MARK, path_parameters)
        return endpoint

    return mark


def fast_routes(*routers: APIRouter) -> dict[tuple[str, str], FastRoute]:
    """The fast routes of `routers` by method and path, one for each value of path parameters."""
    return {
        (method, path): FastRoute(route, handler)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for path, handler in _handlers(route)
        for method in _methods(route)
    }


def _methods(route: APIRoute) -> set[str]:
    """The methods of a route. HEAD is answered as GET is, and the server leaves out the body."""
    methods = route.methods or set()
    return methods | {"HEAD"} if "GET" in methods else methods


def _handlers(route: APIRoute) -> Iterator[tuple[str, Handler]]:
    """The paths of a route and their handlers, if the route is marked as fast."""
    parameters: dict[str, Iterable[str]] | None = getattr(route.endpoint, MARK, None)
    if parameters is not None:
        for values in product(*parameters.values()):
            path_values = dict(zip(parameters, values, strict=True))
            yield route.path.format(**path_values), _handler(route.endpoint, path_values)


def _handler(endpoint: Endpoint, path_values: dict[str, str]) -> Handler:
    """A handler that parses the query as FastAPI does, with the pydantic model that the endpoint's
    `query` parameter is annotated with."""
    if others := set(signature(endpoint).parameters) - {"request", "query", *path_values}:
        raise TypeError(f"{endpoint.__name__} is marked fast, so it cannot take {sorted(others)}")
    model = get_type_hints(endpoint).get("query")
    if model is None:
        return lambda request: endpoint(request, **path_values)

    cached = lru_cache(maxsize=CACHED_QUERIES)(
        lambda query_string: parse_query(model, query_string)
    )

    def handle(request: Request) -> Awaitable[Response]:
        query_string: bytes = request.scope["query_string"]
        short = len(query_string) <= CACHED_QUERY_BYTES
        query = cached(query_string) if short else parse_query(model, query_string)
        return endpoint(request, query, **path_values)

    return handle


def parse_query(model: type[M], query_string: bytes) -> M:
    """Parse a query string. Raises `RequestValidationError`, as FastAPI does, and
    `InvalidContentError` for a parameter that is there twice."""
    values = unique_parameters(query_string)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        known = {"known": list(model.model_fields)}  # for the message about an unknown one
        errors = [
            item | {"loc": ("query", *item["loc"]), "ctx": item.get("ctx", {}) | known}
            for item in error.errors()
        ]
        raise RequestValidationError(errors) from error
