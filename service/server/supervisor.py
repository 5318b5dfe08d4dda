"""Several processes that share a port, each with its own copy of the weights.

Each has a socket of its own on the port, made here and kept open here: the kernel spreads new
connections over them (SO_REUSEPORT), and those that wait at the socket of a worker that died are
taken by the one that comes in its slot.
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
from service.server.listeners import resume_connections
from service.settings import Settings
from service.telemetry.metrics_files import SharedCounts, shared_counts
from service.telemetry.request_log import set_up_logging

log = logging.getLogger("service")

SPAWN: Final = get_context("spawn")
"""A fork would copy the locks of threads that it does not copy."""

BACKLOG: Final = 2048
"""Connections that may wait at a socket; uvicorn's own figure."""

RESTART_DELAYS_S: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before a worker is replaced that was never ready: longer with each in a row, so that what cannot
start does not take the machine from those that serve."""

STOP_GRACE_S: Final = 5.0
"""What workers get on top of `shutdown_timeout_s` before they are killed."""

PR_SET_PDEATHSIG: Final = 1
"""From Linux's <sys/prctl.h>."""


@dataclass
class Slot:
    """A socket, and the worker that listens on it now."""

    number: int
    listener: socket.socket
    process: SpawnProcess | None = None
    startup_pipe: Connection | None = None
    """Until it has said that it is ready, or has ended."""
    ready: bool = False
    failures: int = 0
    """Supervisor in a row that ended before they were ready."""
    start_at: float = 0.0
    """On `time.monotonic`'s clock."""


class Supervisor:
    """Starts as many processes as `settings.workers`, and another one for each that dies.

    If one cannot start before all have been ready once, that ends the service: the next would not
    start either. Later that only leaves its slot empty for a while.
    """

    def __init__(self, settings: Settings, buckets: Buckets | None) -> None:
        self._settings = settings
        self._slots = [Slot(i, listener) for i, listener in enumerate(_listeners(settings))]
        self._counts: SharedCounts | None = None
        self._buckets = buckets
        self._stopping = False
        self._announced = False
        self._refused: str | None = None

    def run(self) -> str | None:
        """Serve until SIGTERM or Ctrl-C. Returns why no worker could start, or None."""
        # A signal only writes to this pair: what it asks for is done where `_watch` waits.
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
                    self._start_due()
                    self._watch(wake_reader)
            finally:
                self._end()
                signal.set_wakeup_fd(-1)
        return self._refused

    def _stop(self, number: int, *_: object) -> None:
        if self._stopping:
            self._kill(number)
        self._stopping = True

    def _kill(self, number: int) -> None:
        """The second signal: the end, now."""
        log.warning("a second signal: ending now")
        for slot in self._slots:
            if slot.process:
                slot.process.kill()
        sys.exit(128 + number)

    def _forward_sighup(self, number: int, *_: object) -> None:
        """SIGHUP: each loads its bundle again."""
        for slot in self._slots:
            if slot.process and slot.ready and slot.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.process.pid, number)

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.process is None and time.monotonic() >= slot.start_at:
                slot.startup_pipe, child_end = SPAWN.Pipe(duplex=False)
                slot.process = SPAWN.Process(
                    target=work,
                    args=(
                        *(self._settings, slot.listener, child_end),
                        *(self._counts, slot.number, self._buckets),
                    ),
                )
                slot.process.start()
                child_end.close()

    def _watch(self, wake_reader: socket.socket) -> None:
        """Wait until a worker says something or dies, one is due, or a signal comes."""
        deaths = [slot.process.sentinel for slot in self._slots if slot.process]
        startup_pipe = [slot.startup_pipe for slot in self._slots if slot.startup_pipe]
        due = [slot.start_at for slot in self._slots if slot.process is None]
        timeout_s = max(0.0, min(due) - time.monotonic()) if due else None
        happened = connection.wait([wake_reader, *deaths, *startup_pipe], timeout_s)
        if wake_reader in happened:
            with suppress(BlockingIOError):
                wake_reader.recv(4096)  # else it would not wait again
        for slot in self._slots:
            if slot.startup_pipe in happened:
                self._on_startup_message(slot)
            if slot.process and slot.process.sentinel in happened and not self._stopping:
                self._on_exit(slot, slot.process)
        if not self._announced and all(slot.ready for slot in self._slots):
            self._announced = True
            host, port = self._slots[0].listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            scheme = "http" if self._settings.tls_cert_file is None else "https"
            log.info("running on %s://%s:%d with %d workers", scheme, shown, port, len(self._slots))

    def _on_startup_message(self, slot: Slot) -> None:
        """Take a worker's only message: None when it is ready, or why it cannot be."""
        assert slot.startup_pipe is not None  # noqa: S101 - for mypy: something came from it
        try:
            refused: str | None = slot.startup_pipe.recv()
        except EOFError:
            return  # it died before
        finally:
            slot.startup_pipe.close()
            slot.startup_pipe = None
        if refused is None:
            slot.ready, slot.failures = True, 0
        else:
            if self._announced:
                log.error("a worker cannot start: %s", refused)
            self._refuse(refused)

    def _on_exit(self, slot: Slot, process: SpawnProcess) -> None:
        """A worker has died: another one is due, now or after a pause."""
        process.join()
        log.error("worker %d died (exit code %d)", process.pid or 0, process.exitcode or 0)
        if self._counts:
            self._counts.forget(slot.number)
        resume_connections(slot.listener)  # to the next one
        if not slot.ready:
            self._refuse(f"a worker could not start (exit code {process.exitcode})")
            slot.failures += 1
        if slot.startup_pipe:
            slot.startup_pipe.close()
        delay_s = RESTART_DELAYS_S[min(slot.failures, len(RESTART_DELAYS_S) - 1)]
        slot.process, slot.startup_pipe, slot.ready = None, None, False
        slot.start_at = time.monotonic() + delay_s

    def _refuse(self, reason: str) -> None:
        """End the service, unless it has been ready."""
        if not self._announced:
            self._refused = self._refused or reason
            self._stopping = True

    def _end(self) -> None:
        """Stop them all: politely, and then not."""
        for slot in self._slots:
            slot.listener.close()  # else connections would wait here when all workers have closed
        processes = [slot.process for slot in self._slots if slot.process]
        for process in processes:
            process.terminate()
        until = time.monotonic() + self._settings.shutdown_timeout_s + STOP_GRACE_S
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                log.error("worker %d did not stop in time", process.pid or 0)
                process.kill()
                process.join()


def work(
    settings: Settings,
    listener: socket.socket,
    startup_pipe: Connection,
    counts: SharedCounts | None,
    slot: int,
    buckets: Buckets | None,
) -> None:
    """A worker's whole life. Sends None when it is ready, or why it cannot be."""
    if sys.platform == "linux":  # if the parent is killed, nobody else would end this one
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = parent_process()
    if parent is None or not parent.is_alive():  # it was killed before it could be asked for that
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, until this one serves
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


def _listeners(settings: Settings) -> list[socket.socket]:
    """A socket for each worker, all on one port; where the kernel does not spread, one for all.

    Raises `OSError` if the port is taken.
    """
    spread = sys.platform == "linux"
    # One that does not share comes first: the port may be another service's, which shares it.
    probe = _listener(settings.host, settings.port, share=False)
    port = probe.getsockname()[1]
    if not spread:
        return [probe] * settings.workers
    probe.close()
    return [_listener(settings.host, port, share=True) for _ in range(settings.workers)]


def _listener(host: str, port: int, *, share: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
