"""Small requests that are answered without a task: from the parser to the batch to the answer.

A small request whose head is known to the byte needs no parsing, no routing and no coroutine. What
there is to do follows from its head alone, and is kept as a `Plan`. All other requests take the
general way, through `service.http.lifecycle`. So does any request that turns out to be unusual
before it is queued: a full queue, a body that is wrong or slow to read. Both ways give the same
answers, headers, metrics and log lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_bytes
from typing import Any, Final, NamedTuple, Protocol

from starlette.types import Scope

from service.access.keys import digest_of_header
from service.codecs.registry import INLINE_JSON_BYTES
from service.http.lifecycle import CLIENT_LEFT, RequestLifecycle, Target, headers_of, new_id
from service.http.prefix import Prefixes
from service.inference.batching import MicroBatcher
from service.inference.jobs import Job, Rows, Run
from service.request import RequestContext

MAX_HEADS: Final = 1024
"""Heads to keep. When there are more, the oldest one is dropped; a common one is soon back."""

MAX_HEAD_BYTES: Final = 1024
"""Longer heads are not kept, so that callers cannot fill the memory with them."""

MAX_BODY_BYTES: Final = INLINE_JSON_BYTES
"""Larger bodies take the general way, where threads read them if that takes long."""

PLAIN_HEADERS: Final = frozenset(
    {
        *(b"accept", b"accept-encoding", b"accept-language", b"authorization", b"connection"),
        *(b"content-length", b"content-type", b"forwarded", b"host", b"user-agent", b"via"),
        *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto"),
        # Its prefix is not taken off the path here: whom to believe it depends on the connection.
        *(b"x-forwarded-prefix", b"x-real-ip", b"x-request-timeout"),
    }
)
"""Headers that a kept head may have. Any other may be unique to its request, such as a trace, or
need what only the general way does, such as a compressed body."""

DIGEST_KEY: Final = token_bytes(32)

COMMON_LINES: Final = (
    b"x-request-id: %b\r\nx-model-version: %b\r\nserver-timing: queue;dur=%.3f, infer;dur=%.3f\r\n"
)


class Answer(NamedTuple):
    """The answer's own header lines, its length among them, and its body."""

    lines: bytes
    body: bytes


class Plan(NamedTuple):
    """What to do with the bodies of requests that have the same head."""

    read: Callable[[bytes], Rows | None]
    """Gives the rows in a body at once; None if that would take long. May raise anything."""
    run: Run[Any]
    inline_rows: int
    write: Callable[[Any, int, int], Answer]
    """The answer for the rows from a start to a stop of what `run` returned. It is sent as it is,
    whatever the caller accepts."""


Planner = Callable[[Mapping[str, str], bytes], Plan | None]
"""Takes the headers and the query string. None if the request is not a usual one."""


class Head(NamedTuple):
    """A head that was parsed before, and what follows from it."""

    content_length: int
    scope: Scope
    """Its method and path."""
    key_digest: bytes | None
    """Of the API key, which is not kept itself."""
    headers: Mapping[str, str]
    """Those of the head, except for `authorization`."""
    target: Target
    plan: Plan | None
    """None if its requests take the general way."""

    @property
    def may_be_collected(self) -> bool:
        """Whether a body may be waited for before the request begins, and with it its timeout."""
        return self.plan is not None and "x-request-timeout" not in self.headers


class Connection(Protocol):
    """What a direct request needs of its connection."""

    def answer_directly(self, status: int, head: bytes, body: bytes) -> None:
        """Write the answer to the current request. `head` is its header lines."""


