"""Command line: `python -m service`."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from model.bundle import BundleError
from model.device import DeviceError
from service.app import create_app
from service.settings import Settings

log = logging.getLogger("service")

WRONG_SETTING = 2
"""Exit status for a setting or a bundle that cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the exit status: 0, or 2 for a wrong setting."""
    try:
        settings = CliApp.run(Settings, cli_args=list(sys.argv[1:] if argv is None else argv))
    except ValidationError as error:
        return _refuse("; ".join(_explain(item) for item in error.errors()))
    except SettingsError as error:
        return _refuse(str(error))
    try:
        socket.getaddrinfo(settings.host, settings.port)
    except OSError as error:
        return _refuse(f"host (VAE_HOST) is {settings.host!r}: {error.strerror}")
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    for name in ("asyncio", "PIL"):
        logging.getLogger(name).setLevel("WARNING")  # their debug lines are not about requests
    try:
        app = create_app(settings)
    except (BundleError, DeviceError) as error:
        return _refuse(str(error))
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
    uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
            ws="none",
        )
    ).run()
    return 0


def _refuse(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return WRONG_SETTING


def _explain(item: object) -> str:
    """`port (VAE_PORT) is 'x': input should be a valid integer`."""
    assert isinstance(item, dict)  # noqa: S101 - for mypy: pydantic's own type is a TypedDict
    reason: str = item["msg"][:1].lower() + item["msg"][1:]
    if not item["loc"]:
        return reason.removeprefix("value error, ").removeprefix("Value error, ")
    name = str(item["loc"][0])
    return f"{name} (VAE_{name.upper()}) is {item['input']!r}: {reason}"


if __name__ == "__main__":
    sys.exit(main())
