"""What waits in a MicroBatcher: limits, cancellation, deadlines, Retry-After."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import QueueFullError
from service.inference.batching import MAX_RETRY_AFTER_S, MicroBatcher
from service.limits.byte_budget import ByteBudget
from tests.unit.service.inference.batches import (
    HANG_S,
    Doubled,
    Network,
    hold_a_batch,
    results,
    rows,
    run,
    values,
    wait_in_queue,
)


@pytest.mark.parametrize("expires", [False, True])
def test_rows_of_abandoned_requests_are_freed(
    expires: bool, make_batcher: Callable[..., MicroBatcher]
) -> None:
    """Though their place in the queue is passed over only when its turn comes."""
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        (first,) = await hold_a_batch(batcher, network, rows(0))
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
        network.release()
        await first

    run(main())


def test_an_always_admitted_request_fits_and_goes_first(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    budget = ByteBudget(4 * rows(0).nbytes)
    batcher = make_batcher(max_batch_rows=1, max_queue_rows=3, budget=budget)

    async def main() -> None:
        done: list[int] = []
        work = await hold_a_batch(batcher, network, rows(0))
        work += await wait_in_queue(batcher, network, *map(rows, (1, 2, 3)))
        assert (batcher.queued_rows, budget.reserved) == (3, budget.max_bytes)
        with pytest.raises(QueueFullError):
            await batcher.submit(network, rows(4))
        work += await wait_in_queue(batcher, network, rows(5), always=True)
        (left,) = await wait_in_queue(batcher, network, rows(6), always=True)
        for task in work:
            task.add_done_callback(lambda task: done.extend(values(task.result())))
        left.cancel()
        await asyncio.sleep(0)
        assert (batcher.queued_rows, budget.reserved) == (3, budget.max_bytes), (
            "it takes from nobody"
        )
        network.release()
        await asyncio.gather(*work)
        assert done == [0, 10, 2, 4, 6]
        assert (batcher.queued_rows, budget.reserved) == (0, 0)

    run(main())


def test_a_full_queue_refuses_at_once_and_the_whole_request(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_queue_rows=4)

    async def main() -> None:
        running = await hold_a_batch(batcher, network, rows(0))
        waiting = await wait_in_queue(batcher, network, rows(1, 3))
        with pytest.raises(QueueFullError, match=r"2 .*3 .*4") as refusal:
            batcher.submit(network, rows(9, 2)).send(None)  # no turn of the loop needed
        assert 1 <= refusal.value.retry_after_s <= MAX_RETRY_AFTER_S
        assert batcher.queued_rows == 3
        fits = await wait_in_queue(batcher, network, rows(4))
        network.release()
        assert await results(*running, *waiting, *fits) == [[0], [2, 4, 6], [8]]

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


def test_a_cancelled_request_is_dropped_from_the_queue(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=2)

    async def main() -> None:
        running = await hold_a_batch(batcher, network, rows(0))
        dropped, kept = await wait_in_queue(batcher, network, rows(10, 50), rows(1))
        dropped.cancel()
        await asyncio.wait([dropped])
        assert batcher.queued_rows == 1
        network.release()
        assert await results(*running, kept) == [[0], [2]]

    run(main())
    assert network.batches == [1, 1]


def test_a_request_cancelled_while_it_runs_leaves_the_rest_unharmed(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=2)

    async def main() -> None:
        (leaving,) = await hold_a_batch(batcher, network, rows(0, 7))
        (staying,) = await wait_in_queue(batcher, network, rows(20))
        leaving.cancel()
        await asyncio.wait([leaving])
        network.release()
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
        leaving, staying = await hold_a_batch(batcher, network, rows(0, 2), rows(10, 2))
        leaving.cancel()
        network.release()
        assert values(await staying) == [20, 22]
        assert leaving.cancelled()
        assert values(await batcher.submit(network, rows(7))) == [14]

    run(main())
    assert network.batches == [4, 1]


def test_retry_after_is_what_the_queue_needs_at_the_measured_rate(
    make_batcher: Callable[..., MicroBatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))  # each look at it is 1 s after the last: a batch takes three
    monkeypatch.setattr("service.inference.batching.perf_counter", lambda: float(next(clock)))
    network = Network()
    batcher = make_batcher(max_batch_rows=1, max_queue_rows=1_000)

    def asked_to_wait() -> int:
        with pytest.raises(QueueFullError) as refusal:
            batcher.submit(network, rows(0, 2_000)).send(None)
        return refusal.value.retry_after_s

    async def main() -> None:
        assert asked_to_wait() == 1, "nothing was measured yet"
        await batcher.submit(network, rows(0))  # one row took 3 s
        assert asked_to_wait() == 1, "nothing waits"
        tasks = await hold_a_batch(batcher, network, *map(rows, range(4)))
        assert asked_to_wait() == 9, "three rows wait"
        tasks += await wait_in_queue(batcher, network, rows(0, 500))
        assert asked_to_wait() == MAX_RETRY_AFTER_S
        for task in tasks:
            task.cancel()
        network.release()
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


def test_a_deadline_drops_what_waits(make_batcher: Callable[..., MicroBatcher]) -> None:
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        first = await hold_a_batch(batcher, network, rows(0))
        with pytest.raises(TimeoutError):
            await batcher.submit(network, rows(1, 3), perf_counter() + 0.01)
        with pytest.raises(TimeoutError):
            await batcher.submit(network, rows(1, 3), perf_counter())
        assert batcher.queued_rows == 0
        network.release()
        assert await results(*first) == [[0]]

    run(main())
    assert network.batches == [1]


def test_queued_bytes_are_limited_too(make_batcher: Callable[..., MicroBatcher]) -> None:
    batcher = make_batcher(budget=ByteBudget(5 * rows(0).nbytes))
    network = Network()

    async def main() -> None:
        first = await hold_a_batch(batcher, network, rows(0, 3))
        with pytest.raises(QueueFullError, match="24 bytes do not fit: requests hold 24 already"):
            await batcher.submit(network, rows(3, 3))
        network.release()
        assert await results(*first) == [[0, 2, 4]]
        assert values(await batcher.submit(network, rows(3, 3))) == [6, 8, 10], "all is given back"

    run(main())
