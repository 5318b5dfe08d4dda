"""The path prefix that a reverse proxy serves this service under, such as `/vae`.

A proxy removes the prefix from the paths that it forwards, or leaves it there. Both work: routing,
access rules, metrics and the log all see the path without it. Where an absolute address is given to
callers, the prefix comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings import ROOT_PATH, Network, Settings

FORWARDED_PREFIX: Final = b"x-forwarded-prefix"

MAX_PREFIX: Final = 256
"""Characters of a prefix."""


class Prefixes:
    """Finds the prefix of a request, and its path without the prefix.

    The prefix is the setting `root_path`, or what a trusted proxy says in `X-Forwarded-Prefix`.
    """

    def __init__(self, settings: Settings) -> None:
        self._root_path = settings.root_path or ""  # percent-encoded, as in addresses
        self._trusted = settings.trusted_proxy_networks
        self.exist = bool(self._root_path or self._trusted)
        """False if no request has a prefix."""

    def without_root_path(self, path: str) -> str:
        """The path without `root_path`, if it begins with that."""
        return _without(path, self._root_path)

    def strip(self, scope: Scope) -> Scope:
        """A copy of a request's scope, with its path as routes know it, and its prefix where
        `prefix_of` finds it. Both scopes share their state, in which the connection finds the
        request's context."""
        forwarded = self._forwarded(scope) if self._trusted else ""
        path = _without(scope["path"], forwarded) if forwarded else scope["path"]
        if path == scope["path"]:
            path = self.without_root_path(path)
        scope.setdefault("state", {})["prefix"] = forwarded or self._root_path
        return {**scope, "path": path}

    def _forwarded(self, scope: Mapping[str, Any]) -> str:
        """The prefix in `X-Forwarded-Prefix`; empty if there is none or its sender is not trusted.

        Of several proxies in a row, each adds its prefix behind those of the ones before it.
        """
        values = [value for name, value in scope["headers"] if name == FORWARDED_PREFIX]
        if not values or not _is_in(scope.get("client"), self._trusted):
            return ""
        parts = b",".join(values).decode("latin-1").split(",")
        prefix = "".join(part.strip().rstrip("/") for part in parts)
        # `//host` is not a prefix: it would lead to another host.
        return prefix if len(prefix) <= MAX_PREFIX and ROOT_PATH.fullmatch(prefix) else ""


class PrefixMiddleware:
    """Serves requests by their paths without the prefix."""

    def __init__(self, app: ASGIApp, prefixes: Prefixes) -> None:
        self._app = app
        self._prefixes = prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope = self._prefixes.strip(scope)
        await self._app(scope, receive, send)


def prefix_of(scope: Mapping[str, Any]) -> str:
    """The prefix that callers see before a request's path; empty if none is known."""
    prefix: str = scope.get("state", {}).get("prefix", "")
    return prefix


def _without(path: str, prefix: str) -> str:
    prefix = unquote(prefix)  # the server has decoded the path
    if prefix and path.startswith(prefix) and path[len(prefix) :][:1] in ("", "/"):
        return path[len(prefix) :] or "/"
    return path


def _is_in(client: tuple[str, int] | None, networks: tuple[Network, ...]) -> bool:
    """Whether the peer of a connection is in one of the networks."""
    if client is None:
        return False
    try:
        address = ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # of an IPv4 client on an IPv6 socket
    return any((mapped or address) in network for network in networks)
