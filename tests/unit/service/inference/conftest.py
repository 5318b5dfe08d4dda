"""Batchers that are closed when their test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.inference.batching import MicroBatcher
from service.limits.byte_budget import ByteBudget
from tests.unit.service.inference.batches import HANG_S


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
