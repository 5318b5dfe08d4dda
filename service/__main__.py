"""Command line: `python -m service`, or `vae serve`."""

from __future__ import annotations

import argparse
import inspect
import logging
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from service.access.keys import KeysError
from service.access.policy import Access
from service.server.certificate import CertificateError, check_certificate
from service.server.preload import preload
from service.server.supervisor import Supervisor
from service.settings import Settings
from service.telemetry.log_writer import open_standard_streams
from service.telemetry.request_log import set_up_logging

log = logging.getLogger("service")

WRONG_SETTING: Final = 2
"""Exit status for a setting or a bundle that cannot be used."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C before the service was ready, as in shells: 128 + SIGINT."""

METAVARS: Final = {
    "bytes": "BYTES",
    "file": "FILE",
    "keys": "KEYS",
    "origins": "ORIGINS",
    "pixels": "PIXELS",
    "port": "PORT",
    "s": "SECONDS",
}
"""What the help calls a value, by the last word of its setting's name."""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m service") -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the exit status.

    That is 0 after a stop, 2 for a setting or a bundle that cannot be used, and 130 after Ctrl-C
    before the service was ready. `prog` is the command's name in its help.
    """
    open_standard_streams()
    try:
        return _serve(sys.argv[1:] if argv is None else argv, prog)
    except KeyboardInterrupt:
        return INTERRUPTED


def settings_source(prog: str) -> CliSettingsSource[argparse.ArgumentParser]:
    """The flags, one for each setting; its `root_parser` has the help."""
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        Settings, cli_prog_name=prog
    )
    parser = source.root_parser
    parser.usage = "%(prog)s [--FLAG VALUE ...]"  # the list of 29 flags is no help
    parser.description = inspect.cleandoc(Settings.__doc__ or "")
    for action in parser._actions:
        field = Settings.model_fields.get(action.dest)
        if field is None:
            continue  # --help
        if field.default is None:  # its description says what happens when it is unset
            action.help = (action.help or "").removesuffix(" (default: null)")
        action.metavar = _metavar(action.dest, field.annotation, action.metavar)
    return source


def _metavar(name: str, annotation: Any, metavar: Any) -> str:
    """`SECONDS` instead of pydantic's `float`, `N` instead of `{int,null}`."""
    if known := METAVARS.get(name.rpartition("_")[2]):
        return known
    if annotation is bool:
        return "{true,false}"
    if annotation in (int, int | None):
        return "N"
    choices = str(metavar)
    return choices if choices.startswith("{") and "null" not in choices else name.upper()


def _serve(argv: Sequence[str], prog: str) -> int:
    try:
        settings = CliApp.run(
            Settings, cli_args=list(argv), cli_settings_source=settings_source(prog)
        )
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
    # Imported here because the supervisor above does not need torch.
    preload()
    from model.bundle.checks import BundleError
    from model.engine.device import DeviceError
    from service.server.server import serve

    try:
        serve(settings, on_ready=partial(_announce_docs, settings), buckets=access.buckets)
    except (BundleError, DeviceError, KeysError) as error:
        return _refuse(str(error))
    return 0


def _announce_docs(settings: Settings) -> None:
    """Log the address to open in a browser, once requests are answered."""
    if settings.port == 0:
        return  # only the line "running on" has the port that the system chose
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - any address; a browser needs one
    log.info("open %s/docs in a browser", settings.url(host, settings.port))


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
