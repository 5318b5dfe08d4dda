"""Puts what waits into batches. Asyncio and numpy only: knows neither networks nor HTTP."""

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
"""Takes arrays of rows as one batch and returns a named tuple of arrays, a row for each row."""

RATE_OVER_S = 1.0
"""The measured rate is that of the last second or so of work. That of the last batches would be
wrong where a few small ones come between large ones."""

MAX_RETRY_AFTER_S = 60
"""A caller told to wait longer than this would better be told by a person."""


class Batched(NamedTuple, Generic[R]):
    """One request's rows of the result, and where its time went."""

    result: R
    queue_s: float
    infer_s: float


@dataclass(eq=False, slots=True)
class _Job:
    """The rows of one request. A large one is worked off in several batches."""

    run: Run[Any]
    rows: Rows
    future: asyncio.Future[Batched[Any]]
    queued_at: float
    deadline: float
    inline_rows: int
    most_rows: int
    always: bool
    left: int
    """Rows that wait: the last ones of `rows`."""
    result: Columns | None = None
    """Of a large one: filled batch by batch, as putting it together at the end would take long."""
    done: int = 0
    """Rows of `result`."""
    infer_s: float = 0.0

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        self.fail(TimeoutError())


class _Slice(NamedTuple):
    """Part of a job that is in one batch."""

    job: _Job
    rows: Rows


class MicroBatcher:
    """Joins what waits, splits what is too large, one batch at a time.

    There is no timer. When nothing runs, what arrived in this turn of the event loop starts at
    once; while a batch runs, the next one gathers. Short batches run on the event loop where their
    requests allow it: handing them to the thread would take longer than they do, as the loop and
    the thread then wait for each other's lock on the interpreter.

    Kinds of work take turns. Of one kind, each request that waits has an equal share of the next
    batch: who needs no more than that is in it, and the large ones take turns at what is left. So
    one image waits for the batch that runs, however many thousands are ahead of it.

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
        self._lately = (0.0, 0.0)  # rows, and the seconds that they took
        self._worker: asyncio.Task[None] | None = None
        self._thread: Thread | None = None
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="inference", initializer=self._note_thread
        )
        self.running_since: float | None = None
        """When the batch that runs began, on `time.perf_counter`'s clock."""
        self.has_failed = False
        """Whether a batch has failed; for who looks into it to put back."""

    @property
    def queued_rows(self) -> int:
        """Rows that wait; those in the running batch are not among them."""
        return self._queued_rows

    @property
    def is_full(self) -> bool:
        """Whether not even one more row would be accepted."""
        return (
            self._queued_rows >= self._max_queue_rows
            or self._budget.reserved >= self._budget.max_bytes
        )

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until what waits now is done, at the measured rate; at least 1."""
        rows, took_s = self._lately
        seconds = self._queued_rows * took_s / rows if rows else 1.0
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(seconds)))

    def check_capacity(self, rows: int, n_bytes: int) -> None:
        """Raise `QueueFullError` if so many more rows or bytes would be refused now."""
        if self._queued_rows + rows > self._max_queue_rows:
            what = "1 image does" if rows == 1 else f"{rows} images do"
            raise QueueFullError(
                f"{what} not fit: {self._queued_rows} wait already, the maximum is "
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
        most_rows: int | None = None,
        always: bool = False,
    ) -> Batched[R]:
        """Queue all rows, wait, and return this request's part of `run`'s results.

        A batch of `inline_rows` or fewer may run on the event loop. One of `run` has at most
        `most_rows`, which are the same for all of its requests. With `always` no limit is asked
        and none is nearer for others, and it is first of its kind: for a row of the service's own.

        Cancelling drops what has not begun. Raises `QueueFullError` at once, nothing queued, if
        the rows do not all fit; `TimeoutError` at `deadline`, on `time.perf_counter`'s clock; and
        whatever `run` raises on these rows alone.
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
        most_rows = min(most_rows or self.max_batch_rows, self.max_batch_rows)
        job = _Job(
            run, rows, loop.create_future(), now, deadline, inline_rows, most_rows, always, n
        )
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
        """End the thread, after the batch that runs. Whether it ended in time."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _note_thread(self) -> None:
        self._thread = current_thread()

    async def _work(self) -> None:
        """Run batches until nothing waits. Ends then: idle costs nothing."""
        ended = perf_counter()
        while self._queues:
            if batch := self._next_batch():
                is_busy = self._queued_rows > 0 or not self._lately[0]
                await self._run_batch(batch)
                await asyncio.sleep(0)  # so that who waits for the loop, not for rows, gets a turn
                began, ended = ended, perf_counter()
                if is_busy:  # lone requests say little of how fast many are done
                    self._measure(sum(len(part.rows) for part in batch), ended - began)

    def _next_batch(self) -> list[_Slice]:
        """Take up to `max_batch_rows` off the queue whose turn it is."""
        run, queue = self._queues.popitem(last=False)
        now = perf_counter()
        room = most = queue[0].most_rows
        share = max(1, room // len(queue))
        batch: list[_Slice] = []
        large: list[_Job] = []
        while queue and room and len(large) < most:
            job = queue.popleft()
            if job.future.done() or job.deadline <= now:
                job.expire()  # its timer may be late
                self._withdraw(job)
            elif job.left > share:
                room -= 0 if large else share  # kept for the first, so that none waits for ever
                large.append(job)
            else:
                room -= self._take(job, room, batch)
        room += share if large else 0
        passed_over = []
        for job in large:
            if room:
                room -= self._take(job, room, batch)
            else:
                passed_over.append(job)
        queue.extendleft(reversed(passed_over))
        queue.extend(part.job for part in batch if part.job.left)
        if queue:
            self._queues[run] = queue  # at the end: the other kinds come first
        return batch

    def _take(self, job: _Job, most: int, batch: list[_Slice]) -> int:
        """Put the next rows of a job into the batch; how many."""
        n = min(job.left, most)
        rows = job.rows
        if n < len(rows):
            start = len(rows) - job.left
            rows = rows[start : start + n]
        batch.append(_Slice(job, rows))
        self._no_longer_wait(job, n)
        return n

    def _no_longer_wait(self, job: _Job, n: int) -> None:
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
        except Exception as error:  # whatever it was, nobody may wait for ever
            for part in batch:
                part.job.fail(error)

    async def _run_halves(self, batch: list[_Slice], error: Exception) -> None:
        """One of them is to blame, and fails; the others succeed without it."""
        if len(batch) == 1:
            batch[0].job.fail(error)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            waited_for = [part for part in half if not part.job.future.done()]
            if waited_for:
                await self._run_batch(waited_for)

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
        """Drop rows that wait for nobody: the request was cancelled or has failed.

        It stays in its queue, to be passed over: looking for it among thousands takes long.
        """
        self._no_longer_wait(job, job.left)
        job.rows = np.empty((0, *job.rows.shape[1:]), job.rows.dtype)  # a slice would keep all
        job.result = None
        over: asyncio.Future[Batched[Any]] = job.future.get_loop().create_future()
        over.cancel()
        job.future = over  # the other's exception would keep its frames, and they the rows

    def _measure(self, rows: int, seconds: float) -> None:
        """The rate at which the queue drains: of all that a batch takes, not of its pass alone."""
        kept = math.exp(-seconds / RATE_OVER_S)
        self._lately = (kept * self._lately[0] + rows, kept * self._lately[1] + seconds)
