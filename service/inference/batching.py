"""Micro-batching of queued requests. Needs only asyncio and numpy, and knows no network or HTTP."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread, current_thread
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import QueueFullError
from service.limits.byte_budget import ByteBudget
from service.limits.deadlines import Deadlines

Rows = NDArray[Any]
Columns = tuple[NDArray[Any], ...]
R = TypeVar("R", bound=Columns)
Run = Callable[[Sequence[Rows]], R]
"""Runs arrays of rows as one batch. Returns a named tuple of arrays with one row per input row."""

RATE_WINDOW_S = 1.0
"""Time constant of the measured rate, in seconds of work. The rate of a fixed number of batches
would be wrong when a few small ones come between large ones."""

MAX_RETRY_AFTER_S = 60
"""Upper bound on `Retry-After`."""


class Batched(NamedTuple, Generic[R]):
    """One request's rows of the result, and the seconds that it spent in the queue and in `run`."""

    result: R
    queue_s: float
    infer_s: float


@dataclass(eq=False, slots=True)
class _Job:
    """The rows of one request. A large job is spread over several batches."""

    run: Run[Any]
    rows: Rows
    future: asyncio.Future[Batched[Any]]
    queued_at: float
    deadline: float
    inline_rows: int
    max_rows: int
    always: bool
    left: int
    """How many rows, at the end of `rows`, are not in a batch yet."""
    result: Columns | None = None
    """The result of a large job. It is filled batch by batch, as joining all parts at the end would
    hold up the event loop."""
    done: int = 0
    """How many rows of `result` are filled."""
    infer_s: float = 0.0

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        self.fail(TimeoutError())


class _Slice(NamedTuple):
    """The part of a job that is in one batch."""

    job: _Job
    rows: Rows


