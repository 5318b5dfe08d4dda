"""A thread that works for the event loop, one piece of work at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from time import sleep
from typing import Any, Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

HANDOVER_S: Final = 0.00005
"""How long the event loop stands back so that the thread gets the interpreter lock. The thread
needs it for a moment before each part of its work that does without. If it had to wait for the loop
to finish its turn, the two would take turns where they could work at the same time."""

Done = Callable[[T | None, Exception | None], object]
"""Takes the result, or else the error."""


class _Work(NamedTuple, Generic[T]):
    run: Callable[..., T]
    arguments: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop
    done: Done[T]


class WorkerThread:
    """Runs work in the order in which it is given.

    An executor of the standard library does the same, with a future for each side that the other
    side waits for: 20 µs more for each piece of work.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[_Work[Any] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._closed = False

    def run(self, work: Callable[..., T], *arguments: Any, done: Done[T]) -> None:
        """Have `work(*arguments)` run in the thread, then `done` called on this event loop.

        Raises `RuntimeError` after `close`.
        """
        if self._closed:
            raise RuntimeError(f"the {self._name} thread has ended")
        if self._thread is None:
            # A daemon: it must not keep the process alive if the work never ends.
            thread = Thread(target=self._run_all, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._work.put(_Work(work, arguments, asyncio.get_running_loop(), done))
        sleep(HANDOVER_S)

    def close(self, timeout_s: float) -> bool:
        """End the thread after its current work, and return whether it ended in time."""
        self._closed = True
        if self._thread is None:
            return True
        self._work.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run_all(self) -> None:
        while (work := self._work.get()) is not None and not self._closed:
            result = error = None
            try:
                result = work.run(*work.arguments)
            except Exception as raised:
                error = raised
            except BaseException as raised:  # such as SystemExit, which is not for this thread
                error = RuntimeError(f"{type(raised).__name__} in the {self._name} thread")
            with suppress(RuntimeError):  # the event loop has ended
                work.loop.call_soon_threadsafe(work.done, result, error)
            del work, result, error  # nothing of it is kept while the thread waits
