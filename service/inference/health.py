"""Readiness and liveness, by real forward passes. A process that does not recover is ended."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, perf_counter
from traceback import format_stack
from typing import Final

from service.errors import NotReadyError
from service.inference.admission import Inference
from service.inference.batching import MicroBatcher
from service.telemetry.metrics import Metrics
from service.telemetry.request_log import STDERR

log = logging.getLogger("service")

READY_FOR_S = 5.0
"""How long a successful probe proves readiness. After that, the next check sends another one."""

PROBE_TIMEOUT_S = 2.0
"""How long a probe may take, including its wait in the queue."""

CHECK_INTERVAL_S = 1.0
"""Between checks of the current batch, and between heartbeats of the event loop."""

EXIT_DELAY_S: Final = 3.0
"""Time between the first failure of `/livez` and the end of the process, so that it can be seen."""

STACKS_TIMEOUT_S: Final = 1.0
"""How long to wait for the threads' stacks to be written before the process ends."""

EXIT_STATUS: Final = 70
"""Exit status of a process that ends itself: EX_SOFTWARE in BSD's sysexits."""


class Health:
    """Sends probes: an image with known scores goes through the network.

    The service is not ready if the last probe failed, or if it is stopping. It is not alive if
    probes have failed for `stall_timeout_s`, or if the event loop has been blocked for that long.
    Soon after that the process ends, so that its supervisor starts another one: a hanging thread,
    or a GPU that fails every call, does not recover by itself.
    """

    def __init__(
        self,
        inference: Callable[[], Inference],
        batcher: MicroBatcher,
        metrics: Metrics,
        *,
        stall_timeout_s: float,
    ) -> None:
        self._inference = inference
        self._batcher = batcher
        self._metrics = metrics
        self._stall_timeout_s = stall_timeout_s
        self._last_success_at = monotonic()  # `load_engine` has probed it
        self._last_pass_at = monotonic()
        self._problem: str | None = None
        self._problem_since = 0.0
        self._timed_out_at: float | None = None
        """When the last probe timed out, if no pass succeeded during it. The next probe counts
        passes from here on."""
        self._probe_task: asyncio.Task[None] | None = None
        self._heartbeats = 0
        self.stopping = False

    def note_pass(self) -> None:
        """Record that a batch has succeeded."""
        self._last_pass_at = monotonic()

    async def check_ready(self) -> None:
        """Raise `NotReadyError`, with the reason, if the service is not ready. May send a probe."""
        if not self.stopping and (
            self._problem or monotonic() - self._last_success_at >= READY_FOR_S
        ):
            await self._probe()
        reason = "the service is stopping" if self.stopping else self._problem
        if reason:
            self._metrics.count_refusal("not_ready")
            raise NotReadyError(reason)

    def check_alive(self) -> None:
        """Raise `NotReadyError`, with the reason, if the service is not alive."""
        if self._problem and self._problem_duration_s() >= self._stall_timeout_s:
            raise NotReadyError(f"{self._problem}, for {self._problem_duration_s():.0f} s")

    async def watch(self) -> None:
        """Probe whenever there are doubts, for ever. Ends the process if the problem persists."""
        watchdog = threading.Thread(
            target=self._watch_event_loop, args=(self._heartbeats,), daemon=True
        )
        watchdog.name = "watchdog"
        watchdog.start()
        try:
            while True:
                await asyncio.sleep(CHECK_INTERVAL_S)
                self._heartbeats += 1
                self._metrics.sample_process()
                since = self._batcher.running_since
                slow = since is not None and perf_counter() - since >= PROBE_TIMEOUT_S
                if self._problem or slow or self._batcher.has_failed:
                    await self._probe()
                if (
                    self._problem
                    and self._problem_duration_s() >= self._stall_timeout_s + EXIT_DELAY_S
                ):
                    self._exit(self._problem)
        finally:
            self._heartbeats = -1  # stops the watchdog

    def _problem_duration_s(self) -> float:
        return monotonic() - self._problem_since

    async def _probe(self) -> None:
        """Send a probe, or wait for the one that is under way."""
        if self._probe_task is None or self._probe_task.done():
            self._probe_task = asyncio.create_task(self._send_probe())
        await asyncio.shield(self._probe_task)

    async def _send_probe(self) -> None:
        # A pass that succeeds between two probes counts, too. Otherwise batches that take longer
        # than a probe could always end there, and the process would be ended because of them.
        began = self._timed_out_at or monotonic()
        self._timed_out_at = None
        self._batcher.has_failed = False
        try:
            is_right = await self._inference().probe(perf_counter() + PROBE_TIMEOUT_S)
        except TimeoutError:
            if self._last_pass_at >= began:  # busy, not stuck
                self._clear_problem()
            else:
                self._timed_out_at = monotonic()
                self._report_problem(f"no forward pass within {PROBE_TIMEOUT_S:g} s")
        except Exception as error:
            self._report_problem(f"a forward pass failed: {type(error).__name__}")
        else:
            if is_right:
                self._clear_problem()
            else:
                self._report_problem("a forward pass gave wrong numbers for a known image")

    def _clear_problem(self) -> None:
        self._last_success_at = monotonic()
        if self._problem:
            log.warning("forward passes work again, after %.0f s", self._problem_duration_s())
        self._problem = None

    def _report_problem(self, reason: str) -> None:
        if self._problem is None:
            self._problem_since = monotonic()
        if self._problem != reason:
            log.error("not ready: %s", reason)
        self._problem = reason

    def _watch_event_loop(self, last_seen: int) -> None:
        """End the process if the event loop is blocked for too long. Runs in the watchdog thread.

        It counts its own turns instead of time, as a suspended process would seem to have hung.
        """
        missed = 0
        pause = threading.Event()
        while self._heartbeats >= 0:
            pause.wait(CHECK_INTERVAL_S)
            missed = missed + 1 if self._heartbeats == last_seen else 0
            last_seen = self._heartbeats
            if missed * CHECK_INTERVAL_S >= self._stall_timeout_s + EXIT_DELAY_S:
                self._exit("the event loop is blocked")

    def _exit(self, reason: str) -> None:
        log.critical("ending the process, so that it is restarted: %s", reason)
        logging.shutdown()
        # A write to stderr lasts for ever if nobody reads it, so a thread does it. faulthandler
        # would block all threads meanwhile, as it holds the interpreter lock.
        writer = threading.Thread(target=_write_stacks, daemon=True)
        writer.start()
        writer.join(STACKS_TIMEOUT_S)
        os._exit(EXIT_STATUS)


def _write_stacks() -> None:
    """Write each thread's stack to stderr."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    names.pop(threading.get_ident())
    stacks = [
        f"Thread {names[ident]}:\n{''.join(format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident in names
    ]
    text = "\n".join(stacks).encode(errors="replace")
    with suppress(OSError):  # it may be closed
        while text:
            text = text[os.write(STDERR, text) :]
