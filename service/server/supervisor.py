"""Worker processes that share a port, each with its own copy of the weights.

Each worker has its own listening socket on the port, and the kernel distributes new connections
over them (SO_REUSEPORT). The supervisor creates these sockets and keeps them open: connections in
the accept queue of a worker that has died are served by its successor.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from service.access.keys import KeysError
from service.access.rates import Buckets
from service.server.listeners import open_listeners, resume_connections
from service.settings import Settings
from service.telemetry.metrics_files import SharedCounts, shared_counts
from service.telemetry.request_log import set_up_logging

log = logging.getLogger("service")

SPAWN: Final = get_context("spawn")
"""A fork would copy locks that are held by threads which it does not copy."""

RESTART_DELAYS_S: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Delays before a worker is replaced. They grow with each worker in a row that dies before it is
ready, so that failing starts do not take the machine from the workers that serve."""

STOP_GRACE_S: Final = 5.0
"""Time on top of `shutdown_timeout_s` before a worker that does not stop is killed."""

PR_SET_PDEATHSIG: Final = 1
"""From Linux's <sys/prctl.h>."""


@dataclass
class Slot:
    """A listening socket, and the worker process that serves it."""

    number: int
    listener: socket.socket
    process: SpawnProcess | None = None
    """None until the worker is started, and after it has died."""
    startup_pipe: Connection | None = None
    """Brings the worker's startup message. None once that has arrived or the worker has died."""
    ready: bool = False
    failures: int = 0
    """How many workers in a row have died before they were ready."""
    start_at: float = 0.0
    """When to start the next worker, on `time.monotonic`'s clock."""


