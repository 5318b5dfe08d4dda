"""Receivers: each gets its own rows, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.inference.batching import MicroBatcher
from service.limits.byte_budget import ByteBudget
from service.limits.deadlines import Deadlines
from tests.unit.service.inference.batches import HANG_S, Doubled, Network, results, rows, run


class Receiver:
    """Keeps what it is told, then raises if it is to."""

    left = False

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.told = asyncio.Event()
        self.rows: list[int] | None = None
        self.error: Exception | None = None

    def on_result(self, result: Any, start: int, stop: int, queue_s: float, infer_s: float) -> None:
        self.rows = result.rows[start:stop].tolist()
        self._tell()

    def on_error(self, error: Exception) -> None:
        self.error = error
        self._tell()

    def _tell(self) -> None:
        self.told.set()
        if self.broken:
            raise ZeroDivisionError


@pytest.mark.parametrize("inline_rows", [0, 8])
def test_one_that_raises_harms_no_other(
    make_batcher: Callable[..., MicroBatcher], inline_rows: int
) -> None:
    batcher = make_batcher(max_batch_rows=8, max_queue_rows=100)

    async def main() -> None:
        receivers = [Receiver(broken=i == 1) for i in range(4)]
        for number, receiver in enumerate(receivers):
            batcher.enqueue(Network(), rows(number), receiver, inline_rows=inline_rows)
        network = Network()
        same = [Receiver(broken=i == 1) for i in range(4)]
        for number, receiver in enumerate(same):
            batcher.enqueue(network, rows(number), receiver, inline_rows=inline_rows)
        for receiver in (*receivers, *same):
            await receiver.told.wait()
        assert [receiver.rows for receiver in same] == [[0], [2], [4], [6]]
        assert [type(receiver.error) for receiver in same] == [
            *(type(None), ZeroDivisionError),
            *(type(None), type(None)),
        ]
        assert await results(asyncio.ensure_future(batcher.submit(network, rows(9)))) == [[18]]

    run(main())


def test_one_that_raises_at_its_deadline_does_not_stop_the_queue(
    make_batcher: Callable[..., MicroBatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("service.inference.batching.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Deadlines, "add", lambda *_: None)  # its timer is late
    batcher = make_batcher(max_batch_rows=8, max_queue_rows=100)
    network = Network()

    async def main() -> None:
        late, other = Receiver(broken=True), Receiver()
        batcher.enqueue(network, rows(0), late, deadline=1.0)
        batcher.enqueue(network, rows(1), other)
        clock[0] = 2.0
        await other.told.wait()
        assert isinstance(late.error, TimeoutError)
        assert other.rows == [2]
        assert (batcher.queued_rows, batcher.running_since) == (0, None)

    run(main())


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 70)), min_size=1, max_size=8),
    max_batch=st.sampled_from([4, 8, 32]),
    inline_rows=st.integers(0, 8),
)
def test_rows_keep_their_order(
    sizes: list[tuple[int, int]], max_batch: int, inline_rows: int
) -> None:
    """In batches large and small, in the thread and on the event loop, of two kinds."""
    batcher = MicroBatcher(
        max_batch_rows=max_batch, max_queue_rows=10_000, budget=ByteBudget(1 << 20)
    )

    def kind(_: int) -> Callable[[Sequence[NDArray[np.int64]]], Doubled]:
        return lambda parts: Doubled(2 * np.concatenate(parts))

    kinds = [kind(0), kind(1)]

    async def main() -> None:
        tasks = [
            batcher.submit(kinds[number], rows(100 * i, n), inline_rows=inline_rows)
            for i, (number, n) in enumerate(sizes)
        ]
        async with asyncio.timeout(HANG_S):
            done = await asyncio.gather(*tasks)
        for i, (_, n) in enumerate(sizes):
            assert done[i].result.rows.tolist() == (2 * rows(100 * i, n)).tolist()

    run(main())
    assert batcher.close(HANG_S)
