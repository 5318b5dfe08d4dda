"""Many deadlines on one timer."""

from __future__ import annotations

import asyncio
import math
from time import perf_counter

from hypothesis import given, settings
from hypothesis import strategies as st

from service.limits.deadlines import Deadlines

LATE_S = 0.5
"""How late a deadline may be noticed on a busy machine."""


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12))
def test_each_expires_once_in_time_unless_it_is_done(waits: list[tuple[int, bool]]) -> None:
    expired: dict[int, float] = {}

    def expire(key: int) -> None:
        assert key not in expired
        expired[key] = perf_counter()

    deadlines = Deadlines(expire)

    async def main() -> None:
        start = perf_counter()
        for key, (milliseconds, done) in enumerate(waits):
            deadlines.add(key, start + milliseconds / 1000)
            if done:
                deadlines.discard(key)
        await asyncio.sleep(0.06)
        for key, (milliseconds, done) in enumerate(waits):
            assert (key in expired) != done
            if not done:
                assert -0.002 < expired[key] - start - milliseconds / 1000 < LATE_S

    asyncio.run(main())


def test_one_timer_for_all() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = 0
        call_later = loop.call_later

        def counting(*args: object, **options: object) -> asyncio.TimerHandle:
            nonlocal made
            made += 1
            return call_later(*args, **options)  # type: ignore[arg-type]

        loop.call_later = counting  # type: ignore[method-assign]
        deadlines = Deadlines[object](lambda _: None)
        now = perf_counter()
        for key in range(100):
            deadlines.add(key, now + 60 + key)
            deadlines.discard(key)
        assert made == 1
        deadlines.add("sooner", now + 30)
        assert made == 2
        deadlines.add("never", math.inf)
        assert made == 2

    asyncio.run(main())


def test_one_loop_after_another() -> None:
    deadlines = Deadlines[asyncio.Event](asyncio.Event.set)

    async def wait(seconds: float) -> None:
        expired = asyncio.Event()
        deadlines.add(expired, perf_counter() + seconds)
        async with asyncio.timeout(LATE_S):
            await expired.wait()

    asyncio.run(wait(0.03))

    async def leave_one_waiting() -> None:
        deadlines.add(asyncio.Event(), perf_counter() + 60)

    asyncio.run(leave_one_waiting())
    asyncio.run(wait(0.06))  # later than the one before, whose loop is closed


def test_one_that_raises_does_not_keep_the_others_waiting() -> None:
    expired: list[int] = []

    def expire(key: int) -> None:
        expired.append(key)
        if key == 1:
            raise ZeroDivisionError

    async def main() -> None:
        deadlines = Deadlines(expire)
        for key in range(3):
            deadlines.add(key, perf_counter() + 0.01)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert expired == [0, 1, 2]
