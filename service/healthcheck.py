"""`python -m service.healthcheck`: exit status 0 if the service on this machine is ready.

For a container's HEALTHCHECK, where there is no curl. Reads VAE_HOST and VAE_PORT.
"""

from __future__ import annotations

import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from pydantic import ValidationError

from service.settings import Settings

TIMEOUT_S = 4
"""Under the HEALTHCHECK's own limit, so that the reason is told."""


def main() -> int:
    """Ask `/readyz`. Returns 0 for ready; 1, with the reason on stderr, for anything else."""
    try:
        settings = Settings()
    except ValidationError as error:
        print(
            f"{error.error_count()} settings are wrong; python -m service says which",
            file=sys.stderr,
        )
        return 1
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - it listens on all
    connection = HTTPConnection(host, settings.port, timeout=TIMEOUT_S)
    if settings.tls_cert_file is not None:
        # The certificate is for a name that others know this machine by.
        unverified = ssl._create_unverified_context()  # noqa: S323 - it asks itself
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
