"""One process that serves: an app, and uvicorn in front of it."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from service.app import create_app
from service.protocol import Protocol
from service.settings import Settings

log = logging.getLogger("service")


def serve(
    settings: Settings,
    listener: socket.socket | None = None,
    on_ready: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C: at the settings' address, or on a socket that is bound.

    Calls `on_ready` when requests are taken. Raises `BundleError` or `DeviceError`, each with a
    message of one line, and `SystemExit(0)` when it was told to stop.
    """
    app = create_app(settings)
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
    # What is there now stays: a collection that walks through all of torch's objects holds every
    # request up for 44 ms.
    gc.collect()
    gc.freeze()
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
            ws="none",
            http=Protocol,
        ),
        on_ready,
    )
    server.run(None if listener is None else [listener])


class _Server(uvicorn.Server):
    """uvicorn's, that tells when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