class DirectRequests:
    """Begins requests whose heads are known."""

    def __init__(
        self, lifecycle: RequestLifecycle, batcher: MicroBatcher, prefixes: Prefixes
    ) -> None:
        self._lifecycle = lifecycle
        self._batcher = batcher
        self._prefixes = prefixes
        self._planners: Mapping[str, Planner] = {}
        self._heads: dict[bytes, Head] = {}

    def use(self, planners: Mapping[str, Planner]) -> None:
        """Plan the requests that begin from now on with these, by path."""
        self._planners = planners
        self._heads.clear()

    def find(self, head: bytes) -> Head | None:
        """What is known of the bytes of a head."""
        return self._heads.get(_without_secrets(head))

    def may_begin(self, head: Head) -> bool:
        """Whether the sender of a head may make its request now."""
        return self._lifecycle.may_begin(head.scope, head.key_digest)

    def learn(self, head: bytes, scope: Mapping[str, Any]) -> None:
        """Keep a head, as parsed into `scope`, if it is a usual one of an authorized caller."""
        path = self._prefixes.without_root_path(scope["path"])
        planner = self._planners.get(path)
        if planner is None or scope["method"] != "POST" or len(head) > MAX_HEAD_BYTES:
            return
        names = {name for name, _ in scope["headers"]}
        lines = len(scope["headers"])
        is_plain = len(names) == lines and names <= PLAIN_HEADERS
        # The parser may skip line breaks before a head, or take others than CRLF for the end of it.
        is_whole = head.startswith(b"POST ") and head.count(b"\n") == lines + 2
        kept_as = _without_secrets(head)
        if not (is_plain and is_whole) or kept_as in self._heads:
            return
        headers = headers_of(scope)
        length = int(headers.get("content-length", MAX_BODY_BYTES + 1))
        if length > MAX_BODY_BYTES:
            return
        known = Head(
            content_length=length,
            scope={"method": "POST", "path": path},
            key_digest=digest_of_header(headers.pop("authorization", None)),
            headers=headers,
            target=Target("POST", path, path),
            plan=planner(headers, scope["query_string"]),
        )
        if self.may_begin(known):
            if len(self._heads) >= MAX_HEADS:
                del self._heads[next(iter(self._heads))]
            self._heads[kept_as] = known

    def begin(
        self, head: Head, body: bytes, connection: Connection, started: float
    ) -> DirectRequest | None:
        """Queue a request's rows; its answer goes to `connection`, later.

        `started` is when its head arrived. None, and nothing has happened, if the request has to
        take the general way. That has the answer to whatever is wrong with it, too.
        """
        plan, lifecycle = head.plan, self._lifecycle
        if plan is None or self._batcher.is_full:
            return None
        request = None
        try:
            rows = plan.read(body)
            if rows is None:
                return None
            request = DirectRequest(
                new_id(),
                lifecycle.model_version,
                lifecycle.budget,
                lifecycle.timeout_s,
                started,
                lifecycle.check_queue_capacity,
                head.headers,
                head=head,
                write=plan.write,
                connection=connection,
                lifecycle=lifecycle,
                batcher=self._batcher,
            )
            request.images = len(rows)
            lifecycle.admit(head.scope, request, head.key_digest)
            lifecycle.check_queue_capacity(len(rows), len(body) + rows.nbytes)
            request.reserve_answer(len(body))
            request.job = self._enqueue(plan, rows, request)
        except Exception:
            if request is not None:
                request.release()
            return None
        return request

    def _enqueue(self, plan: Plan, rows: Rows, request: DirectRequest) -> Job:
        if request.quota is not None:
            request.quota.take(request.images)
        try:
            return self._batcher.enqueue(
                plan.run, rows, request, request.deadline, inline_rows=plan.inline_rows
            )
        except BaseException:
            if request.quota is not None:
                request.quota.refund(request.images)
            raise


@dataclass(slots=True, kw_only=True)
class DirectRequest(RequestContext):
    """A request that has no task. The batcher gives it its result."""

    head: Head
    write: Callable[[Any, int, int], Answer]
    connection: Connection
    lifecycle: RequestLifecycle
    batcher: MicroBatcher
    job: Job | None = None

    def on_result(self, result: Any, start: int, stop: int, queue_s: float, infer_s: float) -> None:
        """Answer with these rows of the result."""
        self.queue_s, self.infer_s = queue_s, infer_s
        self.lifecycle.metrics.observe_queue_wait(queue_s)
        lines, body = self.write(result, start, stop)  # if it fails, the batcher calls `on_error`
        lines += COMMON_LINES % (
            self.request_id.encode("ascii"),
            self.model_version.encode("ascii"),
            queue_s * 1e3,
            infer_s * 1e3,
        )
        if self.quota is not None:
            lines += lines_of(self.quota.headers)
        self.connection.answer_directly(200, lines, body)
        self.lifecycle.end(self, self.head.target, 200)

    def on_error(self, error: Exception) -> None:
        """Answer that the request has failed, or timed out."""
        status, headers, body = self.lifecycle.problem(error, self.head.scope, self)
        self.connection.answer_directly(status, lines_of(headers), body)
        self.lifecycle.end(self, self.head.target, status)

    def leave(self) -> None:
        """Note that the client has disconnected, and drop what has not begun."""
        if self.job is not None and not self.left:
            self.left = True
            self.batcher.withdraw(self.job)
            self.lifecycle.end(self, self.head.target, CLIENT_LEFT)


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as the lines of a head."""
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


def _without_secrets(head: bytes) -> bytes:
    """The bytes of a head, or a digest of them if there is an API key among them."""
    if b"authorization:" in head.lower():
        return blake2b(head, key=DIGEST_KEY).digest()
    return head
