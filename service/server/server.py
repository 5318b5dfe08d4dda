"""One process that serves: an app, and uvicorn in front of it."""

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

from model.bundle.bundle import BundleError
from model.engine.device import DeviceError
from service.access.rates import Buckets
from service.app import create_app
from service.server.connections import Connections
from service.server.http_protocol import HttpProtocol
from service.server.listeners import drain_accept_queue, stop_new_connections
from service.settings import Settings

log = logging.getLogger("service")

SWITCH_S: Final = 0.0005
"""How long a thread that wants the interpreter waits before the other is asked to give it: Python's
5 ms are the inference thread's, again and again, while the event loop refuses what is too much."""

OWN_BLOCK_BYTES: Final = 8 << 20
"""Blocks of memory from here on are the kernel's before and after. glibc raises this border to what
was freed before, 32 MiB at most, and a body that grows on its heap leaves a hole of its size."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's, of malloc.h."""

OTHER_FILES: Final = 128
"""Kept of those that may be open, for all but connections and for those that are being closed."""

LEAST_CONNECTIONS: Final = 16
"""However few files may be open."""

IDLE_S: Final = 0.5
"""What idle connections have from the signal on, to be used once more: a request may be on its way,
and would be lost if they were closed at once."""

LAST_S: Final = 0.25
"""What those have that came last, from when nobody listens."""

LOOK_S: Final = 0.02
"""Between looks whether there are idle ones."""

LEFT_BEHIND: Final = 1
"""Exit status when a batch did not end."""


def serve(
    settings: Settings,
    listener: socket.socket | None = None,
    on_ready: Callable[[], object] = lambda: None,
    buckets: Buckets | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C: at the settings' address, or on a socket that is bound.

    Calls `on_ready` when requests are taken. Raises `BundleError`, `DeviceError` or `KeysError`,
    each with a message of one line, and `SystemExit(0)` when it was told to stop.
    """
    app = create_app(settings, buckets)
    engine = app.state.service.inference.engine
    log.info(
        "%s, version %s, is in memory on %s",
        engine.bundle.name,
        engine.bundle.version,
        engine.device,
    )
    # A stop is exit status 0: before uvicorn takes the signals over, and after, when it raises the
    # one that stopped it again for whoever had it before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to load again
    # What is there now stays: a collection that walks through all of torch's objects holds every
    # request up for 44 ms.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    _bound_blocks()
    connections = Connections(
        _limited_by_open_files(settings), app.state.service.metrics, app.state.budget
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        ws="none",
        http=partial(HttpProtocol, connections=connections, refuse=app.refuse),  # type: ignore[arg-type] # it is called only
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
    )
    server = _Server(config, app.state, connections, on_ready, is_worker=listener is not None)
    try:
        server.run(None if listener is None else [listener])
    finally:
        if not app.state.service.inference.close(timeout_s=0):
            # Its thread hangs, and Python would wait for it.
            logging.shutdown()
            os._exit(LEFT_BEHIND)


def _limited_by_open_files(settings: Settings) -> Settings:
    """Settings with no more connections than this process may have files open.

    Past that, callers would be reset without a line in the log, those of /livez too.
    """
    if sys.platform == "win32":
        return settings
    import resource

    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # where the hard one is more than the kernel gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        most = hard
    room = max(LEAST_CONNECTIONS, most - OTHER_FILES)
    if most == resource.RLIM_INFINITY or room >= settings.max_connections:
        return settings
    log.warning(
        "max_connections (VAE_MAX_CONNECTIONS) is %d, but the system lets this process have %d "
        "files open: it takes %d connections",
        *(settings.max_connections, most, room),
    )
    return settings.model_copy(update={"max_connections": room})


def _bound_blocks() -> None:
    """Have large blocks of memory given back at once, where the C library is one that can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, OWN_BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * OWN_BLOCK_BYTES)


class _Server(uvicorn.Server):
    """uvicorn's, that tells when it is ready, loads bundles, and leaves nobody without an answer
    when it stops."""

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
        if self.config.ssl is not None:  # uvicorn leaves it at 60 s
            listen = partial(loop.create_server, ssl_handshake_timeout=self._handshake_s)
            loop.create_server = listen  # type: ignore[method-assign] # there is no setting
        await super().startup(sockets)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._start(self._reload()))
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called at SIGTERM and SIGINT: the first begins the stop, the second is the end."""
        if sig == signal.SIGINT and self._is_worker:
            return  # Ctrl-C is the parent's, which tells
        if self.should_exit:
            log.warning("a second signal: ending now")
            logging.shutdown()
            os._exit(128 + sig)
        self._state.service.health.stopping = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let callers go elsewhere, take no more of them, answer those that are here."""
        clock = asyncio.get_running_loop().time
        began = clock()
        self._connections.close_after_answers()
        await asyncio.sleep(self._state.service.settings.shutdown_delay_s)
        listeners = [one.fileno() for server in self.servers for one in server.sockets]
        for listener in listeners:
            stop_new_connections(listener)
        await asyncio.sleep(LOOK_S)  # for the handshakes that have begun
        for listener in listeners:
            drain_accept_queue(listener, lambda accepted: self._start(self._adopt(accepted)))
        for server in self.servers:
            server.close()
        for own in sockets or []:
            own.close()
        until = max(began + IDLE_S, clock() + LAST_S)
        while clock() < until:
            await asyncio.sleep(LOOK_S)
            if not self._connections.has_idle and self.config.ssl is None:
                break  # of TLS, handshakes may be under way, and nothing tells of them
        await super().shutdown()

    async def _reload(self) -> None:
        try:
            await self._state.service.reload()
        except (BundleError, DeviceError) as error:
            log.error("the bundle in memory stays: %s", error)

    @property
    def _handshake_s(self) -> float:
        seconds: float = self._state.service.settings.header_timeout_s
        return seconds

    async def _adopt(self, accepted: socket.socket) -> None:
        """Serve a connection that was taken off the listener's queue."""
        config = self.config

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn does
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        with suppress(OSError):  # it has gone
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                accepted,
                ssl=config.ssl,
                ssl_handshake_timeout=None if config.ssl is None else self._handshake_s,
            )

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop alone would not keep it
        task.add_done_callback(self._tasks.discard)
