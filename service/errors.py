"""The errors that callers are told about. `service.http.problems` makes responses of them.

::

    ServiceError
    ├── BadBodyError 400            the body is not what its type says
    ├── UnauthorizedError 401       no API key, or a wrong one
    ├── ForbiddenError 403          the key is not for this
    ├── NotFoundError 404           no such model or version
    ├── NotAcceptableError 406      no answer type the caller accepts
    ├── BodyTimeoutError 408        the body did not arrive in time
    ├── BundleRefusedError 409      the bundle on disk cannot be used
    ├── TooLargeError 413           bytes, images or pixels over a limit
    ├── UnsupportedTypeError 415    a body type that this route does not read
    ├── InvalidContentError 422     right syntax, wrong content
    ├── RateLimitError 429          the key has used up its images; with Retry-After
    ├── UnavailableError 503
    │   ├── QueueFullError          with Retry-After
    │   └── NotReadyError           with the reason
    └── DeadlineError 504           the request's time is over

A message names the value and the limit that it broke.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal


class ServiceError(Exception):
    """Base class. `detail` is for people."""

    status: int = 500
    refusal: str | None = None
    """Reason under which `vae_refusals` counts it, if it does."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the answer."""
        return {}

    @property
    def errors(self) -> list[dict[str, Any]]:
        """`{"loc": [...], "msg": ...}` for each part of the request that is wrong."""
        return []


class BadBodyError(ServiceError):
    """The body is not what its type says."""

    status = 400


class UnauthorizedError(ServiceError):
    """No API key, or a wrong one."""

    status = 401
    refusal = "unauthorized"

    @property
    def headers(self) -> Mapping[str, str]:
        """How to name a key (RFC 6750)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ServiceError):
    """The caller may not do this."""

    status = 403
    refusal = "forbidden"


class NotFoundError(ServiceError):
    """There is no such thing here."""

    status = 404


class NotAcceptableError(ServiceError):
    """None of the answer types on offer is one that the caller accepts."""

    status = 406


class BodyTimeoutError(ServiceError):
    """The body did not arrive within the request's time."""

    status = 408


class BundleRefusedError(ServiceError):
    """The bundle on disk cannot take the place of the one in memory."""

    status = 409


class TooLargeError(ServiceError):
    """The request is over a limit on bytes, images or pixels."""

    status = 413


class UnsupportedTypeError(ServiceError):
    """This route does not read such a body."""

    status = 415


class InvalidContentError(ServiceError):
    """Something in the request has a wrong value. `loc` is the path to it: `("body", "z", 3)`."""

    status = 422

    def __init__(self, detail: str, loc: Sequence[str | int]) -> None:
        super().__init__(detail)
        self.loc = list(loc)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The one place that is wrong."""
        return [{"loc": self.loc, "msg": self.detail}]


class RateLimitError(ServiceError):
    """The key has used up its images of this second, or of more."""

    status = 429
    refusal = "rate_limit"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        """When all of them are there again."""
        return {"Retry-After": str(self.retry_after_s)}


class UnavailableError(ServiceError):
    """Not now."""

    status = 503

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        """When to come back."""
        return {"Retry-After": str(self.retry_after_s)}


class QueueFullError(UnavailableError):
    """This request does not fit beside those that wait; nothing of it was taken."""

    def __init__(
        self, detail: str, *, of: Literal["images", "bytes"], retry_after_s: int = 1
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.refusal = f"queue_{of}"


class NotReadyError(UnavailableError):
    """The network did not answer a forward pass lately."""


class DeadlineError(ServiceError):
    """The request's time is over; what was queued of it is dropped."""

    status = 504
