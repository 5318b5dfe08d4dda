"""Everything that can go wrong with a request, and the one place that makes it an answer.

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
from http import HTTPStatus
from typing import Any, Literal

import orjson
from starlette.responses import Response

PROBLEM_TYPE = "application/problem+json"

OPEN_INFERENCE = "/v2"
"""Below here errors have the Open Inference Protocol's shape."""

BAD_INPUT = frozenset({406, 413, 415, 422})
"""What is 400 in that protocol, which has no finer words for it."""


class ServiceError(Exception):
    """Base of all errors that a caller is told about. `detail` is for people."""

    status: int = 500

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

    @property
    def headers(self) -> Mapping[str, str]:
        """How to name a key (RFC 6750)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ServiceError):
    """The caller may not do this."""

    status = 403


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
        self.of = of


class NotReadyError(UnavailableError):
    """The network did not answer a forward pass lately."""


class DeadlineError(ServiceError):
    """The request's time is over; what was queued of it is dropped."""

    status = 504


def error_response(
    path: str,
    status: int,
    detail: str,
    *,
    request_id: str,
    errors: Sequence[dict[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in the shape that goes with `path`: RFC 9457, or the Open Inference Protocol's."""
    if path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/"):
        if status in BAD_INPUT:
            status = 400
        return Response(
            orjson.dumps({"error": detail}), status, headers=headers, media_type="application/json"
        )
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = list(errors)
    return Response(
        orjson.dumps(body, default=str), status, headers=headers, media_type=PROBLEM_TYPE
    )


def response_to(error: ServiceError, path: str, request_id: str) -> Response:
    """The answer that says so."""
    return error_response(
        path,
        error.status,
        error.detail,
        request_id=request_id,
        errors=error.errors,
        headers=error.headers,
    )
