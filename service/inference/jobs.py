"""The rows of one request on their way through the queue, and who gets the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
Columns = tuple[NDArray[Any], ...]
R = TypeVar("R", bound=Columns)
Run = Callable[[Sequence[Rows]], R]
"""Runs arrays of rows as one batch. Returns a named tuple of arrays with one row per input row."""


class Batched(NamedTuple, Generic[R]):
    """One request's rows of the result, and the seconds that it spent in the queue and in `run`."""

    result: R
    queue_s: float
    infer_s: float


class Receiver(Protocol):
    """Takes the outcome of a job: one method is called, once, unless the job is withdrawn."""

    @property
    def left(self) -> bool:
        """Whether it waits no more, so that the job need not begin."""

    def on_result(self, result: Any, start: int, stop: int, queue_s: float, infer_s: float) -> None:
        """The job's rows are `start` to `stop` of `result`, which other jobs may share.

        `queue_s` and `infer_s` are the seconds that the job spent in the queue and in `run`.
        """

    def on_error(self, error: Exception) -> None:
        """`TimeoutError` at the deadline, or what `run` raised for these rows alone."""


class FutureReceiver(Generic[R]):
    """Receives for a coroutine that waits for `future`."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Batched[R]]) -> None:
        self.future = future

    @property
    def left(self) -> bool:
        """See `Receiver`."""
        return self.future.done()

    def on_result(self, result: R, start: int, stop: int, queue_s: float, infer_s: float) -> None:
        """See `Receiver`."""
        if not self.future.done():
            own = type(result)(*(column[start:stop] for column in result))
            self.future.set_result(Batched(own, queue_s, infer_s))

    def on_error(self, error: Exception) -> None:
        """See `Receiver`."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False, slots=True)
class Job:
    """The rows of one request. A large job is spread over several batches."""

    run: Run[Any]
    rows: Rows
    receiver: Receiver | None
    """None once it has the outcome, or nobody waits for that any more."""
    queued_at: float
    deadline: float
    inline_rows: int
    max_rows: int
    always: bool
    left: int
    """How many rows, at the end of `rows`, are not in a batch yet."""
    reserved_bytes: int = 0
    """Held in the byte budget until the job ends."""
    result: Columns | None = None
    """The result of a large job. It is filled batch by batch, as joining all parts at the end would
    hold up the event loop."""
    done: int = 0
    """How many rows of `result` are filled."""
    infer_s: float = 0.0
    on_pass: Callable[[float, int, float], None] | None = None
    """Called after each batch with rows of this job; see `MicroBatcher.submit`."""

    @property
    def ended(self) -> bool:
        """Whether nothing is to be done for it any more."""
        return self.receiver is None or self.receiver.left

    def add_rows(self, at: int, columns: Columns, start: int, stop: int) -> bool:
        """Keep one batch's part of the result, whose first row is the job's row `at`.

        Returns whether `result` is complete.
        """
        if self.result is None:
            n = len(self.rows)
            empty = (np.empty((n, *column.shape[1:]), column.dtype) for column in columns)
            self.result = type(columns)(*empty)
        for whole, part in zip(self.result, columns, strict=True):
            whole[at : at + stop - start] = part[start:stop]
        self.done += stop - start
        return self.done == len(self.rows)


class Slice(NamedTuple):
    """The part of a job that is in one batch."""

    job: Job
    rows: Rows
    at: int
    """Of the job's rows, the number of the first."""


@dataclass(eq=False, slots=True)
class Batch:
    """What runs at once."""

    slices: list[Slice]
    started: float
    in_thread: bool
    is_representative: bool
    """Whether its time says something about the rate under load, as that of a lone request does
    not."""

    @property
    def n_rows(self) -> int:
        """How many rows it has."""
        return sum(len(part.rows) for part in self.slices)
