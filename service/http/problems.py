"""From exceptions to responses: RFC 9457 problems, or the Open Inference Protocol's errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from service.errors import DeadlineError, NotFoundError, ServiceError
from service.http.methods import allow_header, declared_methods
from service.http.prefix import prefix_of
from service.request import RequestContext

log = logging.getLogger("service")

PROBLEM_TYPE: Final = "application/problem+json"

OPEN_INFERENCE: Final = "/v2"
"""Errors of paths below this one have the Open Inference Protocol's shape."""

BAD_INPUT: Final = frozenset({406, 413, 415, 422})
"""Statuses that are 400 in that protocol."""

MAX_SHOWN_PATH: Final = 128

TIMER_SLACK_S: Final = 0.05
"""The event loop's timers may fire a little before the deadline on `time.perf_counter`'s clock."""


def problem_response(error: Exception, scope: Scope, context: RequestContext) -> Response:
    """The answer to a request that failed with `error`.

    Anything but the errors that callers are told about is our fault: a 500, logged with its
    traceback and the request id.
    """
    path: str = scope["path"]
    request_id = context.request_id
    if isinstance(error, TimeoutError) and perf_counter() >= context.deadline - TIMER_SLACK_S:
        what = str(error) or "no answer"
        error = DeadlineError(f"{what} within the request's {context.timeout_s:g} s")
    if isinstance(error, ServiceError):
        return error_response(
            path,
            error.status,
            error.detail,
            request_id=request_id,
            errors=error.errors,
            headers=error.headers,
        )
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        detail = _framework_detail(error, scope, headers)
        return error_response(
            path, error.status_code, detail, request_id=request_id, headers=headers
        )
    if isinstance(error, RequestValidationError):
        errors: list[dict[str, Any]] = [
            {"loc": list(item["loc"]), "msg": _validation_message(item)} for item in error.errors()
        ]
        detail = "; ".join(item["msg"] for item in errors)
        return error_response(path, 422, detail, request_id=request_id, errors=errors)
    log.error("request %s failed", request_id, exc_info=error)
    return error_response(
        path,
        500,
        "the service failed; its log has the reason under the request id",
        request_id=request_id,
    )


def error_response(
    path: str,
    status: int,
    detail: str,
    *,
    request_id: str,
    errors: Sequence[dict[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in the shape that belongs to `path`."""
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


def no_such_path(scope: Scope) -> NotFoundError:
    """The error for a path that no route has."""
    path: str = scope["path"]
    prefix = prefix_of(scope)
    plain = f"/{'/'.join(filter(None, path.lower().split('/')))}"
    hint = f"{prefix}/docs lists what there is"
    # Of routes that differ in case or slashes, none is redirected to: clients lose bodies on the
    # way, or send the next request to the wrong address again.
    if plain != path and len(path) <= MAX_SHOWN_PATH and declared_methods({**scope, "path": plain}):
        hint = f"did you mean {prefix}{plain}?"
    return NotFoundError(f"there is no {path[:MAX_SHOWN_PATH]} here; {hint}")


def _framework_detail(error: HTTPException, scope: Scope, headers: dict[str, str]) -> str:
    """The framework's own errors: no such route, no such method. Completes `Allow` in `headers`,
    where the framework names the methods of one route only, and neither HEAD nor OPTIONS."""
    if error.status_code == 404:
        return no_such_path(scope).detail
    if error.status_code == 405:
        declared = declared_methods(scope)
        headers["Allow"] = allow_header(declared)
        return f"{scope['path'][:128]} takes {', '.join(declared)}, not {scope['method'][:32]}"
    return str(error.detail)


def _validation_message(item: dict[str, Any]) -> str:
    """`alpha is '2': input should be less than 1`."""
    name = ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])
    reason = item["msg"][:1].lower() + item["msg"][1:]
    if item["type"] == "extra_forbidden":
        return _unknown_parameter(name[:64], item.get("ctx", {}).get("known", ()))
    if item["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {str(item['input'])[:64]!r}: {reason}"


def _unknown_parameter(name: str, known: Sequence[str]) -> str:
    message = f"{name!r} is not a known parameter here"
    if not known:
        return message
    expected = ", ".join(known)
    near = get_close_matches(name.lower(), known, 1)
    return f"{message}; did you mean {near[0]}?" if near else f"{message}, expected {expected}"
