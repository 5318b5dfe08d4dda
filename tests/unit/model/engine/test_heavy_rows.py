"""Rows that take long come in smaller batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from model.scores.sampled import max_draw_rows
from service.app import create_app
from service.inference import admission as inference
from service.inference.batching import MicroBatcher
from service.limits.byte_budget import ByteBudget
from service.settings import Settings
from tests.api.helpers import client_of


class Same(NamedTuple):
    rows: NDArray[Any]


def test_a_kind_of_work_may_have_smaller_batches() -> None:
    batches: list[tuple[str, int]] = []

    def kind(name: str) -> Any:
        def run(parts: Sequence[NDArray[Any]]) -> Same:
            batches.append((name, sum(map(len, parts))))
            return Same(np.concatenate(parts))

        return run

    async def both() -> None:
        batcher = MicroBatcher(max_batch_rows=16, max_queue_rows=100, budget=ByteBudget(1 << 20))
        rows = np.arange(40)
        heavy, light = kind("heavy"), kind("light")
        done = await asyncio.gather(
            batcher.submit(heavy, rows[:20], max_rows=4),
            batcher.submit(heavy, rows[20:23], max_rows=4),
            batcher.submit(light, rows),
            batcher.submit(light, rows[:1], max_rows=100),
        )
        for found, expected in zip(done, (rows[:20], rows[20:23], rows, rows[:1]), strict=True):
            np.testing.assert_array_equal(found.result.rows, expected)
        batcher.close(1)

    asyncio.run(both())
    assert max(n for name, n in batches if name == "heavy") == 4
    assert max(n for name, n in batches if name == "light") == 16


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(784, 128), (3136, 128), (3 * 64 * 64, 32), (3 * 128 * 128, 8), (3 * 256 * 256, 8)],
)
def test_the_larger_the_images_the_fewer_drawn_rows(pixels: int, expected: int) -> None:
    assert max_draw_rows(128, pixels) == expected
    assert max_draw_rows(1, pixels) == 1


@pytest.mark.anyio
async def test_drawn_scores_ask_for_them(
    monkeypatch: pytest.MonkeyPatch, digits: NDArray[np.uint8]
) -> None:
    batches: list[int] = []
    monkeypatch.setattr(inference, "max_draw_rows", lambda *_: 3)
    app = create_app(Settings(threads=1))
    monkeypatch.setattr(
        app.state.service.inference._batcher, "_on_batch", lambda n, _: batches.append(n)
    )
    async with client_of(app) as client:
        body = {"images": digits[:7].tolist(), "dtype": "uint8"}
        for path in ("/anomaly-score?score=iwae", "/anomaly-score"):
            assert (await client.post(path, json=body)).is_success
    assert batches == [3, 3, 1, 7]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
