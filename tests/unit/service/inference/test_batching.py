"""MicroBatcher by example, with its real thread. `tests/property` has any schedule."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import QueueFullError
from service.inference.batching import MAX_RETRY_AFTER_S, Batched, MicroBatcher
from service.limits.byte_budget import ByteBudget

HANG_S = 10


class Doubled(NamedTuple):
    rows: NDArray[np.int64]


class Network:
    """Doubles rows. Waits for `gate` before each batch, and fails on `bad_row`."""

    def __init__(self, bad_row: int | None = None) -> None:
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._bad_row = bad_row

    def __call__(self, parts: Sequence[NDArray[np.int64]]) -> Doubled:
        rows = np.concatenate(parts)
        self.batches.append(len(rows))
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.gate.wait(HANG_S)
        if self._bad_row is not None and self._bad_row in rows:
            raise ValueError(f"row {self._bad_row} is bad")
        return Doubled(2 * rows)

    async def running(self) -> None:
        """Return when a batch has begun."""
        assert await asyncio.to_thread(self.begun.wait, HANG_S)


@pytest.fixture
def make_batcher() -> Iterator[Callable[..., MicroBatcher]]:
    made: list[MicroBatcher] = []

    def make(max_batch_rows: int = 4, max_queue_rows: int = 100, **options: Any) -> MicroBatcher:
        made.append(
            MicroBatcher(
                max_batch_rows=max_batch_rows,
                max_queue_rows=max_queue_rows,
                **({"budget": ByteBudget(1 << 20)} | options),
            )
        )
        return made[-1]

    yield make
    for batcher in made:
        assert batcher.close(HANG_S)


def rows(first: int, n: int = 1) -> NDArray[np.int64]:
    return np.arange(first, first + n)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, HANG_S))


def values(done: Batched[Doubled]) -> list[int]:
    result: list[int] = done.result.rows.tolist()
    return result


def test_a_lone_request_goes_at_once_and_off_the_event_loop(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    counted: list[tuple[int, float]] = []
    batcher = make_batcher(on_batch=lambda n, seconds: counted.append((n, seconds)))

    async def main() -> None:
        done = await batcher.submit(network, rows(5, 2))
        assert values(done) == [10, 12]
        assert isinstance(done.result, Doubled)
        assert done.queue_s >= 0
        assert done.infer_s > 0

    run(main())
    assert network.batches == [2]
    assert threading.current_thread().name not in network.threads
    assert [n for n, _ in counted] == [2]


@pytest.mark.parametrize("expires", [False, True])
def test_rows_of_who_waits_no_longer_are_gone(
    expires: bool, make_batcher: Callable[..., MicroBatcher]
) -> None:
    """Though their place in the queue is passed over only when its turn comes."""
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        network.gate.clear()
        first = asyncio.create_task(batcher.submit(network, rows(0)))
        await network.running()
        waiting = rows(1, 20)
        seen = weakref.ref(waiting)
        deadline = perf_counter() + (0.05 if expires else HANG_S)
        job = asyncio.create_task(batcher.submit(network, waiting, deadline))
        del waiting
        await asyncio.sleep(0)
        assert seen() is not None
        if not expires:
            job.cancel()
        with pytest.raises(TimeoutError if expires else asyncio.CancelledError):
            await job
        del job
        await asyncio.sleep(0.01)
        gc.collect()
        assert seen() is None
        network.gate.set()
        await first

    run(main())


def test_what_always_fits_does_and_is_first_of_its_kind(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    budget = ByteBudget(4 * rows(0).nbytes)
    batcher = make_batcher(max_batch_rows=1, max_queue_rows=3, budget=budget)

    async def main() -> None:
        network.gate.clear()
        done: list[int] = []

        async def ask(i: int, *, always: bool = False) -> None:
            done.extend(values(await batcher.submit(network, rows(i), always=always)))

        work = [asyncio.create_task(ask(0))]
        await network.running()
        work += [asyncio.create_task(ask(i)) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        assert (batcher.queued_rows, budget.reserved) == (3, budget.max_bytes)
        with pytest.raises(QueueFullError):
            await ask(4)
        work.append(asyncio.create_task(ask(5, always=True)))
        left = asyncio.create_task(ask(6, always=True))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        assert (batcher.queued_rows, budget.reserved) == (3, budget.max_bytes), (
            "it takes from nobody"
        )
        network.gate.set()
        await asyncio.gather(*work)
        assert done == [0, 10, 2, 4, 6]
        assert (batcher.queued_rows, budget.reserved) == (0, 0)

    run(main())


def test_what_arrives_together_or_while_a_batch_runs_shares_the_next(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        network.gate.clear()
        first = [asyncio.create_task(batcher.submit(network, rows(i))) for i in range(2)]
        await network.running()
        assert batcher.queued_rows == 0, "what runs does not wait"
        later = [asyncio.create_task(batcher.submit(network, rows(i))) for i in range(2, 5)]
        await asyncio.sleep(0)
        assert batcher.queued_rows == 3
        network.gate.set()
        results = await asyncio.gather(*first, *later)
        assert [values(done) for done in results] == [[0], [2], [4], [6], [8]]

    run(main())
    assert network.batches == [2, 3]


def test_a_large_request_is_split_and_put_together_again(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=4)

    async def main() -> None:
        done = await batcher.submit(network, rows(0, 10))
        assert values(done) == list(range(0, 20, 2))

    run(main())
    assert network.batches == [4, 4, 2]


def test_a_full_queue_refuses_at_once_and_the_whole_request(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_queue_rows=4)

    async def main() -> None:
        network.gate.clear()
        running = asyncio.create_task(batcher.submit(network, rows(0)))
        await network.running()
        waiting = asyncio.create_task(batcher.submit(network, rows(1, 3)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match=r"2 .*3 .*4") as refusal:
            batcher.submit(network, rows(9, 2)).send(None)  # no turn of the loop needed
        assert 1 <= refusal.value.retry_after_s <= MAX_RETRY_AFTER_S
        assert batcher.queued_rows == 3
        fits = asyncio.create_task(batcher.submit(network, rows(4)))
        network.gate.set()
        results = await asyncio.gather(running, waiting, fits)
        assert [values(done) for done in results] == [[0], [2, 4, 6], [8]]

    run(main())
    assert sum(network.batches) == 5


def test_a_request_larger_than_the_queue_is_refused_even_when_idle(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    batcher = make_batcher(max_queue_rows=4)

    async def main() -> None:
        with pytest.raises(QueueFullError):
            await batcher.submit(Network(), rows(0, 5))
        assert batcher.queued_rows == 0

    run(main())


def test_no_rows_are_a_mistake_of_the_caller(make_batcher: Callable[..., MicroBatcher]) -> None:
    batcher = make_batcher()

    async def main() -> None:
        with pytest.raises(ValueError, match="without rows"):
            await batcher.submit(Network(), rows(0, 0))

    run(main())


def test_a_failure_is_its_own_request_s_only(make_batcher: Callable[..., MicroBatcher]) -> None:
    network = Network(bad_row=1)
    batcher = make_batcher(max_batch_rows=8)

    async def main() -> None:
        requests = [batcher.submit(network, rows(i)) for i in range(3)]
        good, bad, also_good = await asyncio.gather(*requests, return_exceptions=True)
        assert isinstance(bad, ValueError)
        assert isinstance(good, Batched)
        assert isinstance(also_good, Batched)
        assert [values(good), values(also_good)] == [[0], [4]]
        assert values(await batcher.submit(network, rows(7))) == [14], "and it goes on"

    run(main())


def test_a_cancelled_request_is_dropped_from_the_queue(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=2)

    async def main() -> None:
        network.gate.clear()
        running = asyncio.create_task(batcher.submit(network, rows(0)))
        await network.running()
        dropped = asyncio.create_task(batcher.submit(network, rows(10, 50)))
        kept = asyncio.create_task(batcher.submit(network, rows(1)))
        await asyncio.sleep(0)
        dropped.cancel()
        await asyncio.wait([dropped])
        assert batcher.queued_rows == 1
        network.gate.set()
        assert [values(done) for done in await asyncio.gather(running, kept)] == [[0], [2]]

    run(main())
    assert network.batches == [1, 1]


def test_a_request_cancelled_while_it_runs_leaves_the_rest_unharmed(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=2)

    async def main() -> None:
        network.gate.clear()
        leaving = asyncio.create_task(batcher.submit(network, rows(0, 7)))
        await network.running()
        staying = asyncio.create_task(batcher.submit(network, rows(20)))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        network.gate.set()
        assert values(await staying) == [40]
        assert batcher.queued_rows == 0

    run(main())
    assert network.batches == [2, 1]


def test_a_request_cancelled_in_its_last_batch_does_not_take_its_mates_along(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        network.gate.clear()
        leaving, staying = [
            asyncio.create_task(batcher.submit(network, rows(10 * i, 2))) for i in range(2)
        ]
        await network.running()
        leaving.cancel()
        network.gate.set()
        assert values(await staying) == [20, 22]
        assert leaving.cancelled()
        assert values(await batcher.submit(network, rows(7))) == [14]

    run(main())
    assert network.batches == [4, 1]


def test_retry_after_is_what_the_queue_needs_at_the_measured_rate(
    make_batcher: Callable[..., MicroBatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))  # each look at it is 1 s after the last: a batch takes six
    monkeypatch.setattr("service.inference.batching.perf_counter", lambda: float(next(clock)))
    network = Network()
    batcher = make_batcher(max_batch_rows=1, max_queue_rows=1_000)

    def asked_to_wait() -> int:
        with pytest.raises(QueueFullError) as refusal:
            batcher.submit(network, rows(0, 2_000)).send(None)
        return refusal.value.retry_after_s

    async def main() -> None:
        assert asked_to_wait() == 1, "nothing was measured yet"
        await batcher.submit(network, rows(0))  # one row took 6 s
        assert asked_to_wait() == 1, "nothing waits"
        network.gate.clear()
        tasks = [asyncio.create_task(batcher.submit(network, rows(i))) for i in range(4)]
        await network.running()
        await asyncio.sleep(0)
        assert asked_to_wait() == 18, "three rows wait"
        tasks.append(asyncio.create_task(batcher.submit(network, rows(0, 500))))
        await asyncio.sleep(0)
        assert asked_to_wait() == MAX_RETRY_AFTER_S
        for task in tasks:
            task.cancel()
        network.gate.set()
        await asyncio.wait(tasks)

    run(main())


@pytest.mark.parametrize("small_ones", [0, 5, 20])
def test_the_rate_is_that_of_large_and_small_batches(
    small_ones: int, make_batcher: Callable[..., MicroBatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred rows take a second, and one alone twice its share."""
    clock = [0.0]
    monkeypatch.setattr("service.inference.batching.perf_counter", lambda: clock[0])
    batcher = make_batcher(max_batch_rows=100, max_queue_rows=2_000)

    def work(parts: Sequence[NDArray[np.int64]]) -> Doubled:
        joined = np.concatenate(parts)
        clock[0] += 1.0 if len(joined) == 100 else 0.02
        return Doubled(2 * joined)

    async def main() -> None:
        for i in range(5):
            await batcher.submit(work, rows(0, 100))
            for _ in range(small_ones if i == 4 else 0):
                await batcher.submit(work, rows(0))
        batcher._queued_rows = 1_000
        assert 10 <= batcher.retry_after_s <= 12
        batcher._queued_rows = 0

    run(main())


