"""Command line: `python -m service`."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service.access.keys import KeysError
from service.access.policy import Access
from service.server.certificate import CertificateError, check_certificate
from service.server.supervisor import Supervisor
from service.settings import Settings
from service.telemetry.log_writer import open_standard_streams
from service.telemetry.request_log import set_up_logging

WRONG_SETTING = 2
"""Exit status for a setting or a bundle that cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the exit status: 0, or 2 for a wrong setting."""
    open_standard_streams()
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
    try:
        check_certificate(settings)
        access = Access(settings)
    except (CertificateError, KeysError) as error:
        return _refuse(str(error))
    set_up_logging(settings.log_level, settings.log_format)
    if settings.workers > 1:
        try:
            workers = Supervisor(settings, access.buckets)
        except OSError as error:
            return _refuse(f"port (VAE_PORT) is {settings.port}: {error.strerror}")
        refused = workers.run()
        return 0 if refused is None else _refuse(refused)
    # Not before it is needed: a parent of workers has no use for torch.
    from model.bundle.bundle import BundleError
    from model.engine.device import DeviceError
    from service.server.server import serve

    try:
        serve(settings, buckets=access.buckets)
    except (BundleError, DeviceError, KeysError) as error:
        return _refuse(str(error))
    return 0


def _refuse(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return WRONG_SETTING


def _explain(item: object) -> str:
    """`port (VAE_PORT) is 'x': input should be a valid integer`."""
    assert isinstance(item, dict)  # noqa: S101 - for mypy: pydantic's own type is a TypedDict
    message = item["msg"].removeprefix("Value error, ")
    reason: str = message[:1].lower() + message[1:]
    if not item["loc"]:
        return reason
    name = str(item["loc"][0])
    return f"{name} (VAE_{name.upper()}) is {item['input']!r}: {reason}"


if __name__ == "__main__":
    sys.exit(main())
