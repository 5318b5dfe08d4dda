"""`python -m service.healthcheck`: exit status 0 if the service on this machine is ready.

Made for a container's HEALTHCHECK, where there is no curl. Reads VAE_HOST, VAE_PORT and
VAE_TLS_CERT_FILE, as the service does.
"""

from __future__ import annotations

import argparse
import ssl
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final

from pydantic import ValidationError

from service.settings import Settings, explain

TIMEOUT_S: Final = 4
"""Less than the HEALTHCHECK's own timeout, so that the reason is still printed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Ask `/readyz`. Returns 0 if ready; otherwise 1, with the reason on stderr."""
    argparse.ArgumentParser(
        prog="python -m service.healthcheck",
        description="Check whether the service on this machine is ready: exit status 0 if it is, "
        "1 and the reason on stderr if it is not. The address comes from the service's own "
        "settings, VAE_HOST, VAE_PORT and VAE_TLS_CERT_FILE.",
    ).parse_args(argv)
    try:
        settings = Settings()
    except ValidationError as error:
        print(explain(error), file=sys.stderr)
        return 1
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - it listens on all
    connection = HTTPConnection(host, settings.port, timeout=TIMEOUT_S)
    if settings.tls_cert_file is not None:
        # The certificate names the machine as others know it, not the loopback address.
        unverified = ssl._create_unverified_context()  # noqa: S323 - it asks its own machine
        connection = HTTPSConnection(host, settings.port, timeout=TIMEOUT_S, context=unverified)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        print(f"no answer: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if answer.status != 200:
        print(f"{answer.status}: {text}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
