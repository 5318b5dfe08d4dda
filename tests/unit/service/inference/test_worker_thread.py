"""The inference thread: order, errors, its end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from service.inference.worker_thread import WorkerThread
from tests.unit.service.inference.batches import HANG_S, run


async def result_of(thread: WorkerThread, work: Callable[..., Any], *arguments: Any) -> Any:
    future = asyncio.get_running_loop().create_future()

    def done(result: Any, error: Exception | None) -> None:
        assert threading.current_thread() is threading.main_thread()
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    thread.run(work, *arguments, done=done)
    return await future


def test_work_is_done_in_order_and_errors_are_its_own() -> None:
    thread = WorkerThread("inference")
    seen: list[object] = []

    def work(number: int) -> str:
        seen.append(number)
        if number == 3:
            raise ValueError("three")
        return threading.current_thread().name

    async def main() -> None:
        results = [asyncio.ensure_future(result_of(thread, work, number)) for number in range(6)]
        done = await asyncio.gather(*results, return_exceptions=True)
        assert seen == list(range(6))
        assert [str(result) for result in done] == ["inference"] * 3 + ["three"] + ["inference"] * 2

    run(main())
    assert thread.close(HANG_S)


def test_nothing_is_kept_while_it_waits() -> None:
    class Large:
        pass

    thread = WorkerThread("inference")

    async def main() -> None:
        kept = []

        def work(argument: Large) -> Large:
            result = Large()
            kept.extend([weakref.ref(argument), weakref.ref(result)])
            return result

        await result_of(thread, work, Large())
        await result_of(thread, threading.get_ident)
        gc.collect()
        assert [reference() for reference in kept] == [None, None]

    run(main())
    assert thread.close(HANG_S)


def test_it_ends_after_its_current_work() -> None:
    thread = WorkerThread("inference")
    gate = threading.Event()
    begun = threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(HANG_S)

    async def main() -> None:
        for _ in range(2):
            thread.run(work, done=lambda *_: None)
        assert await asyncio.to_thread(begun.wait, HANG_S)
        begun.clear()
        assert not thread.close(0.01)
        gate.set()
        assert thread.close(HANG_S)
        assert not begun.is_set(), "what had not begun does not begin"
        with pytest.raises(RuntimeError, match="inference thread has ended"):
            thread.run(work, done=lambda *_: None)

    run(main())


def test_it_ends_with_its_event_loop() -> None:
    thread = WorkerThread("inference")
    gate = threading.Event()

    async def main() -> None:
        thread.run(gate.wait, HANG_S, done=lambda *_: None)

    run(main())
    gate.set()
    assert thread.close(HANG_S)


def test_one_that_never_began_has_ended() -> None:
    assert WorkerThread("inference").close(0)
