"""A network that waits for the test, and requests that share its batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.inference.batching import MicroBatcher
from service.inference.jobs import Batched

HANG_S = 10


class Doubled(NamedTuple):
    rows: NDArray[np.int64]


class Network:
    """Doubles rows. Waits for `gate` before each batch, and fails on `bad_row`."""

    def __init__(self, bad_row: int | None = None) -> None:
        self.batches: list[int] = []
        self.first_batch_of: dict[int, int] = {}
        """The number of the first batch that had a row."""
        self.threads: set[str] = set()
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._bad_row = bad_row

    def __call__(self, parts: Sequence[NDArray[np.int64]]) -> Doubled:
        rows = np.concatenate(parts)
        for row in rows.tolist():
            self.first_batch_of.setdefault(row, len(self.batches))
        self.batches.append(len(rows))
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.gate.wait(HANG_S)
        if self._bad_row is not None and self._bad_row in rows:
            raise ValueError(f"row {self._bad_row} is bad")
        return Doubled(2 * rows)

    def release(self) -> None:
        """Let all batches run."""
        self.gate.set()


def rows(first: int, n: int = 1) -> NDArray[np.int64]:
    return np.arange(first, first + n)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, HANG_S))


def values(done: Batched[Doubled]) -> list[int]:
    result: list[int] = done.result.rows.tolist()
    return result


Tasks = list[asyncio.Task[Batched[Doubled]]]


async def wait_in_queue(
    batcher: MicroBatcher, network: Network, *requests: NDArray[np.int64], **options: Any
) -> Tasks:
    """Their tasks, begun."""
    tasks = [asyncio.create_task(batcher.submit(network, one, **options)) for one in requests]
    await asyncio.sleep(0)
    return tasks


async def hold_a_batch(
    batcher: MicroBatcher, network: Network, *requests: NDArray[np.int64]
) -> Tasks:
    """Tasks of requests whose batch has begun, and runs until `network.release()`."""
    network.gate.clear()
    network.begun.clear()
    tasks = await wait_in_queue(batcher, network, *requests)
    assert await asyncio.to_thread(network.begun.wait, HANG_S)
    return tasks


async def results(*tasks: asyncio.Task[Batched[Doubled]]) -> list[list[int]]:
    """The rows that each was given."""
    return [values(done) for done in await asyncio.gather(*tasks)]
