"""Which caller may use which route."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from service.access.keys import SCOPES, Key, Keys, KeysError
from service.access.rates import Buckets, Quota
from service.errors import ForbiddenError, UnauthorizedError
from service.settings import Settings

INFER: Final = "infer"

METRICS: Final = "metrics"

MODELS: Final = "/v2/models/"
"""Prefix of the routes with `/stats` at the end. Those tell what all callers do, as metrics do."""

RELOAD: Final = "/model/reload"

RECENT: Final = "/recent"
"""The images of all callers."""

REQUIRED_SCOPES: Final[Mapping[str, str | None]] = {
    "/metrics": METRICS,
    "/settings": METRICS,
    RELOAD: "admin",
    RECENT: "admin",
    "/livez": None,
    "/readyz": None,
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/": None,
    "/docs": None,
    "/docs/oauth2-redirect": None,
    "/openapi.json": None,
}
"""The scope that each path requires; None means that it is public. Any other path, even an unknown
one, requires `infer`."""

ASSETS: Final = ("/static-offline-docs/", "/page/")
"""Prefixes of the public files that the pages at /docs and / load."""


def scope_of(path: str) -> str | None:
    """The scope that a path requires; None if it is public."""
    if path.startswith(ASSETS):
        return None
    if path.startswith(MODELS) and path.endswith("/stats"):
        return METRICS
    return REQUIRED_SCOPES.get(path, INFER)


class Access:
    """Identifies callers by their API keys, and checks what they may do.

    Without configured keys, anonymous callers have all scopes on a loopback address. On any other
    address the settings have to allow anonymous callers, and those never have the scope `admin`.
    Raises `KeysError` if the keys cannot be used, or if they are missing and anonymous callers are
    not allowed.
    """

    def __init__(self, settings: Settings, buckets: Buckets | None = None) -> None:
        file, plain = settings.api_keys_file, settings.api_keys
        self._keys = None
        self._anonymous: frozenset[str] = frozenset()
        self.buckets = buckets
        """The rate limiter's state; None without keys."""
        self._quotas: dict[tuple[bytes, int], Quota] = {}
        if file is not None or plain is not None:
            self._keys = Keys(None if file is None else Path(file), plain)
            self.buckets = buckets or _buckets()
        elif is_loopback(settings.host):
            self._anonymous = frozenset(SCOPES)
        elif settings.allow_anonymous:
            self._anonymous = frozenset(SCOPES) - {"admin"}
        else:
            raise KeysError(
                f"host (VAE_HOST) is {settings.host}, which other machines may reach; set "
                "VAE_API_KEYS_FILE (python -m service.keys makes keys), or set "
                "VAE_ALLOW_ANONYMOUS=true to serve callers without a key"
            )

    @property
    def takes_keys(self) -> bool:
        """Whether callers need a key."""
        return self._keys is not None

    def find(self, digest: bytes | None) -> Key | None:
        """The key with a digest, as `digest_of_header` finds it; None if there is none."""
        if self._keys is None or digest is None:
            return None
        return self._keys.of_digest(digest)

    def quota_of(self, key: Key) -> Quota | None:
        """The rate limit of a key; None if it has none."""
        if key.rate is None or self.buckets is None:
            return None
        quota = self._quotas.get((key.digest, key.rate))
        if quota is None:
            quota = Quota(self.buckets, key.digest, key.rate)
            self._quotas[key.digest, key.rate] = quota
        return quota

    def check(self, key: Key | None, method: str, path: str) -> None:
        """Check that the caller may make this request, before its body is read.

        Raises `UnauthorizedError` or `ForbiddenError`; and `RateLimitError` for a POST with a key
        that has no image left.
        """
        required = scope_of(path)
        if required is None:
            return
        if required not in (self._anonymous if key is None else key.scopes):
            self._refuse(key, required)
        if key is not None and method == "POST" and (quota := self.quota_of(key)) is not None:
            quota.check()

    def _refuse(self, key: Key | None, required: str) -> None:
        if key is not None:
            raise ForbiddenError(
                f"this requires an API key with scope {required}; key {key.name} has "
                f"{', '.join(sorted(key.scopes))}"
            )
        if self._keys is None:
            raise ForbiddenError(
                f"this requires an API key with scope {required}, but none are set up here"
            )
        raise UnauthorizedError(
            "this requires a valid API key; send it as Authorization: Bearer KEY"
        )


def _buckets() -> Buckets:
    try:
        return Buckets()
    except OSError as error:
        raise KeysError(
            f"cannot allocate memory for the rate limits of API keys: {error}"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are loopback addresses. False if it does not resolve."""
    try:
        resolved = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {str(address[0]).partition("%")[0] for *_, address in resolved}
    return all(ip_address(address).is_loopback for address in addresses)
