"""The state of one request, from its head to the end of its response."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from starlette.requests import Request

from service.access.rates import Quota
from service.errors import InvalidContentError
from service.limits.byte_budget import ByteBudget
from service.telemetry.trace_context import Trace


@dataclass(slots=True)
class RequestContext:
    """One request. `service.http.lifecycle` makes it; `service.inference.admission` fills in the
    timings and the number of images."""

    request_id: str
    model_version: str
    """Version of the bundle that answers. A reload does not change it for a running request."""
    budget: ByteBudget
    timeout_s: float
    started: float
    """On `time.perf_counter`'s clock, like `deadline`."""
    check_queue_capacity: Callable[[int, int], None]
    """Takes images and bytes; raises `QueueFullError` if they would not fit now."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    queue_s: float = 0.0
    infer_s: float = 0.0
    images: int = 0
    """Images or latents."""
    trace: Trace | None = None
    """Set if the caller sent a valid `traceparent`. No trace is started here: the service records
    no spans, and the request id already identifies the request."""
    key_name: str | None = None
    """Name of the API key, if the request has one."""
    quota: Quota | None = None
    """The key's rate limit, if it has one."""
    reserved_bytes: int = 0
    """Held in `budget`: the body and the result until the answer is built, then the pieces of a
    chunked answer until they are sent."""
    task: asyncio.Task[Any] | None = None
    """The task that works on the answer."""
    left: bool = False
    """Whether the client has disconnected."""
    on_pass: Callable[[float, int, float], None] | None = None
    """Called after each forward pass for this request, with when it ended, the rows of its batch,
    and the seconds that it took."""

    @classmethod
    def of(cls, request: Request) -> RequestContext:
        """The context of a request that the lifecycle has begun."""
        context: RequestContext = request.scope["state"]["context"]
        return context

    @property
    def deadline(self) -> float:
        """When the request times out."""
        return self.started + self.timeout_s

    def reserve(self, n: int) -> None:
        """Reserve `n` more bytes for the body. Raises `QueueFullError` if they do not fit."""
        if not self.budget.try_reserve(n):
            self.check_queue_capacity(0, n)
            raise AssertionError("bytes that do not fit are refused")
        self.reserved_bytes += n

    def reserve_answer(self, n: int) -> None:
        """Reserve `n` bytes of a result or an answer that already exists, even past the limit."""
        self.budget.reserve(n)
        self.reserved_bytes += n

    def release(self) -> None:
        """Give back all reserved bytes."""
        self.budget.release(self.reserved_bytes)
        self.reserved_bytes = 0

    def charge(self) -> None:
        """Charge the images to the key's rate.

        Raises `RateLimitError`, or `TimeoutError` at the deadline, and has then charged nothing.
        """
        if perf_counter() >= self.deadline:
            raise TimeoutError
        if self.quota is not None:
            self.quota.take(self.images)

    def leave(self) -> None:
        """Note that the client has disconnected, and cancel what has not begun."""
        self.left = True
        if self.task is not None:
            self.task.cancel()

    def shorten_timeout(self, text: str) -> None:
        """Apply the caller's `X-Request-Timeout`, in seconds, if it is shorter than the limit.

        Raises `InvalidContentError`.
        """
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise InvalidContentError(
                f"X-Request-Timeout is {text[:64]!r}, expected a number of seconds above 0",
                ("header", "X-Request-Timeout"),
            )
        self.timeout_s = min(self.timeout_s, seconds)

    def shorten_timeout_us(self, microseconds: object) -> None:
        """Apply an infer request's `timeout`, if it is shorter. None and 0 mean no timeout.

        Raises `InvalidContentError`.
        """
        if microseconds is None or microseconds == 0:
            return
        if type(microseconds) is not int or microseconds < 0:
            raise InvalidContentError(
                f"timeout is {str(microseconds)[:32]}, expected a whole number of microseconds",
                ("body", "parameters", "timeout"),
            )
        self.timeout_s = min(self.timeout_s, microseconds / 1e6)
