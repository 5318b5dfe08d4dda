"""Several processes that share a port, each with its own copy of the weights.

Each has a socket of its own on the port, made here and kept open here: the kernel spreads new
connections over them (SO_REUSEPORT), and those that wait at the socket of a worker that died are
taken by the one that comes in its place.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from prometheus_client import multiprocess

from service.settings import Settings

log = logging.getLogger("service")

SPAWN: Final = get_context("spawn")
"""A fork would copy the locks of threads that it does not copy."""

BACKLOG: Final = 2048
"""Connections that may wait at a socket; uvicorn's own figure."""

MIN_LIFE_S: Final = 1.0
"""A worker that lived shorter is replaced after this time: one that cannot start would otherwise be
started all the time."""

GRACE_S: Final = 5.0
"""What workers get on top of `shutdown_timeout_s` before they are killed."""

METRICS_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Tells prometheus_client to count in files here, which each worker adds up when it is asked."""

PR_SET_PDEATHSIG: Final = 1
"""From Linux's <sys/prctl.h>."""


@dataclass
class _Worker:
    """A process, and the socket that it and its successors listen on."""

    listener: socket.socket
    process: SpawnProcess
    news: Connection
    started: float
    ready: bool = False


class Workers:
    """Starts as many processes as `settings.workers`, and another one for each that dies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = False
        self._refused: str | None = None
        self._announced = False

    def run(self) -> str | None:
        """Serve until SIGTERM or Ctrl-C. Returns why no worker could start, or None.

        Raises `OSError` if the port is taken.
        """
        listeners = _listeners(self._settings)
        # A signal only writes to this pair: what it asks for is done where `_watch` waits.
        wake, awake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        with tempfile.TemporaryDirectory(prefix="vae-metrics-") as directory:
            os.environ[METRICS_DIRECTORY] = directory
            workers = [self._start(listener) for listener in listeners]
            try:
                while not self._stopping:
                    self._watch(workers, awake)
            finally:
                self._end(workers)
        return self._refused

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self, listener: socket.socket) -> _Worker:
        news, theirs = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=work, args=(self._settings, listener, theirs))
        process.start()
        theirs.close()
        return _Worker(listener, process, news, time.monotonic())

    def _watch(self, workers: list[_Worker], awake: socket.socket) -> None:
        """Wait until a worker dies or says something, or a signal comes; replace who died."""
        deaths = [worker.process.sentinel for worker in workers]
        news = [worker.news for worker in workers if not worker.ready]
        happened = connection.wait([awake, *deaths, *news])
        for number, worker in enumerate(workers):
            if worker.news in happened:
                self._hear(worker)
            if worker.process.sentinel in happened and not self._stopping:
                workers[number] = self._replace(worker)
        if not self._announced and all(worker.ready for worker in workers):
            self._announced = True
            host, port = workers[0].listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("running on http://%s:%d with %d workers", shown, port, len(workers))

    def _hear(self, worker: _Worker) -> None:
        worker.ready = True  # or at its end: either way there is no more to hear
        try:
            self._refused = worker.news.recv()
        except EOFError:
            return
        if self._refused is not None:
            self._stopping = True  # the next one would say the same

    def _replace(self, worker: _Worker) -> _Worker:
        process = worker.process
        process.join()
        log.error("worker %d died (exit code %d)", process.pid or 0, process.exitcode or 0)
        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        worker.news.close()
        if time.monotonic() - worker.started < MIN_LIFE_S:
            time.sleep(MIN_LIFE_S)
        return self._start(worker.listener)

    def _end(self, workers: list[_Worker]) -> None:
        """Stop them all: politely, and then not."""
        for worker in workers:
            if worker.process.is_alive():
                worker.process.terminate()
        until = time.monotonic() + self._settings.shutdown_timeout_s + GRACE_S
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                log.error("worker %d did not stop in time", worker.process.pid or 0)
                worker.process.kill()
                worker.process.join()
            worker.listener.close()


def work(settings: Settings, listener: socket.socket, news: Connection) -> None:
    """A worker's whole life. Sends None when it is ready, or why it cannot be."""
    if sys.platform == "linux":  # if the parent is killed, nobody else would end this one
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    settings.set_up_logging()
    from model.bundle import BundleError
    from model.device import DeviceError
    from service.serving import serve

    try:
        serve(settings, listener, lambda: news.send(None))
    except (BundleError, DeviceError) as error:
        news.send(str(error))


def _listeners(settings: Settings) -> list[socket.socket]:
    """A socket for each worker, all on one port; where the kernel does not spread, one for all."""
    spread = sys.platform == "linux"
    found: list[socket.socket] = []
    port = settings.port
    for _ in range(settings.workers if spread else 1):
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if spread:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        port = listener.getsockname()[1]
        found.append(listener)
    return found if spread else found * settings.workers
