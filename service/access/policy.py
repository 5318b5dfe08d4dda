"""Who may ask for what."""

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

RELOAD: Final = "/model/reload"

WANTED: Final[Mapping[str, str | None]] = {
    "/metrics": "metrics",
    RELOAD: "admin",
    "/livez": None,
    "/readyz": None,
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/docs": None,
    "/docs/oauth2-redirect": None,
    "/openapi.json": None,
}
"""Scopes by path; None is for everyone. Any other is for `infer`, known or not."""

ASSETS: Final = "/static-offline-docs/"
"""Of the page at /docs, below here; for everyone."""


def scope_of(path: str) -> str | None:
    """What a key needs for a path; None if it takes no key."""
    return None if path.startswith(ASSETS) else WANTED.get(path, INFER)


class Access:
    """Finds a caller's key and says what it may do. Raises `KeysError` if it cannot tell.

    Without keys everyone may do everything on an address that only this machine reaches. On any
    other the settings have to allow that, and nobody has the scope `admin`.
    """

    def __init__(self, settings: Settings, buckets: Buckets | None = None) -> None:
        file, plain = settings.api_keys_file, settings.api_keys
        self._keys = None
        self._anonymous: frozenset[str] = frozenset()
        self.buckets = buckets
        """What keys may send, where there are any."""
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
                f"host (VAE_HOST) is {settings.host}, which other machines may reach: set "
                "VAE_API_KEYS_FILE (python -m service.keys makes keys), or "
                "VAE_ALLOW_ANONYMOUS=true to let anyone ask"
            )

    @property
    def takes_keys(self) -> bool:
        """Whether one is needed."""
        return self._keys is not None

    def find(self, authorization: str | None) -> Key | None:
        """The key in an `Authorization` header, if it has one that is known."""
        if self._keys is None or authorization is None:
            return None
        return self._keys.find(authorization)

    def quota_of(self, key: Key) -> Quota | None:
        """What a key may send; None if there is no limit."""
        if key.rate is None or self.buckets is None:
            return None
        quota = self._quotas.get((key.digest, key.rate))
        if quota is None:
            quota = Quota(self.buckets, key.digest, key.rate)
            self._quotas[key.digest, key.rate] = quota
        return quota

    def check(self, key: Key | None, method: str, path: str) -> None:
        """Raise `UnauthorizedError`, `ForbiddenError` or, before a body of images is read for
        nothing, `RateLimitError`."""
        wanted = scope_of(path)
        if wanted is None:
            return
        if wanted not in (self._anonymous if key is None else key.scopes):
            self._refuse(key, wanted)
        if key is not None and method == "POST" and (quota := self.quota_of(key)) is not None:
            quota.check()

    def _refuse(self, key: Key | None, wanted: str) -> None:
        if key is not None:
            raise ForbiddenError(
                f"this takes an API key with scope {wanted}, {key.name} has "
                f"{', '.join(sorted(key.scopes))}"
            )
        if self._keys is None:
            raise ForbiddenError(f"this takes an API key with scope {wanted}; none are set up here")
        raise UnauthorizedError(
            "this takes an API key that is known here, as Authorization: Bearer KEY"
        )


def _buckets() -> Buckets:
    try:
        return Buckets()
    except OSError as error:
        raise KeysError(f"there is no memory for the rates of API keys: {error}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or all those of a name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {str(address[0]).partition("%")[0] for *_, address in found}
    return all(ip_address(address).is_loopback for address in addresses)
