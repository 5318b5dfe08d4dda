"""Command line: `python -m service`, or `vae serve`."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from service import environment
from service.access.keys import KeysError
from service.access.policy import Access
from service.server.certificate import CertificateError, check_certificate
from service.server.preload import preload
from service.server.supervisor import Supervisor
from service.settings import Settings, explain
from service.telemetry.log_writer import open_standard_streams
from service.telemetry.request_log import set_up_logging

log = logging.getLogger("service")

WRONG_SETTING: Final = 2
"""Exit status for a setting or a bundle that cannot be used."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C before the service was ready, as in shells: 128 + SIGINT."""

NULL_IS_TEXT: Final = "\0"
"""What pydantic would take for null in a flag: no argument can hold it. `Settings` reads `null`."""

METAVARS: Final = {
    "bytes": "BYTES",
    "file": "FILE",
    "path": "PATH",
    "proxies": "NETWORKS",
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
        Settings, cli_prog_name=prog, cli_parse_none_str=NULL_IS_TEXT
    )
    parser = source.root_parser
    parser.usage = "%(prog)s [--FLAG VALUE ...]"  # a list of all flags is no help
    parser.description = inspect.cleandoc(Settings.__doc__ or "")
    shown = f"vae-service {version('vae-service')}"
    parser.add_argument("--version", action="version", version=shown)
    for action in parser._actions:
        field = Settings.model_fields.get(action.dest)
        if field is None:
            continue  # --help, --version
        # Where there is no default, the description says what unset means.
        text = (action.help or "").removesuffix(f" (default: {NULL_IS_TEXT})")
        action.help = text.replace("(default: False)", "(default: false)")
        action.metavar = _metavar(action.dest, field.annotation, action.metavar)
        if field.annotation is bool:  # --allow-anonymous alone means true
            action.nargs, action.const = "?", "true"
    return source


def _metavar(name: str, annotation: Any, metavar: Any) -> str:
    """`SECONDS` instead of pydantic's `float`, `N` instead of a list of types."""
    if known := METAVARS.get(name.rpartition("_")[2]):
        return known
    if annotation is bool:
        return "{true,false}"
    if annotation in (int, int | None):
        return "N"
    choices = str(metavar)
    is_choice = choices.startswith("{") and NULL_IS_TEXT not in choices
    return choices if is_choice else name.upper()


def _serve(argv: Sequence[str], prog: str) -> int:
    if (misspelt := _misspelt_flag(argv)) is not None:
        return _refuse(misspelt)
    try:
        settings = CliApp.run(
            Settings, cli_args=list(argv), cli_settings_source=settings_source(prog)
        )
    except ValidationError as error:
        return _refuse(explain(error), warnings=_warnings())
    except SettingsError as error:
        return _refuse(str(error), warnings=_warnings())
    warnings = _warnings(settings)
    try:
        socket.getaddrinfo(settings.host, settings.port)
    except OSError as error:
        reason = f"host (VAE_HOST) is {settings.host!r}: {error.strerror}"
        if "://" in settings.host or settings.host.count(":") == 1:
            reason += "; it is a name or an address, without a scheme or a port"
        return _refuse(reason, warnings=warnings)
    try:
        check_certificate(settings)
        access = Access(settings)
    except (CertificateError, KeysError) as error:
        return _refuse(str(error), warnings=warnings)
    set_up_logging(settings.log_level, settings.log_format)
    for warning in warnings:
        log.warning("%s", warning)
    if settings.workers > 1:
        try:
            workers = Supervisor(settings, access.buckets)
        except OSError as error:
            return _refuse(f"port (VAE_PORT) is {settings.port}: {error.strerror}")
        refused = workers.run()
        return 0 if refused is None else _refuse(refused)
    try:
        _check_address(settings)
    except OSError as error:
        return _refuse(f"port (VAE_PORT) is {settings.port}: {error.strerror}")
    # Imported here because the supervisor above does not need torch.
    preload()
    from model.bundle.checks import BundleError
    from model.engine.device import DeviceError
    from service.server.server import serve

    try:
        serve(settings, on_ready=partial(_announce_page, settings), buckets=access.buckets)
    except (BundleError, DeviceError, KeysError) as error:
        return _refuse(str(error))
    return 0


def _check_address(settings: Settings) -> None:
    """Raise `OSError` if the port is taken or privileged, before a network is loaded for it."""
    addresses = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # as asyncio does
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)


def _announce_page(settings: Settings) -> None:
    """Log the address to open in a browser, once requests are answered."""
    if settings.port == 0:
        return  # only the line "running on" has the port that the system chose
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - any address; a browser needs one
    path = "" if settings.page else "/docs"
    log.info("open %s%s in a browser", settings.url(host, settings.port), path)


def _misspelt_flag(argv: Sequence[str]) -> str | None:
    """Why a flag is unknown, if one is and there are flags like it; argparse names no others."""
    known = [_flag(name) for name in (*Settings.model_fields, "help", "version")]
    for word in argv:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            name = flag.removeprefix("--").replace("-", "_").lower()
            if close := environment.nearest(name, Settings.model_fields):
                return f"{flag} is not a flag; did you mean {' or '.join(map(_flag, close))}?"
    return None


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _warnings(settings: Settings | None = None) -> list[str]:
    """What to say about the environment; without `settings`, as if there were API keys."""
    has_keys = settings is None or bool(settings.api_keys or settings.api_keys_file)
    return list(environment.warnings(os.environ, Settings.model_fields, has_keys=has_keys))


def _refuse(reason: str, warnings: Sequence[str] = ()) -> int:
    """Print the reason in one line, and before it any warnings that are not in the log."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"error: {reason}", file=sys.stderr)
    return WRONG_SETTING


if __name__ == "__main__":
    sys.exit(main())
