"""The page at /docs, and security headers for HTML pages and their assets.

All addresses are relative, so that the page also works below the prefix of a reverse proxy.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Final

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.prefix import prefix_of

INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
"""A script inside the page. Scripts loaded from files have a `src` attribute and do not match."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'{inline}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Allows Swagger UI's files, its requests to this service, and the styles and icons that it writes
into the page. Its inline script is allowed by hash, so no other inline script runs."""

NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")

POLICY_HEADER: Final = b"content-security-policy"

HEADERS: Final = (
    NO_SNIFFING,
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

ASSETS: Final = "static-offline-docs"
"""Where the page's files are, beside the page."""


def add_docs(app: FastAPI) -> None:
    """Add the OpenAPI document, and the page that shows it with Swagger UI's files from here."""

    async def openapi(request: Request) -> Response:
        page = app.openapi()
        if prefix := prefix_of(request.scope):
            page = page | {"servers": [{"url": prefix}]}
        return JSONResponse(page)

    async def docs(_: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS}/favicon.png",
        )

    async def oauth2_redirect(_: Request) -> Response:
        return get_swagger_ui_oauth2_redirect_html()

    app.add_route("/openapi.json", openapi, include_in_schema=False)
    app.add_route("/docs", docs, include_in_schema=False)
    app.add_route("/docs/oauth2-redirect", oauth2_redirect, include_in_schema=False)
    files = Path(fastapi_offline.__file__).parent / "static"
    app.mount(f"/{ASSETS}", StaticFiles(directory=files), name=ASSETS)


class PageHeaders:
    """Middleware that adds `HEADERS` and, if there is none yet, a Content-Security-Policy to HTML
    responses, and `X-Content-Type-Options: nosniff` to scripts and style sheets.

    An HTML response must be sent as a single body message: the policy is computed from it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        start: Message | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                media_type = dict(message["headers"]).get(b"content-type", b"")
                if media_type.startswith(b"text/html"):
                    start = message  # held back: the policy depends on the body
                    return
                if media_type.startswith(
                    (b"text/css", b"text/javascript", b"application/javascript")
                ):
                    message["headers"] = [*message["headers"], NO_SNIFFING]
            elif start is not None:
                added = list(HEADERS)
                if all(name != POLICY_HEADER for name, _ in start["headers"]):
                    policy = content_security_policy(message.get("body", b""))
                    added.append((POLICY_HEADER, policy))
                start["headers"] = [*start["headers"], *added]
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, send_with_headers)


def content_security_policy(html: bytes) -> bytes:
    """The Content-Security-Policy for a page, with the hashes of its inline scripts."""
    hashes = [b64encode(sha256(script).digest()).decode() for script in INLINE_SCRIPT.findall(html)]
    return POLICY.format(inline="".join(f" 'sha256-{value}'" for value in hashes)).encode("ascii")
