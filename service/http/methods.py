"""HEAD and OPTIONS for all routes, and the `Allow` header (RFC 9110, section 9.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

DECLARED: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Methods that routes declare. HEAD follows from GET, and OPTIONS is for all."""

UNDECLARED: Final = "-"
"""A method that only a mounted application accepts, as it does not look at methods."""


class HeadAsGet:
    """Middleware that has a HEAD request answered as the GET request would be.

    The server leaves out the body. It still sees the method HEAD, and so do metrics and the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send)
        finally:
            if "route" in as_get:  # the router has found it
                scope["route"] = as_get["route"]


def declared_methods(scope: Scope) -> list[str]:
    """The methods that the routes of a path declare, without HEAD and OPTIONS.

    Empty if there is no such path. Notes the route in `scope`, for metrics and the log. The routes
    are `state.routes` of the app, as FastAPI does not keep a flat list of them.
    """
    routes: Sequence[BaseRoute] = scope["app"].state.routes
    asked = {**scope, "root_path": ""}  # a mounted application may have been here
    if _find(routes, asked | {"method": UNDECLARED}) is not None:
        return ["GET"]  # mounted files
    found = []
    for method in DECLARED:
        child_scope = _find(routes, asked | {"method": method})
        if child_scope is not None:
            found.append(method)
            if "route" in child_scope:
                scope["route"] = child_scope["route"]
    return found


def allow_header(declared: Sequence[str]) -> str:
    """The value of `Allow` where routes declare these methods."""
    methods = [*declared, "OPTIONS"]
    if "GET" in declared:
        methods.insert(methods.index("GET") + 1, "HEAD")
    return ", ".join(methods)


def _find(routes: Sequence[BaseRoute], scope: Scope) -> Mapping[str, Any] | None:
    """What the route that takes a request adds to its scope; None if there is no such route."""
    for route in routes:
        match, child_scope = route.matches(scope)
        if match == Match.FULL:
            return child_scope
    return None
