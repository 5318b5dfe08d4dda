"""Micro-batching of queued requests. Needs only asyncio and numpy, and knows no network or HTTP."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from service.errors import QueueFullError
from service.inference.jobs import (
    Batch,
    Batched,
    Columns,
    FutureReceiver,
    Job,
    R,
    Receiver,
    Rows,
    Run,
    Slice,
)
from service.inference.worker_thread import WorkerThread
from service.limits.byte_budget import ByteBudget
from service.limits.deadlines import Deadlines

log = logging.getLogger("service")

RATE_WINDOW_S = 1.0
"""Time constant of the measured rate, in seconds of work. The rate of a fixed number of batches
would be wrong when a few small ones come between large ones."""

MAX_RETRY_AFTER_S = 60
"""Upper bound on `Retry-After`."""


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
        self._deadlines = Deadlines(self._expire)
        self.max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._budget = budget
        self._on_batch = on_batch
        self._queues: OrderedDict[Run[Any], deque[Job]] = OrderedDict()
        self._queued_rows = 0
        self._recent_work = (0.0, 0.0)  # rows, and the seconds they took
        self._failed: deque[list[Slice]] = deque()  # halves of failed batches; they run first
        self._loop: asyncio.AbstractEventLoop | None = None  # while anything is queued or running
        self._batch_ended = 0.0
        self._thread = WorkerThread("inference")
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
        on_pass: Callable[[float, int, float], None] | None = None,
    ) -> Batched[R]:
        """Queue all rows, wait for them, and return their part of `run`'s results.

        A batch of up to `inline_rows` rows may run on the event loop. `max_rows` limits the batches
        of `run`; all requests for the same `run` must give the same value. `always` is for the
        service's own requests: they go to the front of their queue, even if it is full, and do not
        count against the limits. `on_pass` is called after each batch with some of the rows, with
        when it ended, which tells batches apart, with all of its rows, and its seconds.

        Cancelling drops the rows that have not started. Raises `QueueFullError` at once if the rows
        do not all fit, and queues none of them; `TimeoutError` at `deadline`, which is on
        `time.perf_counter`'s clock; and what `run` raises for these rows alone.
        """
        future: asyncio.Future[Batched[R]] = asyncio.get_running_loop().create_future()
        job = self.enqueue(
            run,
            rows,
            FutureReceiver(future),
            deadline,
            inline_rows=inline_rows,
            max_rows=max_rows,
            always=always,
        )
        job.on_pass = on_pass
        try:
            return await future
        finally:
            self.withdraw(job)

    def enqueue(
        self,
        run: Run[Any],
        rows: Rows,
        receiver: Receiver,
        deadline: float = math.inf,
        *,
        inline_rows: int = 0,
        max_rows: int | None = None,
        always: bool = False,
    ) -> Job:
        """As `submit`, for callers that do not wait: the outcome is given to `receiver`, later."""
        n = len(rows)
        if not n:
            raise ValueError("a request without rows has no result")
        now = perf_counter()
        if now >= deadline:
            raise TimeoutError
        max_rows = min(max_rows or self.max_batch_rows, self.max_batch_rows)
        job = Job(run, rows, receiver, now, deadline, inline_rows, max_rows, always, n)
        if not always:
            self.check_capacity(n, rows.nbytes)
            self._queued_rows += n
            job.reserved_bytes = rows.nbytes
            self._budget.reserve(rows.nbytes)
        queue = self._queues.get(run)
        if queue is None:
            queue = self._queues[run] = deque()
        if always:
            queue.appendleft(job)
        else:
            queue.append(job)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._batch_ended = loop, now
            loop.call_soon(self._run_next)
        self._deadlines.add(job, deadline)
        return job

    def withdraw(self, job: Job) -> None:
        """Drop the rows of a job that nobody waits for any more. Nothing happens if it has ended.

        The job stays in its queue and is skipped later: searching thousands of jobs takes long.
        """
        self._end(job)

    def close(self, timeout_s: float) -> bool:
        """End the thread after the current batch, and return whether it ended in time."""
        return self._thread.close(timeout_s)

    def _run_next(self) -> None:
        """Run the next batch, if there is any."""
        self._start(self._take_next())

    def _take_next(self) -> list[Slice]:
        """The next batch. Empty if nothing is queued."""
        batch: list[Slice] = []
        while not batch and (self._failed or self._queues):
            if self._failed:
                batch = [part for part in self._failed.popleft() if not part.job.ended]
            else:
                batch = self._next_batch()
        return batch

    def _next_batch(self) -> list[Slice]:
        """Take the next batch from the queue whose turn it is. Empty if all its jobs have expired.

        Jobs that fit into an equal share of the batch are taken whole. Then the larger ones take
        the remaining rows in order. One share is reserved for the first of them, so that small jobs
        cannot hold it up for ever.
        """
        run, queue = self._queues.popitem(last=False)
        now = perf_counter()
        remaining = max_rows = queue[0].max_rows
        share = max(1, max_rows // len(queue))
        batch: list[Slice] = []
        large: deque[Job] = deque()
        while queue and remaining and len(large) < max_rows:
            job = queue.popleft()
            if job.ended:
                continue
            if job.deadline <= now:
                self._expire(job)  # its timer may be late
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

    def _take(self, job: Job, max_rows: int, batch: list[Slice]) -> int:
        """Put up to `max_rows` of a job's rows into the batch, and return how many."""
        n = min(job.left, max_rows)
        rows, at = job.rows, len(job.rows) - job.left
        if n < len(rows):
            rows = rows[at : at + n]
        batch.append(Slice(job, rows, at))
        self._dequeue_rows(job, n)
        return n

    def _dequeue_rows(self, job: Job, n: int) -> None:
        job.left -= n
        if not job.always:
            self._queued_rows -= n

    def _start(self, slices: list[Slice]) -> None:
        """Run a batch, in the thread or here. If there is none, wait for the next request."""
        if not slices:
            self._loop = None
            return
        run, parts = slices[0].job.run, [part.rows for part in slices]
        is_representative = self._queued_rows > 0 or not self._recent_work[0]
        batch = Batch(slices, perf_counter(), _is_large(slices), is_representative)
        self.running_since = batch.started
        result = error = None
        try:
            if batch.in_thread:
                self._thread.run(run, parts, done=partial(self._end_batch, batch))
                return
            result = run(parts)
        except Exception as raised:
            error = raised
        self._end_batch(batch, result, error)

    def _end_batch(self, batch: Batch, result: Columns | None, error: Exception | None) -> None:
        """Begin the next batch, and give each job of this one its rows of the result, or divide it.

        The order of the two is for the thread's sake: it goes on while results are delivered. A
        batch for the event loop comes after that, and after the loop's other work.
        """
        ended = perf_counter()
        self.running_since = None
        if batch.is_representative:
            self._update_rate(batch.n_rows, ended - self._batch_ended)
        self._batch_ended = ended
        if result is None:
            self.has_failed = True
            self._split(batch.slices, error or RuntimeError("a batch has no result"))
        loop = asyncio.get_running_loop()
        if result is not None and batch.in_thread and self._is_much_queued:
            following = self._take_next()
            if _is_large(following):
                self._start(following)
            else:
                loop.call_soon(self._start_again, following)
        else:
            loop.call_soon(self._run_next)
        if result is not None:
            self._deliver(batch, result, ended)

    @property
    def _is_much_queued(self) -> bool:
        """Whether the next batch is probably too large for the event loop."""
        first = next((queue[0] for queue in self._queues.values()), None)
        return first is not None and self._queued_rows > first.inline_rows

    def _start_again(self, slices: list[Slice]) -> None:
        """Run a batch that was taken a turn of the event loop ago, without what has ended since."""
        unfinished = [part for part in slices if not part.job.ended]
        self._start(unfinished or self._take_next())

    def _split(self, slices: list[Slice], error: Exception) -> None:
        """Have a failed batch run again in halves, so that only the request at fault fails."""
        if len(slices) == 1:
            self._end_with_error(slices[0].job, error)
        else:
            middle = len(slices) // 2
            self._failed.extendleft((slices[middle:], slices[:middle]))

    def _deliver(self, batch: Batch, result: Columns, ended: float) -> None:
        """Give each job its rows. Whatever goes wrong with one is no other's fault."""
        seconds = ended - batch.started
        try:
            self._on_batch(batch.n_rows, seconds)
        except Exception:
            log.exception("a batch was not counted")
        start = 0
        for part in batch.slices:
            try:
                self._deliver_part(part, result, start, seconds, ended)
            except Exception as error:
                self._end_with_error(part.job, error)
            start += len(part.rows)

    def _deliver_part(
        self, part: Slice, result: Columns, start: int, seconds: float, ended: float
    ) -> None:
        """Give a job its rows, which are those of `result` from `start` on."""
        job, stop = part.job, start + len(part.rows)
        job.infer_s += seconds
        if job.on_pass is not None:
            job.on_pass(ended, len(result[0]), seconds)
        receiver = job.receiver
        if receiver is None:
            return
        if len(part.rows) < len(job.rows):
            if not job.add_rows(part.at, result, start, stop):
                return
            assert job.result is not None  # noqa: S101 - for mypy
            result, start, stop = job.result, 0, job.done
        self._end(job)
        queue_s = max(0.0, ended - job.queued_at - job.infer_s)
        try:
            receiver.on_result(result, start, stop, queue_s, job.infer_s)
        except Exception as error:
            _tell_error(receiver, error)

    def _expire(self, job: Job) -> None:
        self._end_with_error(job, TimeoutError())

    def _end_with_error(self, job: Job, error: Exception) -> None:
        receiver = job.receiver
        if receiver is not None:
            self._end(job)
            _tell_error(receiver, error)

    def _end(self, job: Job) -> None:
        """Give back all that a job holds."""
        if job.receiver is None:
            return
        job.receiver = None
        self._deadlines.discard(job)
        self._budget.release(job.reserved_bytes)
        if job.left:
            self._dequeue_rows(job, job.left)
            # It stays in its queue for a while, and a slice would keep all rows alive.
            job.rows = np.empty((0, *job.rows.shape[1:]), job.rows.dtype)
            job.result = None

    def _update_rate(self, rows: int, seconds: float) -> None:
        """Measure how fast the queue drains. `seconds` is the whole batch, not only its pass."""
        decay = math.exp(-seconds / RATE_WINDOW_S)
        self._recent_work = (
            decay * self._recent_work[0] + rows,
            decay * self._recent_work[1] + seconds,
        )


def _is_large(slices: list[Slice]) -> bool:
    """Whether a batch is too large to run on the event loop."""
    return bool(slices) and sum(len(part.rows) for part in slices) > slices[0].job.inline_rows


def _tell_error(receiver: Receiver, error: Exception) -> None:
    """Tell a receiver of an error; it may have one of its own, which ends there."""
    try:
        receiver.on_error(error)
    except Exception:
        log.exception("a request was not told of %r", error)
