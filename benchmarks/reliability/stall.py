"""A network that hangs, raises or gives wrong answers.

The service must report that it is not ready, then that it is not alive, and then exit. The parent
replaces a worker that exits.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Final

from benchmarks.reliability.harness import (
    Figures,
    Promise,
    Service,
    at_most,
    equals,
    raw,
    run,
    service,
    tell,
    told,
    wait_for,
)

NOT_READY_S: Final = 10.0
"""Longest time to /readyz 503: a probe is sent when the last one is 5 s old, and may take 2 s."""

SLACK_S: Final = 3.0
"""Tolerance: an answer of /readyz may take 2 s, during which it waits for a probe."""

EXIT_S: Final = 10.0
"""Longest time from not being alive to the end of the process."""

NEW_S: Final = 6.0
"""Time for a new worker to be ready on a busy machine of two cores."""

PATHS: Final = ("/readyz", "/livez")

EVERYWHERE: Final = "hang everywhere"
"""The event loop hangs, too, so nothing is answered any more."""

ILLNESSES: Final = ("hang", "wrong", "raise", EVERYWHERE)


class Illness:
    """One process with a network that fails, as seen from outside."""

    def __init__(self, live: Service, illness: str, most_s: float) -> None:
        self.first_503_s: dict[str, float] = {}
        """Seconds until the first 503, by path."""
        self.reason = ""
        self.exit_s = math.inf
        self.status: int | None = None
        self._live = live
        self._illness = illness
        self._most_s = most_s

    def watch(self, directory: Path) -> None:
        """Poll until the process ends, or until it should have ended."""
        began = time.monotonic()
        (directory / str(self._live.pid)).write_text(self._illness)
        threads = [
            threading.Thread(target=_ask, args=(self._live, self._illness)),
            *(threading.Thread(target=self._poll, args=(path, began)) for path in PATHS),
        ]
        for thread in threads:
            thread.start()
        with suppress(subprocess.TimeoutExpired):
            self.status = self._live.process.wait(self._most_s)
            self.exit_s = time.monotonic() - began
        for thread in threads:
            thread.join()

    def _poll(self, path: str, began: float) -> None:
        while self._live.process.poll() is None and time.monotonic() < began + self._most_s:
            with suppress(OSError, HTTPException):  # the process hangs or has ended
                answer = self._live.get(path, timeout_s=3.0)
                if answer.status == 503 and path not in self.first_503_s:
                    self.first_503_s[path] = time.monotonic() - began
                    self.reason = self.reason or answer.body.decode(errors="replace")[:300]
            time.sleep(0.05)


def _ask(live: Service, illness: str) -> None:
    """Make the network work: on the event loop for one image, beside it for many."""
    with suppress(OSError, HTTPException), live.caller(5.0) as caller:
        caller.ask(raw(1 if illness == EVERYWHERE else 256))


def single(illness: str, stall_s: int, directory: Path) -> tuple[list[Promise], Figures]:
    with service(
        *("--stall-timeout-s", str(stall_s)),
        quiet=True,
        module="benchmarks.reliability.sick_service",
        environment={"SICK_DIRECTORY": str(directory)},
    ) as live:
        outcome = Illness(live, illness, NOT_READY_S + stall_s + EXIT_S)
        outcome.watch(directory)
    promises = []
    if illness != EVERYWHERE:
        ready_s, live_s = (outcome.first_503_s.get(path, math.inf) for path in PATHS)
        promises += [
            at_most(f"network: {illness}; /readyz 503 after", ready_s, NOT_READY_S, " s"),
            Promise(
                what=f"network: {illness}; /livez 503 after /readyz",
                goal=f"{stall_s} s ± {SLACK_S:g} s",
                measured=f"{live_s - ready_s:.1f} s",
                reached=abs(live_s - ready_s - stall_s) <= SLACK_S,
            ),
        ]
    promises += [
        at_most(
            f"network: {illness}; the process ends after",
            outcome.exit_s,
            NOT_READY_S + stall_s + EXIT_S,
            " s",
        ),
        Promise(
            what=f"network: {illness}; its exit status",
            goal="not 0",
            measured=str(outcome.status),
            reached=bool(outcome.status),
        ),
    ]
    return promises, {
        "first_503_s": outcome.first_503_s,
        "exit_s": outcome.exit_s,
        "status": outcome.status,
        "reason": outcome.reason,
    }


def one_of_two(stall_s: int, directory: Path) -> tuple[list[Promise], Figures]:
    """One of two workers hangs: it ends and is replaced, and the parent lives on."""
    with service(
        *("--stall-timeout-s", str(stall_s), "--workers", "2"),
        module="benchmarks.reliability.sick_service",
        environment={"SICK_DIRECTORY": str(directory)},
    ) as live:
        before = live.workers()
        ill = min(before)
        (directory / str(ill)).write_text("hang")
        for _ in range(8):  # one of them reaches the hung worker
            threading.Thread(target=_ask, args=(live, "hang"), daemon=True).start()

        def gone() -> bool:
            return not Path(f"/proc/{ill}").exists()

        gone_s = wait_for(gone, NOT_READY_S + stall_s + EXIT_S)
        if gone_s is None:
            return [equals("network of a worker: hang; the worker ends", False, True)], {}
        came_s = wait_for(lambda: _new_ones_answer(live, before), NEW_S)
        parent = live.is_alive()
    return [
        at_most(
            "network of one of two workers: hang; from its exit to an answer of the new worker",
            math.inf if came_s is None else came_s,
            NEW_S,
            " s",
        ),
        equals("network of one of two workers: hang; the parent stays alive", parent, True),
    ], {"gone_s": gone_s, "came_s": came_s}


def _new_ones_answer(live: Service, before: set[int]) -> bool:
    return len(live.workers() - before) == 1 and live.said().count("is in memory") == 3


def measure(*, short: bool) -> Figures:
    """Try all failures at once, as most of the time is spent waiting."""
    stall_s = 1 if short else 3
    jobs: dict[str, Callable[[Path], tuple[list[Promise], Figures]]] = {
        illness: partial(single, illness, stall_s)
        for illness in (ILLNESSES[:3] if short else ILLNESSES)
    }
    if not short:
        jobs["one of two workers"] = partial(one_of_two, stall_s)
    results: dict[str, tuple[list[Promise], Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="vae-sick-") as scratch:

        def do(name: str) -> None:
            try:
                results[name] = jobs[name](Path(scratch))
            except (RuntimeError, OSError) as error:
                results[name] = [equals(f"network: {name}", str(error), "measured")], {}
            tell(f"{name}: {results[name][1]}")

        threads = [threading.Thread(target=do, args=(name,)) for name in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    promises = [promise for name in jobs for promise in results[name][0]]
    return told(promises, **{name: results[name][1] for name in jobs})


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
