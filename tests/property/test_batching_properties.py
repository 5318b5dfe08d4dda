"""MicroBatcher under any mix of sizes, kinds, order, cancellation and failure.

The event loop is real; only the inference thread is a fake that runs a batch when the test says so.
So a schedule that fails is the same schedule every time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import QueueFullError
from service.inference.batching import MicroBatcher
from service.inference.jobs import Batched
from service.limits.byte_budget import ByteBudget

Ids = NDArray[np.int64]
TURNS_TO_SETTLE = 8
"""Turns of the loop in which whatever follows from an event has followed."""


class StepLoop(asyncio.SelectorEventLoop):
    """Work for the inference thread waits here until `step`."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[tuple[Callable[[], Any], Callable[..., object]]] = deque()
        self.all_tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)

    def run(self, work: Callable[..., Any], *arguments: Any, done: Callable[..., object]) -> None:
        """As `WorkerThread.run`."""
        assert not self.waiting, "two batches at once"
        self.waiting.append((lambda: work(*arguments), done))

    def step(self) -> None:
        call, done = self.waiting.popleft()
        try:
            self.call_soon_threadsafe(done, call(), None)
        except Exception as error:
            self.call_soon_threadsafe(done, None, error)

    def _make_task(self, loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self.all_tasks.append(task)
        return task


class BrokenRowError(Exception):
    """What the fake network raises."""


class Squares(NamedTuple):
    """What the fake network returns."""

    ids: Ids
    squares: Ids


@dataclass
class Request:
    """One request, and how many batches had been handed over when what happened to it happened."""

    kind: int
    ids: list[int]
    broken: bool
    submitted: int
    queued_before: int = 0
    over: int | None = None
    outcome: Batched[Squares] | Exception | None = None
    cancelled: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True)
class Submit:
    kind: int
    rows: int
    broken: bool = False


@dataclass(frozen=True)
class Cancel:
    """The caller of one of the latest requests leaves."""

    back: int


@dataclass(frozen=True)
class Finish:
    """The running batch ends."""


@dataclass(frozen=True)
class Turn:
    """The event loop turns. Two turns after its submission a lone request is running."""

    times: int


Step = Submit | Cancel | Finish | Turn


@dataclass
class World:
    """Plays steps against a batcher and keeps the record."""

    max_batch: int
    max_queue: int
    kinds: int = 3
    requests: list[Request] = field(default_factory=list)
    owners: list[Request] = field(default_factory=list)  # of each row
    batches: list[tuple[int, list[int]]] = field(default_factory=list)  # kind and rows
    measured: list[int] = field(default_factory=list)

    def play(self, steps: Sequence[Step]) -> None:
        with asyncio.Runner(loop_factory=StepLoop) as runner:
            runner.run(self._play(steps))

    async def _play(self, steps: Sequence[Step]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StepLoop)
        self.loop = loop
        self.batcher = MicroBatcher(
            max_batch_rows=self.max_batch,
            max_queue_rows=self.max_queue,
            budget=ByteBudget(1 << 30),
            on_batch=lambda rows, _: self.measured.append(rows),
        )
        self.batcher._thread = loop  # type: ignore[assignment] # runs what it is given
        self.runs = [self._network(kind) for kind in range(self.kinds)]
        for step in steps:
            match step:
                case Submit():
                    self._submit(step)
                case Cancel(back) if self.requests:
                    self._cancel(self.requests[-1 - back % len(self.requests)])
                case Finish() if loop.waiting:
                    loop.step()
                case Turn(times):
                    for _ in range(times):
                        await asyncio.sleep(0)
            assert 0 <= self.batcher.queued_rows <= self.max_queue
        await self._settle()
        while loop.waiting:
            loop.step()
            await self._settle()

    @property
    def handed_over(self) -> int:
        return len(self.batches) + len(self.loop.waiting)

    def _submit(self, step: Submit) -> None:
        ids = list(range(len(self.owners), len(self.owners) + step.rows))
        request = Request(step.kind, ids, step.broken, self.handed_over)
        self.owners += [request] * step.rows
        self.requests.append(request)
        request.task = asyncio.create_task(self._send(request))

    async def _send(self, request: Request) -> None:
        request.queued_before = self.batcher.queued_rows
        request.submitted = self.handed_over
        try:
            request.outcome = await self.batcher.submit(
                self.runs[request.kind], np.array(request.ids)
            )
        except (QueueFullError, BrokenRowError) as error:
            request.outcome = error

    def _cancel(self, request: Request) -> None:
        assert request.task is not None
        request.cancelled |= request.task.cancel()
        if request.over is None:
            request.over = self.handed_over

    async def _settle(self) -> None:
        for _ in range(TURNS_TO_SETTLE):
            await asyncio.sleep(0)

    def _network(self, kind: int) -> Callable[[Sequence[Ids]], Squares]:
        def run(parts: Sequence[Ids]) -> Squares:
            ids = np.concatenate(parts)
            self.batches.append((kind, ids.tolist()))
            owners = [self.owners[i] for i in ids]
            if any(owner.broken for owner in owners):
                if all(owner is owners[0] for owner in owners) and owners[0].over is None:
                    owners[0].over = len(self.batches)  # alone, so it is the one to blame
                raise BrokenRowError(kind)
            return Squares(ids, ids**2 + kind)

        return run