def test_kinds_are_not_mixed_and_take_turns(make_batcher: Callable[..., MicroBatcher]) -> None:
    order: list[str] = []
    gate = threading.Event()

    def kind(name: str) -> Callable[[Sequence[NDArray[np.int64]]], Doubled]:
        def work(parts: Sequence[NDArray[np.int64]]) -> Doubled:
            assert gate.wait(HANG_S)
            order.append(name)
            return Doubled(2 * np.concatenate(parts))

        return work

    batcher = make_batcher(max_batch_rows=2)

    async def main() -> None:
        large = asyncio.create_task(batcher.submit(kind("large"), rows(0, 8)))
        small = asyncio.create_task(batcher.submit(kind("small"), rows(100)))
        await asyncio.sleep(0)
        gate.set()
        assert values(await small) == [200]
        assert values(await large) == list(range(0, 16, 2))

    run(main())
    assert order == ["large", "small", "large", "large", "large"]


@pytest.mark.parametrize("max_batch_rows", [1, 3, 64])
def test_many_requests_through_a_real_thread(
    make_batcher: Callable[..., MicroBatcher], max_batch_rows: int
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows, max_queue_rows=10_000)

    async def main() -> None:
        requests = [batcher.submit(network, rows(100 * i, 1 + i % 7)) for i in range(100)]
        for i, done in enumerate(await asyncio.gather(*requests)):
            assert values(done) == [2 * (100 * i + k) for k in range(1 + i % 7)]

    run(main())
    assert max(network.batches) <= max_batch_rows
    assert len(network.threads) == 1