class MicroBatcher:
    """Joins small requests into batches, splits large ones, and runs one batch at a time.

    There is no timer. When nothing is running, all requests of this turn of the event loop start
    at once; while a batch is running, the next one gathers. Short batches run on the event loop if
    their requests allow it: handing one to the thread would cost more than running it, because the
    loop and the thread would wait for each other to release the interpreter lock.

    Requests with different `run` functions are queued separately, and the queues take turns. Within
    a queue, each waiting request has an equal share of the next batch. A request that fits into its
    share is in that batch completely; larger ones take turns at the remaining rows. So a request
    for one image only waits for the current batch, even behind thousands of images.

    >>> async def use(engine, images):
    ...     batcher = MicroBatcher(max_batch_rows=8, max_queue_rows=64, budget=ByteBudget(1 << 28))
    ...     return (await batcher.submit(engine.score, images)).result.mse
    """

    def __init__(
        self,
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        budget: ByteBudget,
        on_batch: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._deadlines = Deadlines()
        self.max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._budget = budget
        self._on_batch = on_batch
        self._queues: OrderedDict[Run[Any], deque[_Job]] = OrderedDict()
        self._queued_rows = 0
        self._recent_work = (0.0, 0.0)  # rows, and the seconds they took
        self._worker: asyncio.Task[None] | None = None
        self._thread: Thread | None = None
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="inference", initializer=self._store_thread
        )
        self.running_since: float | None = None
        """Start of the current batch on `time.perf_counter`'s clock; None if nothing is running."""
        self.has_failed = False
        """Set when a batch fails; reset by `Health` before it sends a probe."""

    @property
    def queued_rows(self) -> int:
        """Rows waiting in the queues, without those of the current batch."""
        return self._queued_rows

    @property
    def is_full(self) -> bool:
        """Whether a request for one row would be refused."""
        return (
            self._queued_rows >= self._max_queue_rows
            or self._budget.reserved >= self._budget.max_bytes
        )

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until the waiting rows are done at the measured rate; at least 1."""
        rows, seconds = self._recent_work
        wait_s = self._queued_rows * seconds / rows if rows else 1.0
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(wait_s)))

    def check_capacity(self, rows: int, n_bytes: int) -> None:
        """Raise `QueueFullError` if `rows` more rows or `n_bytes` more bytes do not fit now."""
        if self._queued_rows + rows > self._max_queue_rows:
            images = "1 image does" if rows == 1 else f"{rows} images do"
            raise QueueFullError(
                f"{images} not fit: {self._queued_rows} wait already, the maximum is "
                f"{self._max_queue_rows}",
                of="images",
                retry_after_s=self.retry_after_s,
            )
        if self._budget.reserved + n_bytes > self._budget.max_bytes:
            raise QueueFullError(
                f"{n_bytes:,} bytes do not fit: requests hold {self._budget.reserved:,} already, "
                f"the maximum is {self._budget.max_bytes:,}",
                of="bytes",
                retry_after_s=self.retry_after_s,
            )

    async def submit(
        self,
        run: Run[R],
        rows: Rows,
        deadline: float = math.inf,
        *,
        inline_rows: int = 0,
        max_rows: int | None = None,
        always: bool = False,
    ) -> Batched[R]:
        """Queue all rows, wait for them, and return their part of `run`'s results.

        A batch of up to `inline_rows` rows may run on the event loop. `max_rows` limits the batches
        of `run`; all requests for the same `run` must give the same value. `always` is for the
        service's own requests: they go to the front of their queue, even if it is full, and do not
        count against the limits.

        Cancelling drops the rows that have not started. Raises `QueueFullError` at once if the rows
        do not all fit, and queues none of them; `TimeoutError` at `deadline`, which is on
        `time.perf_counter`'s clock; and what `run` raises for these rows alone.
        """
        n = len(rows)
        if not n:
            raise ValueError("a request without rows has no result")
        now = perf_counter()
        if now >= deadline:
            raise TimeoutError
        if not always:
            self.check_capacity(n, rows.nbytes)
            self._budget.reserve(rows.nbytes)
        loop = asyncio.get_running_loop()
        max_rows = min(max_rows or self.max_batch_rows, self.max_batch_rows)
        job = _Job(run, rows, loop.create_future(), now, deadline, inline_rows, max_rows, always, n)
        queue = self._queues.setdefault(run, deque())
        if always:
            queue.appendleft(job)
        else:
            queue.append(job)
            self._queued_rows += n
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        self._deadlines.add(job, deadline, job.expire)
        try:
            return await job.future
        finally:
            self._deadlines.discard(job)
            if not always:
                self._budget.release(rows.nbytes)
            if job.left:
                self._withdraw(job)

    def close(self, timeout_s: float) -> bool:
        """End the thread after the current batch, and return whether it ended in time."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _store_thread(self) -> None:
        self._thread = current_thread()

    async def _work(self) -> None:
        """Run batches until the queues are empty."""
        ended = perf_counter()
        while self._queues:
            if batch := self._next_batch():
                is_representative = self._queued_rows > 0 or not self._recent_work[0]
                await self._run_batch(batch)
                await asyncio.sleep(0)  # lets the event loop do other work between batches
                began, ended = ended, perf_counter()
                if is_representative:  # a lone request says little about the rate under load
                    self._update_rate(sum(len(part.rows) for part in batch), ended - began)

    def _next_batch(self) -> list[_Slice]:
        """Take the next batch from the queue whose turn it is. Empty if all its jobs have expired.

        Jobs that fit into an equal share of the batch are taken whole. Then the larger ones take
        the remaining rows in order. One share is reserved for the first of them, so that small jobs
        cannot hold it up for ever.
        """
        run, queue = self._queues.popitem(last=False)
        now = perf_counter()
        remaining = max_rows = queue[0].max_rows
        share = max(1, max_rows // len(queue))
        batch: list[_Slice] = []
        large: deque[_Job] = deque()
        while queue and remaining and len(large) < max_rows:
            job = queue.popleft()
            if job.future.done() or job.deadline <= now:
                job.expire()  # its timer may be late
                self._withdraw(job)
            elif job.left <= share:
                remaining -= self._take(job, remaining, batch)
            else:
                if not large:
                    remaining -= share
                large.append(job)
        if large:
            remaining += share
        while large and remaining:
            remaining -= self._take(large.popleft(), remaining, batch)
        queue.extendleft(reversed(large))  # these keep their place; jobs with rows left go last
        queue.extend(part.job for part in batch if part.job.left)
        if queue:
            self._queues[run] = queue  # last in turn
        return batch

    def _take(self, job: _Job, max_rows: int, batch: list[_Slice]) -> int:
        """Put up to `max_rows` of a job's rows into the batch, and return how many."""
        n = min(job.left, max_rows)
        rows = job.rows
        if n < len(rows):
            start = len(rows) - job.left
            rows = rows[start : start + n]
        batch.append(_Slice(job, rows))
        self._dequeue_rows(job, n)
        return n

    def _dequeue_rows(self, job: _Job, n: int) -> None:
        job.left -= n
        if not job.always:
            self._queued_rows -= n

    async def _run_batch(self, batch: list[_Slice]) -> None:
        run = batch[0].job.run
        parts = [part.rows for part in batch]
        n = sum(map(len, parts))
        started = self.running_since = perf_counter()
        try:
            if n <= batch[0].job.inline_rows:
                result = run(parts)
            else:
                loop = asyncio.get_running_loop()
                result = await loop.run_in_executor(self._executor, run, parts)
        except Exception as error:
            self.has_failed = True
            await self._run_halves(batch, error)
            return
        finally:
            self.running_since = None
        seconds = perf_counter() - started
        try:
            self._on_batch(n, seconds)
            start = 0
            for part in batch:
                stop = start + len(part.rows)
                self._deliver(part.job, type(result)(*(c[start:stop] for c in result)), seconds)
                start = stop
        except Exception as error:  # otherwise the requests would wait for ever
            for part in batch:
                part.job.fail(error)

    async def _run_halves(self, batch: list[_Slice], error: Exception) -> None:
        """Run a failed batch again in halves, so that only the request at fault fails."""
        if len(batch) == 1:
            batch[0].job.fail(error)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            unfinished = [part for part in half if not part.job.future.done()]
            if unfinished:
                await self._run_batch(unfinished)

    def _deliver(self, job: _Job, piece: Columns, seconds: float) -> None:
        job.infer_s += seconds
        if job.future.done():
            return
        n = len(piece[0])
        if n < len(job.rows):
            if job.result is None:
                empty = (np.empty((len(job.rows), *c.shape[1:]), c.dtype) for c in piece)
                job.result = type(piece)(*empty)
            for whole, part in zip(job.result, piece, strict=True):
                whole[job.done : job.done + n] = part
            job.done += n
            piece = job.result
        if job.left:
            return
        total = perf_counter() - job.queued_at
        job.future.set_result(Batched(piece, max(0.0, total - job.infer_s), job.infer_s))

    def _withdraw(self, job: _Job) -> None:
        """Drop the rows of a request that was cancelled or has failed.

        The job stays in its queue and is skipped later: searching thousands of jobs takes long.
        """
        self._dequeue_rows(job, job.left)
        job.rows = np.empty(
            (0, *job.rows.shape[1:]), job.rows.dtype
        )  # a slice would keep all rows alive
        job.result = None
        cancelled: asyncio.Future[Batched[Any]] = job.future.get_loop().create_future()
        cancelled.cancel()
        job.future = cancelled  # the old one's exception refers to frames that refer to the rows

    def _update_rate(self, rows: int, seconds: float) -> None:
        """Measure how fast the queue drains. `seconds` is the whole batch, not only its pass."""
        decay = math.exp(-seconds / RATE_WINDOW_S)
        self._recent_work = (
            decay * self._recent_work[0] + rows,
            decay * self._recent_work[1] + seconds,
        )
