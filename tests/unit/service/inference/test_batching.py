"""MicroBatcher by example, with its real thread. `tests/property` has any schedule."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from service.inference.batching import MicroBatcher
from service.inference.jobs import Batched
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


def test_requests_that_arrive_together_share_a_batch(
    make_batcher: Callable[..., MicroBatcher],
) -> None:
    network = Network()
    batcher = make_batcher()

    async def main() -> None:
        first = await hold_a_batch(batcher, network, rows(0), rows(1))
        assert batcher.queued_rows == 0, "what runs does not wait"
        later = await wait_in_queue(batcher, network, *map(rows, range(2, 5)))
        assert batcher.queued_rows == 3
        network.release()
        assert await results(*first, *later) == [[0], [2], [4], [6], [8]]

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


def test_the_event_loop_runs_between_inline_batches(
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


def test_one_row_does_not_wait_for_thousands(make_batcher: Callable[..., MicroBatcher]) -> None:
    network = Network()
    batcher = make_batcher(max_batch_rows=4, max_queue_rows=10_000)

    async def main() -> None:
        large = await hold_a_batch(batcher, network, *[rows(0, 400)] * 3)
        small = await wait_in_queue(batcher, network, rows(777))
        network.release()
        assert await results(*small) == [[1554]]
        assert network.first_batch_of[777] == 1, "right after the one that ran"
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