class Supervisor:
    """Runs `settings.workers` worker processes, and replaces those that die.

    If a worker cannot start before all workers have been ready once, the service ends, as the next
    attempt would fail too. Later, a failed start is retried after a delay.
    """

    def __init__(self, settings: Settings, buckets: Buckets | None) -> None:
        self._settings = settings
        listeners = open_listeners(settings.host, settings.port, settings.workers)
        self._slots = [Slot(i, listener) for i, listener in enumerate(listeners)]
        self._counts: SharedCounts | None = None
        self._buckets = buckets
        self._stopping = False
        self._announced = False
        self._startup_error: str | None = None

    def run(self) -> str | None:
        """Serve until SIGTERM or Ctrl-C. Returns why the service could not start, or None."""
        # A signal writes a byte to this pair, which wakes `_wait` up.
        wake, wake_reader = socket.socketpair()
        for end in (wake, wake_reader):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._forward_sighup)
        with shared_counts(len(self._slots)) as self._counts:
            try:
                while not self._stopping:
                    self._start_due_workers()
                    self._wait(wake_reader)
            finally:
                self._stop_workers()
                signal.set_wakeup_fd(-1)
        return self._startup_error

    def _stop(self, number: int, *_: object) -> None:
        if self._stopping:
            self._kill(number)
        self._stopping = True

    def _kill(self, number: int) -> None:
        """Kill all workers and exit, at the second signal."""
        log.warning("a second signal: ending now")
        for slot in self._slots:
            if slot.process:
                slot.process.kill()
        sys.exit(128 + number)

    def _forward_sighup(self, number: int, *_: object) -> None:
        """Pass SIGHUP on to the workers, which then reload their bundles."""
        for slot in self._slots:
            if slot.process and slot.ready and slot.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.process.pid, number)

    def _start_due_workers(self) -> None:
        for slot in self._slots:
            if slot.process is None and time.monotonic() >= slot.start_at:
                slot.startup_pipe, child_end = SPAWN.Pipe(duplex=False)
                slot.process = SPAWN.Process(
                    target=run_worker,
                    args=(
                        *(self._settings, slot.listener, child_end),
                        *(self._counts, slot.number, self._buckets),
                    ),
                )
                slot.process.start()
                child_end.close()

    def _wait(self, wake_reader: socket.socket) -> None:
        """Wait for a startup message, an exit, a due start or a signal. Handles the first two."""
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process]
        startup_pipes = [slot.startup_pipe for slot in self._slots if slot.startup_pipe]
        start_times = [slot.start_at for slot in self._slots if slot.process is None]
        timeout_s = max(0.0, min(start_times) - time.monotonic()) if start_times else None
        ready = connection.wait([wake_reader, *sentinels, *startup_pipes], timeout_s)
        if wake_reader in ready:
            with suppress(BlockingIOError):
                wake_reader.recv(4096)  # until it is empty, so that the next wait blocks
        for slot in self._slots:
            if slot.startup_pipe in ready:
                self._on_startup_message(slot)
            if slot.process and slot.process.sentinel in ready and not self._stopping:
                self._on_exit(slot, slot.process)
        if not self._announced and all(slot.ready for slot in self._slots):
            self._announced = True
            host, port = self._slots[0].listener.getsockname()[:2]
            url = self._settings.url(host, port)
            log.info("running on %s with %d workers", url, len(self._slots))
            log.info("open %s/docs in a browser", url)

    def _on_startup_message(self, slot: Slot) -> None:
        """Receive a worker's startup message: None if it is ready, or why it cannot start."""
        assert slot.startup_pipe is not None  # noqa: S101 - for mypy: `_wait` has checked it
        try:
            error: str | None = slot.startup_pipe.recv()
        except EOFError:
            return  # the worker has died
        finally:
            slot.startup_pipe.close()
            slot.startup_pipe = None
        if error is None:
            slot.ready, slot.failures = True, 0
        else:
            if self._announced:
                log.error("a worker cannot start: %s", error)
            self._fail_startup(error)

    def _on_exit(self, slot: Slot, process: SpawnProcess) -> None:
        """Clean up after a worker that has died, and schedule its successor."""
        process.join()
        log.error("worker %d died (exit code %d)", process.pid or 0, process.exitcode or 0)
        if self._counts:
            self._counts.forget(slot.number)
        resume_connections(slot.listener)  # the worker may have stopped them before it died
        if not slot.ready:
            self._fail_startup(f"a worker could not start (exit code {process.exitcode})")
            slot.failures += 1
        if slot.startup_pipe:
            slot.startup_pipe.close()
        delay_s = RESTART_DELAYS_S[min(slot.failures, len(RESTART_DELAYS_S) - 1)]
        slot.process, slot.startup_pipe, slot.ready = None, None, False
        slot.start_at = time.monotonic() + delay_s

    def _fail_startup(self, reason: str) -> None:
        """End the service, unless all workers have been ready once."""
        if not self._announced:
            self._startup_error = self._startup_error or reason
            self._stopping = True

    def _stop_workers(self) -> None:
        """Terminate all workers, and kill those that do not stop in time."""
        for slot in self._slots:
            # While it is open, the kernel queues connections, even when no worker is left.
            slot.listener.close()
        processes = [slot.process for slot in self._slots if slot.process]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._settings.shutdown_timeout_s + STOP_GRACE_S
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                log.error("worker %d did not stop in time", process.pid or 0)
                process.kill()
                process.join()


def run_worker(
    settings: Settings,
    listener: socket.socket,
    startup_pipe: Connection,
    counts: SharedCounts | None,
    slot: int,
    buckets: Buckets | None,
) -> None:
    """Run a worker. Its startup message is None when it is ready, or why it cannot start."""
    if sys.platform == "linux":  # ends this process if the parent is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = parent_process()
    if parent is None or not parent.is_alive():  # killed before the line above
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    set_up_logging(settings.log_level, settings.log_format)
    if counts:
        counts.join(slot)
    from model.bundle.bundle import BundleError
    from model.engine.device import DeviceError
    from service.server.server import serve

    try:
        serve(settings, listener, lambda: startup_pipe.send(None), buckets)
    except (BundleError, DeviceError, KeysError) as error:
        startup_pipe.send(str(error))
