"""Puts what waits into batches. Asyncio and numpy only: knows neither networks nor HTTP."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.deadlines import Deadlines
from service.errors import QueueFullError

Rows = NDArray[Any]
Columns = tuple[NDArray[Any], ...]
R = TypeVar("R", bound=Columns)
Run = Callable[[Sequence[Rows]], R]
"""Takes arrays of rows as one batch and returns a named tuple of arrays, a row for each row."""

RATE_SMOOTHING = 0.2
"""Weight of the newest batch in the measured rate: about the last ten batches count."""

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
    inline: bool
    next_row: int = 0
    pieces: list[Columns] = field(default_factory=list)
    infer_s: float = 0.0

    @property
    def rows_left(self) -> int:
        return len(self.rows) - self.next_row

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
    once; while a batch runs, the next one gathers. Batches of `inline_rows` or fewer run on the
    event loop: handing them to the thread would take longer than they do, as the loop and the
    thread then wait for each other's lock on the interpreter. Kinds of work take turns, and so
    do requests of one kind: after each batch, the rest of a large request goes to the end of the
    queue, so a small one waits for one batch of each large one at most.

    >>> async def use(engine, images):
    ...     batcher = MicroBatcher(max_batch_rows=128, max_queue_rows=1024)
    ...     return (await batcher.submit(engine.score, images)).result.mse
    """

    def __init__(
        self,
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        inline_rows: int = 0,
        on_batch: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._deadlines = Deadlines()
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._inline_rows = inline_rows
        self._on_batch = on_batch
        self._queues: OrderedDict[Run[Any], deque[_Job]] = OrderedDict()
        self._queued_rows = 0
        self._rate: float | None = None  # rows/s, measured
        self._worker: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    @property
    def queued_rows(self) -> int:
        """Rows that wait; those in the running batch are not among them."""
        return self._queued_rows

    async def submit(
        self, run: Run[R], rows: Rows, deadline: float = math.inf, *, inline: bool = True
    ) -> Batched[R]:
        """Queue all rows, wait, and return this request's part of `run`'s results.

        A `run` whose rows take longer than others do is never `inline`.

        Cancelling drops what has not begun. Raises `QueueFullError` at once, nothing queued, if
        the rows do not all fit; `TimeoutError` at `deadline`, on `time.perf_counter`'s clock; and
        whatever `run` raises on these rows alone.
        """
        if not len(rows):
            raise ValueError("a request without rows has no result")
        now = perf_counter()
        if now >= deadline:
            raise TimeoutError
        if self._queued_rows + len(rows) > self._max_queue_rows:
            raise QueueFullError(
                f"{len(rows)} images do not fit: {self._queued_rows} wait already, the maximum is "
                f"{self._max_queue_rows}",
                retry_after_s=self._drain_s(),
            )
        loop = asyncio.get_running_loop()
        job = _Job(run, rows, loop.create_future(), now, inline)
        self._queues.setdefault(run, deque()).append(job)
        self._queued_rows += len(rows)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        self._deadlines.add(job, deadline, job.expire)
        try:
            return await job.future
        finally:
            self._deadlines.discard(job)
            if job.rows_left:
                self._withdraw(job)

    def close(self) -> None:
        """End the thread, after the batch that runs."""
        self._executor.shutdown(wait=True)

    async def _work(self) -> None:
        """Run batches until nothing waits. Ends then: idle costs nothing."""
        while self._queued_rows:
            if batch := self._next_batch():
                await self._run_batch(batch)
                await asyncio.sleep(0)  # so that who waits for the loop, not for rows, gets a turn

    def _next_batch(self) -> list[_Slice]:
        """Take up to `max_batch_rows` off the queue whose turn it is."""
        run, queue = self._queues.popitem(last=False)
        batch: list[_Slice] = []
        room = self._max_batch_rows
        unfinished: list[_Job] = []
        while queue and room:
            job = queue.popleft()
            if job.future.done():  # cancelled or failed, and not yet withdrawn
                self._queued_rows -= job.rows_left
                continue
            rows = job.rows
            if job.next_row or len(rows) > room:
                rows = rows[job.next_row : job.next_row + room]
            batch.append(_Slice(job, rows))
            job.next_row += len(rows)
            room -= len(rows)
            if job.rows_left:
                unfinished.append(job)
        self._queued_rows -= self._max_batch_rows - room
        queue.extend(unfinished)
        if queue:
            self._queues[run] = queue  # at the end: the other kinds come first
        return batch

    async def _run_batch(self, batch: list[_Slice]) -> None:
        run = batch[0].job.run
        parts = [part.rows for part in batch]
        n = sum(map(len, parts))
        started = perf_counter()
        try:
            if batch[0].job.inline and n <= self._inline_rows:
                result = run(parts)
            else:
                loop = asyncio.get_running_loop()
                result = await loop.run_in_executor(self._executor, run, parts)
        except Exception as error:
            if len(batch) == 1:
                batch[0].job.fail(error)
            else:  # One of them is to blame: alone, the others succeed.
                for part in batch:
                    if not part.job.future.done():
                        await self._run_batch([part])
            return
        seconds = perf_counter() - started
        try:
            self._measure(n, seconds)
            start = 0
            for part in batch:
                stop = start + len(part.rows)
                self._deliver(part.job, type(result)(*(c[start:stop] for c in result)), seconds)
                start = stop
        except Exception as error:  # whatever it was, nobody may wait for ever
            for part in batch:
                part.job.fail(error)

    def _deliver(self, job: _Job, piece: Columns, seconds: float) -> None:
        job.pieces.append(piece)
        job.infer_s += seconds
        if job.rows_left or job.future.done():
            return
        if len(job.pieces) == 1:
            result: Columns = job.pieces[0]
        else:
            result = type(piece)(*map(np.concatenate, zip(*job.pieces, strict=True)))
        total = perf_counter() - job.queued_at
        job.future.set_result(Batched(result, max(0.0, total - job.infer_s), job.infer_s))

    def _withdraw(self, job: _Job) -> None:
        """Drop rows that wait for nobody: the request was cancelled or has failed."""
        queue = self._queues.get(job.run)
        if queue and job in queue:
            queue.remove(job)
            self._queued_rows -= job.rows_left
            if not queue:
                del self._queues[job.run]

    def _measure(self, rows: int, seconds: float) -> None:
        self._on_batch(rows, seconds)
        rate = rows / max(seconds, 1e-9)
        self._rate = (
            rate if self._rate is None else self._rate + RATE_SMOOTHING * (rate - self._rate)
        )

    def _drain_s(self) -> int:
        """Whole seconds until what waits now is done, at the measured rate; at least 1."""
        seconds = self._queued_rows / self._rate if self._rate else 1.0
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(seconds)))
