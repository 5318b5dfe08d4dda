"""Work that would hold up the event loop, in threads."""

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
"""How long a thread pauses after each piece of long work. Merely releasing the interpreter's lock
would take it back before other threads wake up."""


async def in_thread(
    threads: Executor | None,
    deadline: float,
    timeout_reason: str,
    work: Callable[..., T],
    *arguments: object,
) -> T:
    """`work(*arguments)`, run by `threads`, or by asyncio's own if that is None.

    Raises `TimeoutError(timeout_reason)` at `deadline`, on `time.perf_counter`'s clock. Work that
    has begun by then goes on, and its result is dropped.
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
        job.clear()  # a cancelled job stays in the threads' queue, and bodies must not stay with it
