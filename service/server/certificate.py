"""Checks the TLS certificate and its key before the service starts."""

from __future__ import annotations

import ssl

from service.settings import Settings


class CertificateError(Exception):
    """The certificate or its key cannot be used. The message is one line."""


def check_certificate(settings: Settings) -> None:
    """Raise `CertificateError` if the certificate files of the settings cannot be used for TLS."""
    cert, key = settings.tls_cert_file, settings.tls_key_file
    if cert is None or key is None:
        return
    for name, path in (("cert", cert), ("key", key)):
        try:
            with open(path, "rb"):  # noqa: PTH123 - as ssl does
                pass
        except OSError as error:
            raise CertificateError(
                f"tls_{name}_file (VAE_TLS_{name.upper()}_FILE) is {path}: {error.strerror}"
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password: without one, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "cannot be read"
        raise CertificateError(
            f"tls_cert_file (VAE_TLS_CERT_FILE) {cert} with tls_key_file (VAE_TLS_KEY_FILE) {key}: "
            f"{str(reason).lower().replace('_', ' ')}"
        ) from error
