"""One serving process: uvicorn with the app."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.datastructures import State

from model.bundle.checks import BundleError
from model.engine.device import DeviceError
from service.access.rates import Buckets
from service.app import create_app
from service.server.connections import Connections
from service.server.http_protocol import HttpProtocol
from service.server.listeners import drain_accept_queue, stop_new_connections
from service.settings import Settings

log = logging.getLogger("service")

SWITCH_INTERVAL_S: Final = 0.0005
"""The interpreter's thread switch interval. At Python's default of 5 ms the inference thread
starves the event loop, which then cannot refuse requests in time under overload."""

MMAP_THRESHOLD_BYTES: Final = 8 << 20
"""Allocations from this size on are mapped, and returned to the kernel when they are freed. Left
alone, glibc raises the threshold to the largest block freed so far, up to 32 MiB, and a body that
grows on the heap leaves a hole of its size there."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's <malloc.h>."""

RESERVED_FILES: Final = 128
"""File descriptors kept free for everything but open connections, including closing ones."""

MIN_CONNECTIONS: Final = 16
"""Lower bound, however few files the system allows."""

IDLE_GRACE_S: Final = 0.5
"""How long idle connections stay open after the signal. A request may already be on its way, and
would be lost if they were closed at once."""

LAST_GRACE_S: Final = 0.25
"""The same for the last connections, from the time when the listeners are closed."""

POLL_INTERVAL_S: Final = 0.02
"""How often to check for idle connections."""

EXIT_BATCH_HUNG: Final = 1
"""Exit status if a batch did not finish."""


def serve(
    settings: Settings,
    listener: socket.socket | None = None,
    on_ready: Callable[[], object] = lambda: None,
    buckets: Buckets | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, on `listener` or at the address in the settings.

    Calls `on_ready` once requests are accepted. Raises `BundleError`, `DeviceError` or `KeysError`
    with a one-line message if it cannot start, and `SystemExit(0)` after a signal to stop.
    """
    app = create_app(settings, buckets)
    engine = app.state.service.inference.engine
    log.info(
        "bundle %s, version %s, is in memory on %s, computed by %s",
        engine.bundle.name,
        engine.bundle.version,
        engine.device,
        engine.runtime,
    )
    # Exit with status 0 when stopped: before uvicorn installs its own handlers, and at the end,
    # when it restores these and raises the signal again.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until a bundle can be reloaded
    # Exclude all existing objects from garbage collection: traversing torch's would delay every
    # request by 44 ms.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _return_large_blocks()
    connections = Connections(
        _limited_by_open_files(settings), app.state.service.metrics, app.state.budget
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        proxy_headers=False,  # nothing here needs the client's address
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        ws="none",
        http=partial(  # type: ignore[arg-type] # uvicorn only calls it
            HttpProtocol, connections=connections, refuse=app.refuse, direct=app.direct
        ),
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
    )
    server = _Server(config, app.state, connections, on_ready, is_worker=listener is not None)
    try:
        server.run(None if listener is None else [listener])
    finally:
        if not app.state.service.inference.close(timeout_s=0):
            # The inference thread hangs, and Python would wait for it.
            logging.shutdown()
            os._exit(EXIT_BATCH_HUNG)


def _limited_by_open_files(settings: Settings) -> Settings:
    """Settings with `max_connections` lowered to what the limit on open files allows.

    Beyond that limit clients, even those of /livez, would be reset without a line in the log.
    """
    if sys.platform == "win32":
        return settings
    import resource

    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # the hard limit may exceed what the kernel grants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    max_connections = max(MIN_CONNECTIONS, limit - RESERVED_FILES)
    if limit == resource.RLIM_INFINITY or max_connections >= settings.max_connections:
        return settings
    log.warning(
        "max_connections (VAE_MAX_CONNECTIONS) is %d, but this process may open only %d files: it "
        "accepts %d connections; raise the limit (ulimit -n) or lower the setting",
        *(settings.max_connections, limit, max_connections),
    )
    return settings.model_copy(update={"max_connections": max_connections})


def _return_large_blocks() -> None:
    """Make malloc return large blocks to the kernel as soon as they are freed, if it is glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD_BYTES)


class _Server(uvicorn.Server):
    """uvicorn's server. Also reports that it is ready, reloads the bundle on SIGHUP, and stops
    without losing requests."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: State,
        connections: Connections,
        on_ready: Callable[[], object],
        *,
        is_worker: bool,
    ) -> None:
        super().__init__(config)
        self._state = state
        self._connections = connections
        self._on_ready = on_ready
        self._is_worker = is_worker
        self._tasks: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        if self.config.ssl is not None:  # uvicorn leaves asyncio's default of 60 s
            listen = partial(loop.create_server, ssl_handshake_timeout=self._handshake_s)
            loop.create_server = listen  # type: ignore[method-assign] # uvicorn has no setting
        await super().startup(sockets)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._start_task(self._reload()))
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT. The first begins the shutdown, a second ends the process."""
        if sig == signal.SIGINT and self._is_worker:
            return  # the parent handles Ctrl-C, and sends SIGTERM
        if self.should_exit:
            log.warning("a second signal: ending now")
            logging.shutdown()
            os._exit(128 + sig)
        self._state.service.health.stopping = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, answer all requests that have arrived, and close."""
        clock = asyncio.get_running_loop().time
        began = clock()
        self._connections.close_after_answers()
        await asyncio.sleep(self._state.service.settings.shutdown_delay_s)
        listeners = [sock.fileno() for server in self.servers for sock in server.sockets]
        for listener in listeners:
            stop_new_connections(listener)
        await asyncio.sleep(POLL_INTERVAL_S)  # for TCP handshakes that have begun
        for listener in listeners:
            drain_accept_queue(
                listener, lambda accepted: self._start_task(self._serve_accepted(accepted))
            )
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        deadline = max(began + IDLE_GRACE_S, clock() + LAST_GRACE_S)
        while clock() < deadline:
            await asyncio.sleep(POLL_INTERVAL_S)
            if not self._connections.has_idle and self.config.ssl is None:
                break  # with TLS, more handshakes may be under way unseen
        await super().shutdown()

    async def _reload(self) -> None:
        try:
            await self._state.service.reload()
        except (BundleError, DeviceError) as error:
            log.error("reload failed, the bundle in memory stays: %s", error)

    @property
    def _handshake_s(self) -> float:
        seconds: float = self._state.service.settings.header_timeout_s
        return seconds

    async def _serve_accepted(self, accepted: socket.socket) -> None:
        """Serve a connection from a listener's accept queue."""
        config = self.config

        def protocol() -> asyncio.Protocol:
            http_protocol: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn calls it
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return http_protocol

        with suppress(OSError):  # the client has disconnected
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                accepted,
                ssl=config.ssl,
                ssl_handshake_timeout=None if config.ssl is None else self._handshake_s,
            )

    def _start_task(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop holds only a weak reference
        task.add_done_callback(self._tasks.discard)