def submissions(*, broken: bool = False, max_rows: int = 20) -> st.SearchStrategy[Submit]:
    return st.builds(
        Submit,
        kind=st.integers(0, 2),
        rows=st.integers(1, max_rows),
        broken=st.booleans() if broken else st.just(value=False),
    )


FINISH = st.builds(Finish)
TURN = st.builds(Turn, st.integers(1, 3))
CANCEL = st.builds(Cancel, st.integers(0, 4))
ANYTHING = st.lists(st.one_of(submissions(broken=True), CANCEL, FINISH, TURN), max_size=40)
SIZES = st.integers(1, 8)


@given(ANYTHING, SIZES, st.integers(1, 60))
@settings(max_examples=400, deadline=None)
def test_each_request_gets_its_own_rows_or_its_own_end(
    steps: list[Step], max_batch: int, max_queue: int
) -> None:
    world = World(max_batch, max_queue)
    world.play(steps)

    for request in world.requests:
        assert request.task is not None
        assert request.task.done(), "a request that nobody answers"
        outcome = request.outcome
        if request.task.cancelled():
            assert request.cancelled
        elif isinstance(outcome, QueueFullError):
            assert request.queued_before + len(request.ids) > max_queue
            assert not any(set(request.ids) & set(ids) for _, ids in world.batches)
            assert 1 <= outcome.retry_after_s <= 60
        elif isinstance(outcome, BrokenRowError):
            assert request.broken
        else:
            assert isinstance(outcome, Batched)
            assert not request.broken
            assert outcome.result.ids.tolist() == request.ids
            assert outcome.result.squares.tolist() == [i**2 + request.kind for i in request.ids]
            assert min(outcome.queue_s, outcome.infer_s) >= 0
            assert request.queued_before + len(request.ids) <= max_queue
        event(type(outcome).__name__ if outcome else "cancelled")
    assert world.batcher.queued_rows == 0
    for task in world.loop.all_tasks:
        assert task.done()
        assert task.cancelled() or task.exception() is None, "resolved twice, or not at all"


@given(ANYTHING, SIZES, st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_batches_are_of_one_kind_and_size_and_each_row_is_in_one(
    steps: list[Step], max_batch: int, max_queue: int
) -> None:
    world = World(max_batch, max_queue)
    world.play(steps)

    worked: list[int] = []
    for kind, ids in world.batches:
        assert 1 <= len(ids) <= max_batch
        assert {world.owners[i].kind for i in ids} == {kind}
        if not any(world.owners[i].broken for i in ids):
            worked += ids
            event("worked")
    assert len(worked) == len(set(worked)), "a row was computed twice"
    assert sum(world.measured) == len(worked), "on_batch counts what worked"


@given(st.lists(st.one_of(submissions(), CANCEL, FINISH, TURN), max_size=40), SIZES)
@settings(max_examples=400, deadline=None)
def test_nothing_is_begun_for_a_request_that_was_cancelled(
    steps: list[Step], max_batch: int
) -> None:
    check_nothing_is_begun_in_vain(steps, max_batch)


@given(st.lists(st.one_of(submissions(broken=True), FINISH, TURN), max_size=40), SIZES)
@settings(max_examples=400, deadline=None)
def test_nothing_is_begun_for_a_request_that_has_failed(steps: list[Step], max_batch: int) -> None:
    check_nothing_is_begun_in_vain(steps, max_batch)


def check_nothing_is_begun_in_vain(steps: list[Step], max_batch: int) -> None:
    world = World(max_batch, max_queue=1000)
    world.play(steps)

    begun: set[int] = set()
    for number, (_, ids) in enumerate(world.batches):
        for i in set(ids) - begun:
            over = world.owners[i].over
            assert over is None or number < over, f"row {i} was begun after its request was over"
        begun |= set(ids)


@given(st.lists(st.one_of(submissions(max_rows=30), FINISH, TURN), max_size=40), SIZES)
@settings(max_examples=300, deadline=None)
def test_no_request_waits_for_more_batches_than_there_are_others(
    steps: list[Step], max_batch: int
) -> None:
    world = World(max_batch, max_queue=10_000)
    world.play(steps)

    for request in world.requests:
        first = next(n for n, (_, ids) in enumerate(world.batches) if request.ids[0] in ids)
        before = world.batches[request.submitted : first]
        own_kind = [ids for kind, ids in before if kind == request.kind]
        others = {id(world.owners[i]) for ids in own_kind for i in ids}
        assert len(own_kind) <= len(others), "a batch for each other request, at most"
        own_turns = 1 + sum(kind == request.kind for kind, _ in before)
        for kind in range(world.kinds):
            turns = sum(found == kind for found, _ in before)
            assert kind == request.kind or turns <= own_turns, "kinds take turns"
