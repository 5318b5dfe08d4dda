"""Worker processes that share a port, each with its own copy of the weights.

Each worker has its own listening socket on the port, and the kernel distributes new connections
over them (SO_REUSEPORT). The supervisor creates these sockets and keeps them open: connections in
the accept queue of a worker that has died are served by its successor.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Final

from service.access.rates import Buckets
from service.server.fork_server import ForkServer
from service.server.listeners import open_listeners, resume_connections
from service.server.processes import SPAWN, ChildProcess, adopt_orphans
from service.server.restarts import Restarts
from service.server.spawner import Spawner
from service.server.worker import Worker
from service.settings import Settings
from service.telemetry.metrics_files import SharedCounts, shared_counts

log = logging.getLogger("service")

STOP_GRACE_S: Final = 5.0
"""Time on top of `shutdown_timeout_s` before a worker that does not stop is killed."""


@dataclass
class Slot:
    """A listening socket, and the worker process that serves it."""

    number: int
    listener: socket.socket
    process: ChildProcess | None = None
    """None until the worker is started, and after it has died."""
    startup_pipe: Connection | None = None
    """Brings the worker's startup message. None once that has arrived or the worker has died."""
    ready: bool = False
    restarts: Restarts = field(default_factory=Restarts)


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
        # A signal writes a byte to this pair, which wakes `_sleep` up.
        wake, self._wake_reader = socket.socketpair()
        for end in (wake, self._wake_reader):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._forward_sighup)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake up
        with shared_counts(len(self._slots)) as self._counts:
            listeners = [slot.listener for slot in self._slots]
            worker = Worker(self._settings, listeners, self._counts, self._buckets)
            self._starter = ForkServer(worker.run) if adopt_orphans() else Spawner(worker.run)
            try:
                self._poll_starter()
                while not self._stopping:
                    self._start_due_workers()
                    self._wait()
            finally:
                try:
                    self._stop_workers()
                finally:  # at a second signal
                    self._starter.close()
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

    def _poll_starter(self) -> None:
        if reason := self._starter.poll():
            self._on_failed_start(reason)

    def _start_due_workers(self) -> None:
        for slot in self._slots:
            if slot.process is None and not slot.restarts.wait_s and self._starter.is_ready:
                self._start_worker(slot)

    def _start_worker(self, slot: Slot) -> None:
        try:
            startup_pipe, child_end = SPAWN.Pipe(duplex=False)
            with child_end:
                slot.process = self._starter.start_worker(slot.number, child_end)
        except OSError as error:
            slot.restarts.on_exit(was_ready=False)
            self._on_failed_start(f"the system cannot start a process: {error}")
            return
        if slot.process:
            slot.startup_pipe = startup_pipe
        else:
            startup_pipe.close()

    def _wait(self) -> None:
        """Wait for a startup message, an exit, a due start or a signal. Handles the first two."""
        waits_s = [self._starter.wait_s]
        if self._starter.is_ready:
            waits_s += [slot.restarts.wait_s for slot in self._slots if slot.process is None]
        startup_pipes = [slot.startup_pipe for slot in self._slots if slot.startup_pipe]
        timeout_s = min((wait_s for wait_s in waits_s if wait_s is not None), default=None)
        self._sleep(timeout_s, *startup_pipes, *self._starter.waits_for)
        for slot in self._slots:
            ended = slot.process is not None and not slot.process.is_alive()
            if slot.startup_pipe and slot.startup_pipe.poll():
                self._on_startup_message(slot)
            if slot.process and ended and not self._stopping:
                self._on_exit(slot, slot.process)
        self._poll_starter()
        if not self._announced and all(slot.ready for slot in self._slots):
            self._announced = True
            host, port = self._slots[0].listener.getsockname()[:2]
            url = self._settings.url(host, port)
            log.info("running on %s with %d workers", url, len(self._slots))
            log.info("open %s%s in a browser", url, "" if self._settings.page else "/docs")

    def _sleep(self, timeout_s: float | None, *until: socket.socket | Connection) -> None:
        """Sleep until one of these is readable, a signal arrives or a child ends."""
        if self._wake_reader in connection.wait([self._wake_reader, *until], timeout_s):
            with suppress(BlockingIOError):
                self._wake_reader.recv(4096)  # until it is empty, so that the next call sleeps

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
            slot.ready = True
            slot.restarts.on_ready()
        else:
            self._on_failed_start(error)

    def _on_exit(self, slot: Slot, process: ChildProcess) -> None:
        """Clean up after a worker that has died, and schedule its successor."""
        log.error("worker %d died (exit code %d)", process.pid or 0, process.exitcode or 0)
        if self._counts:
            self._counts.forget(slot.number)
        resume_connections(slot.listener)  # the worker may have stopped them before it died
        if not slot.ready and not self._announced:
            self._on_failed_start(f"a worker could not start (exit code {process.exitcode})")
        slot.restarts.on_exit(was_ready=slot.ready)
        if slot.startup_pipe:
            slot.startup_pipe.close()
        slot.process, slot.startup_pipe, slot.ready = None, None, False

    def _on_failed_start(self, reason: str) -> None:
        """Log that a worker cannot start, or end the service, if not all have been ready once."""
        if self._announced:
            log.error("a worker cannot start: %s", reason)
        else:
            self._startup_error = self._startup_error or reason
            self._stopping = True

    def _stop_workers(self) -> None:
        """Terminate all workers, and kill those that do not stop in time."""
        self._starter.close()  # first, as it would keep the listeners open
        for slot in self._slots:
            # While it is open, the kernel queues connections, even when no worker is left.
            slot.listener.close()
        processes = [slot.process for slot in self._slots if slot.process]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._settings.shutdown_timeout_s + STOP_GRACE_S
        while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
            self._sleep(max(0.0, deadline - time.monotonic()))
        late = [process for process in processes if process.is_alive()]
        for process in late:
            log.error("worker %d did not stop in time", process.pid or 0)
            process.kill()
        while any(process.is_alive() for process in late):
            self._sleep(None)
