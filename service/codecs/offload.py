"""Runs work that would block the event loop in threads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

T = TypeVar("T")

PAUSE_S: Final = 0.0002
"""How long a thread sleeps after each piece of long work. If it merely released the GIL, it would
take it back before other threads wake up."""


async def in_thread(
    threads: Executor | None,
    deadline: float,
    timeout_reason: str,
    work: Callable[..., T],
    *arguments: object,
) -> T:
    """Run `work(*arguments)` in `threads`, or in asyncio's default executor if that is None.

    Raises `TimeoutError(timeout_reason)` at `deadline`, which is on `time.perf_counter`'s clock.
    Work that has begun by then continues, and its result is dropped.
    """
    time_left_s = None if deadline == math.inf else deadline - perf_counter()
    job = [partial(work, *arguments)]
    del work, arguments
    limit = asyncio.timeout(time_left_s)
    try:
        async with limit:
            return await asyncio.get_running_loop().run_in_executor(threads, lambda: job.pop()())
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(timeout_reason) from error
        raise
    finally:
        job.clear()  # a cancelled job stays in the executor's queue: do not keep its body alive
