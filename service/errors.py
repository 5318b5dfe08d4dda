"""The errors that clients see. `service.http.problems` turns them into responses.

::

    ServiceError
    ├── BadBodyError 400            the body does not match its type
    ├── UnauthorizedError 401       no API key, or a wrong one
    ├── ForbiddenError 403          the key lacks the scope
    ├── NotFoundError 404           no such model or version, or not part of this one
    ├── NotAcceptableError 406      no answer type the caller accepts
    ├── BodyTimeoutError 408        the body did not arrive in time
    ├── BundleRefusedError 409      the bundle on disk cannot be used, or is another one
    ├── TooLargeError 413           bytes, images or pixels over a limit
    ├── UnsupportedTypeError 415    the route does not read this body type
    ├── InvalidContentError 422     right syntax, wrong content
    ├── RateLimitError 429          the key has used up its rate; with Retry-After
    ├── UnavailableError 503
    │   ├── QueueFullError          with Retry-After
    │   └── NotReadyError           with the reason
    └── DeadlineError 504           the request timed out

A message names the value and the limit that it exceeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal


def counted(n: int, noun: str) -> str:
    """`1 image`, `1,000 images`: for messages."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


class ServiceError(Exception):
    """Base class. `detail` is the message for people."""

    status: int = 500
    refusal: str | None = None
    """The reason under which `vae_refusals` counts the error; None if it does not."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def headers(self) -> Mapping[str, str]:
        """Extra headers of the response."""
        return {}

    @property
    def errors(self) -> list[dict[str, Any]]:
        """`{"loc": [...], "msg": ...}` for each part of the request that is wrong."""
        return []


class BadBodyError(ServiceError):
    """The body does not match its content type."""

    status = 400


class UnauthorizedError(ServiceError):
    """No API key, or a wrong one."""

    status = 401
    refusal = "unauthorized"

    @property
    def headers(self) -> Mapping[str, str]:
        """The authentication scheme (RFC 6750)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ServiceError):
    """The caller is not allowed to do this."""

    status = 403
    refusal = "forbidden"


class NotFoundError(ServiceError):
    """There is no such model or version, or it lacks what is asked for."""

    status = 404


class NotAcceptableError(ServiceError):
    """The caller accepts none of the answer types on offer."""

    status = 406


class BodyTimeoutError(ServiceError):
    """The body did not arrive before the request timed out."""

    status = 408


class BundleRefusedError(ServiceError):
    """The bundle on disk cannot be used, so the one in memory stays; or it is not that one."""

    status = 409


class TooLargeError(ServiceError):
    """The request exceeds a limit on bytes, images or pixels."""

    status = 413


class UnsupportedTypeError(ServiceError):
    """This route does not read this type of body."""

    status = 415


class InvalidContentError(ServiceError):
    """A value in the request is wrong. `loc` is the path to it, such as `("body", "z", 3)`."""

    status = 422

    def __init__(self, detail: str, loc: Sequence[str | int]) -> None:
        super().__init__(detail)
        self.loc = list(loc)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The one value that is wrong."""
        return [{"loc": self.loc, "msg": self.detail}]


class RateLimitError(ServiceError):
    """The key has used up its images per second."""

    status = 429
    refusal = "rate_limit"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds until the key has its full rate again."""
        return {"Retry-After": str(self.retry_after_s)}


class UnavailableError(ServiceError):
    """The service cannot answer now."""

    status = 503

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds after which to try again."""
        return {"Retry-After": str(self.retry_after_s)}


class QueueFullError(UnavailableError):
    """The request does not fit into the queue. No part of it was queued."""

    def __init__(
        self, detail: str, *, of: Literal["images", "bytes"], retry_after_s: int = 1
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.refusal = f"queue_{of}"


class NotReadyError(UnavailableError):
    """No recent forward pass has succeeded, or the service is stopping."""


class DeadlineError(ServiceError):
    """The request timed out. Its queued rows are dropped."""

    status = 504
