"""Whether forward passes work: ready, alive, or better started again."""

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
"""A probe that went well so lately proves readiness; when it is older, another one is sent."""

PROBE_TIMEOUT_S = 2.0
"""How long a probe's forward pass may take, with its wait in the queue."""

TICK_S = 1.0
"""Between looks at what runs, and between beats of the event loop."""

EXIT_AFTER_S: Final = 3.0
"""From not being alive to the end of the process, so that whoever asks /livez sees it."""

STACKS_S: Final = 1.0
"""How long the end waits for its threads' stacks to be written."""

BROKEN: Final = 70
"""Exit status of a process that could not go on: EX_SOFTWARE of BSD's sysexits."""


class Health:
    """Sends an image through the network whose scores are known, when asked and when in doubt.

    Not ready: the last probe failed, or the service is stopping. Not alive: probes have failed for
    `stall_timeout_s`, or as long the event loop has not come round. Soon after that the process
    ends, for what supervises it to start another: a hung thread, or a GPU that fails each call,
    does not come back by itself.
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
        self._worked_at = monotonic()  # it was probed before it was let in
        self._pass_at = monotonic()
        self._trouble: str | None = None
        self._trouble_since = 0.0
        self._gave_up_at: float | None = None
        """When the last probe ended, if it met no pass: the next one looks back to there."""
        self._probing: asyncio.Task[None] | None = None
        self._beats = 0
        self.stopping = False

    def note_pass(self) -> None:
        """A batch went well."""
        self._pass_at = monotonic()

    async def check_ready(self) -> None:
        """Raises `NotReadyError` with the reason."""
        if not self.stopping and (self._trouble or monotonic() - self._worked_at >= READY_FOR_S):
            await self._probe()
        reason = "the service is stopping" if self.stopping else self._trouble
        if reason:
            self._metrics.count_refusal("not_ready")
            raise NotReadyError(reason)

    def check_alive(self) -> None:
        """Raises `NotReadyError` with the reason."""
        if self._trouble and self._troubled_s() >= self._stall_timeout_s:
            raise NotReadyError(f"{self._trouble}, for {self._troubled_s():.0f} s")

    async def watch(self) -> None:
        """Look after it for ever. Ends the process when it is past helping."""
        dog = threading.Thread(target=self._guard, args=(self._beats,), daemon=True)
        dog.name = "watchdog"
        dog.start()
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._beats += 1
                self._metrics.sample_process()
                since = self._batcher.running_since
                slow = since is not None and perf_counter() - since >= PROBE_TIMEOUT_S
                if self._trouble or slow or self._batcher.has_failed:
                    await self._probe()
                if self._trouble and self._troubled_s() >= self._stall_timeout_s + EXIT_AFTER_S:
                    self._end(self._trouble)
        finally:
            self._beats = -1  # the watchdog lies down

    def _troubled_s(self) -> float:
        return monotonic() - self._trouble_since

    async def _probe(self) -> None:
        """One at a time, however many ask."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._send_probe())
        await asyncio.shield(self._probing)

    async def _send_probe(self) -> None:
        # What passes between two probes is work, too: else batches that take longer than a probe
        # could end there each time, and the process for them.
        began = self._gave_up_at or monotonic()
        self._gave_up_at = None
        self._batcher.has_failed = False
        try:
            right = await self._inference().probe(perf_counter() + PROBE_TIMEOUT_S)
        except TimeoutError:
            if self._pass_at >= began:  # busy is ready, stuck is not
                self._fine()
            else:
                self._gave_up_at = monotonic()
                self._note_trouble(f"no forward pass within {PROBE_TIMEOUT_S:g} s")
        except Exception as error:
            self._note_trouble(f"a forward pass failed: {type(error).__name__}")
        else:
            if right:
                self._fine()
            else:
                self._note_trouble("a forward pass gave wrong numbers for a known image")

    def _fine(self) -> None:
        self._worked_at = monotonic()
        if self._trouble:
            log.warning("forward passes work again, after %.0f s", self._troubled_s())
        self._trouble = None

    def _note_trouble(self, reason: str) -> None:
        if self._trouble is None:
            self._trouble_since = monotonic()
        if self._trouble != reason:
            log.error("not ready: %s", reason)
        self._trouble = reason

    def _guard(self, beats: int) -> None:
        """The watchdog's thread: ends the process when the event loop does not come round.

        It counts its own turns, not time, in which a stopped process would seem to have hung.
        """
        missed = 0
        pause = threading.Event()
        while self._beats >= 0:
            pause.wait(TICK_S)
            missed = missed + 1 if self._beats == beats else 0
            beats = self._beats
            if missed * TICK_S >= self._stall_timeout_s + EXIT_AFTER_S:
                self._end("the event loop hangs")

    def _end(self, reason: str) -> None:
        log.critical("ending, to be started again: %s", reason)
        logging.shutdown()
        # Nobody may read stderr, and a write to it last for ever: from a thread it holds up nobody.
        # One of faulthandler's would, as it keeps the interpreter's lock.
        writer = threading.Thread(target=_write_stacks, daemon=True)
        writer.start()
        writer.join(STACKS_S)
        os._exit(BROKEN)


def _write_stacks() -> None:
    """Write to stderr where each thread is."""
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
