"""The service's address: checked when a client is made, and named when it does not answer."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.request import getproxies, proxy_bypass

import httpx

RUNNING: Final = "is the service running there? `vae serve` starts one at http://localhost:8000"

MAX_PORT: Final = 65_535

SHAPE_OF_ADDRESS: Final = "expected an address such as http://localhost:8000"


def check_address(url: str) -> str:
    """The address without user name, password and trailing slash, as messages name it.

    Raises `ValueError` for what is not the address of a service.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(f"url is {url!r}: {error}; {SHAPE_OF_ADDRESS}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"url is {url!r}, {SHAPE_OF_ADDRESS}")
    if parsed.port is not None and parsed.port > MAX_PORT:
        raise ValueError(f"url is {url!r}, whose port is > {MAX_PORT}")
    if parsed.query or parsed.fragment:
        raise ValueError(f"url is {url!r}, which has a query; {SHAPE_OF_ADDRESS}")
    return str(parsed.copy_with(userinfo=b"")).rstrip("/")


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that carries the key; none for an empty key, which is as good as no key.

    Raises `ValueError`, without the key, if no header can hold it.
    """
    key = (api_key or "").strip()  # files and shells add a line break
    if not key:
        return {}
    if not key.isascii() or not key.isprintable():
        raise ValueError("the API key has characters that no HTTP header can carry")
    return {"Authorization": f"Bearer {key}"}


def why_unreachable(address: str, path: str, error: httpx.TransportError) -> str:
    """One line: which address gave no answer, why, and what to check."""
    return f"{address}{path}: {_kind(error)} ({_reason(error)}); {_what_to_check(address, error)}"


def _reason(error: BaseException) -> str:
    """The words of the operating system if there are any: asyncio's are "All connection attempts
    failed"."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            errno = cause.errno or 0  # negative: getaddrinfo's own
            return os.strerror(errno) if errno > 0 else cause.strerror
    return str(error) or type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kind(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        is_connect = isinstance(error, httpx.ConnectTimeout)
        return "no connection in time" if is_connect else "no response in time"
    if is_refusal(error):
        return "no connection"
    return "the connection broke"


def is_refusal(error: BaseException | None) -> bool:
    """Whether no connection could be made, as will be so for other requests too."""
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)


def _what_to_check(address: str, error: httpx.TransportError) -> str:
    text = str(error)
    if isinstance(error, httpx.ProxyError) or (is_refusal(error) and _has_proxy(address)):
        return (
            "requests go through the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names; "
            "NO_PROXY lists hosts to reach without it"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "the service's certificate is not trusted here: SSL_CERT_FILE names a file with the "
            "certificate that signed it"
        )
    if "[SSL" in text or any(isinstance(cause, ssl.SSLError) for cause in _chain(error)):
        return "does it speak TLS there? Try http:// for https://"
    if any(said in text for said in ("Name or service", "name resolution", "nodename", "getaddr")):
        return "is the host's name right?"
    if isinstance(error, httpx.TimeoutException):
        if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
            return "is it the right host, and does a firewall let this port through?"
        return "a longer timeout_s gives it more time"
    if isinstance(error, httpx.RemoteProtocolError) and address.startswith("http://"):
        return "if the service has a certificate, its address starts with https://"
    return RUNNING


def _has_proxy(address: str) -> bool:
    """Whether the environment says that requests to this address go through a proxy."""
    url = httpx.URL(address)
    proxies = getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all")) and not proxy_bypass(url.host)


def why_not_a_problem(where: str, status: int, headers: Mapping[str, Any]) -> str:
    """What a refusal means that is not a problem of this service's: another server's, or a
    proxy's."""
    if location := headers.get("Location"):
        return f"{where} redirects to {location}: use that address"
    if status in {502, 503, 504}:
        return f"{where} was answered by a proxy, which got no answer from the service"
    if status == 413:
        return f"{where} was refused by a proxy, whose limit on bodies is smaller than this one"
    return f"{where} was not answered by this service: is the address right?"