def test_one_batcher_serves_one_loop_after_another(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        assert values(await batcher.submit(network, rows(3))) == [6]

    run(main())
    run(main())


def test_after_close_a_request_fails_instead_of_hanging(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    batcher = make_batcher()
    batcher.close(HANG_S)

    async def main() -> None:
        with pytest.raises(RuntimeError):
            await batcher.submit(Network(), rows(0))

    run(main())


def test_short_passes_run_on_the_event_loop_and_only_they(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    batcher = make_batcher()
    here = threading.current_thread().name

    async def main() -> None:
        for n, inline_rows, on_loop in ((2, 2, True), (3, 2, False), (2, 0, False)):
            network = Network()
            done = await batcher.submit(network, rows(0, n), inline_rows=inline_rows)
            assert values(done) == [2 * i for i in range(n)]
            assert (here in network.threads) == on_loop

    run(main())


def test_on_the_event_loop_too_a_failure_is_its_own_request_s_only(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network(bad_row=1)
    batcher = make_batcher()

    async def main() -> None:
        found = await asyncio.gather(
            *(batcher.submit(network, rows(i), inline_rows=4) for i in range(3)),
            return_exceptions=True,
        )
        assert [isinstance(one, ValueError) for one in found] == [False, True, False]
        assert network.batches == [3, 1, 2, 1, 1]

    run(main())


def test_between_batches_on_the_event_loop_others_get_their_turn(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=2)
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(len(network.batches))
            await asyncio.sleep(0)

    async def main() -> None:
        beside = asyncio.create_task(other())
        await batcher.submit(network, rows(0, 10), inline_rows=2)
        beside.cancel()

    run(main())
    assert {1, 2, 3, 4} <= set(turns)


def test_a_deadline_drops_what_waits(make_batcher: Callable[..., MicroBatcher]) -> None:
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        network.gate.clear()
        first = asyncio.create_task(batcher.submit(network, rows(0)))
        await network.running()
        with pytest.raises(TimeoutError):
            await batcher.submit(network, rows(1, 3), perf_counter() + 0.01)
        with pytest.raises(TimeoutError):
            await batcher.submit(network, rows(1, 3), perf_counter())
        assert batcher.queued_rows == 0
        network.gate.set()
        assert values(await first) == [0]

    run(main())
    assert network.batches == [1]


def test_bytes_have_their_limit_too(make_batcher: Callable[..., MicroBatcher]) -> None:
    batcher = make_batcher(budget=ByteBudget(5 * rows(0).nbytes))
    network = Network()

    async def main() -> None:
        network.gate.clear()
        first = asyncio.create_task(batcher.submit(network, rows(0, 3)))
        await network.running()
        with pytest.raises(QueueFullError, match="24 bytes do not fit: requests hold 24 already"):
            await batcher.submit(network, rows(3, 3))
        network.gate.set()
        assert values(await first) == [0, 2, 4]
        assert values(await batcher.submit(network, rows(3, 3))) == [6, 8, 10], "all is given back"

    run(main())


def test_one_row_does_not_wait_for_thousands(make_batcher: Callable[..., MicroBatcher]) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=4, max_queue_rows=10_000)

    async def main() -> None:
        network.gate.clear()
        large = [asyncio.create_task(batcher.submit(network, rows(0, 400))) for _ in range(3)]
        await network.running()
        small = asyncio.create_task(batcher.submit(network, rows(7)))
        await asyncio.sleep(0)
        network.gate.set()
        assert values(await small) == [14]
        assert len(network.batches) <= 3, "the one that ran, and its own"
        for task in large:
            assert len(values(await task)) == 400

    run(main())


def test_many_small_requests_do_not_keep_a_large_one_waiting(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=4, max_queue_rows=10_000)

    async def main() -> None:
        stop = False

        async def small() -> None:
            while not stop:
                await batcher.submit(network, rows(0))

        many = [asyncio.create_task(small()) for _ in range(20)]
        assert len(values(await batcher.submit(network, rows(0, 40)))) == 40
        stop = True
        await asyncio.gather(*many)

    run(main())
