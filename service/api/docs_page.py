"""Headers that keep a browser from doing with our pages what they do not do themselves."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

INLINE: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
"""A script that stands in the page. Those of files have `src`."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'{inline}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Swagger UI's files, its requests to this service, and its styles and icons, which it writes into
the page. Its script there is named by its hash, so that no other runs."""

NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")

HEADERS: Final = (
    NO_SNIFFING,
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class PageHeaders:
    """Adds them to HTML, which is to be in one piece, and says of scripts and styles that they are
    what they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        start: Message | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                if kind.startswith(b"text/html"):
                    start = message  # its policy follows from its body
                    return
                if kind.startswith((b"text/css", b"text/javascript", b"application/javascript")):
                    message["headers"] = [*message["headers"], NO_SNIFFING]
            elif start is not None:
                policy = policy_of(message.get("body", b""))
                more = (*HEADERS, (b"content-security-policy", policy))
                start["headers"] = [*start["headers"], *more]
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, send_with_headers)


def policy_of(html: bytes) -> bytes:
    """The Content-Security-Policy for a page."""
    hashes = [b64encode(sha256(script).digest()).decode() for script in INLINE.findall(html)]
    return POLICY.format(inline="".join(f" 'sha256-{found}'" for found in hashes)).encode("ascii")
