"""The page at / for browsers, a list of links for other callers, and the page's files."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.page.assets import ENCODINGS, Asset, assets
from service.codecs.accept import negotiate
from service.codecs.registry import JSON
from service.errors import NotAcceptableError
from service.http.prefix import prefix_of
from service.http.problems import no_such_path
from service.request import RequestContext

HTML: Final = "text/html"

FILES: Final = "page"
"""Where the page's files are, beside the page."""

INDEX: Final = "index.html"

ROOT_MARK: Final = b"{root}"
"""In the page, the address of the service."""

FILES_MARK: Final = b"{files}"
"""In the page, the address of its files."""

MODULES_MARK: Final = b"{modules}"
"""In the page, links to its modules, so that a browser need not read one to find the next."""

POLICY: Final = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Scripts, styles and connections from here only, and none of them inline."""

FOREVER: Final = "public, max-age=31536000, immutable"
"""Of files whose address has their hash."""

LINKS: Final = {
    "docs": "/docs",
    "openapi": "/openapi.json",
    "anomaly-score": "/anomaly-score",
    "encode": "/encode",
    "decode": "/decode",
    "reconstruct": "/reconstruct",
    "preprocess": "/preprocess",
    "sample": "/sample",
    "model": "/model",
    "model-calibration": "/model/calibration",
    "model-latents": "/model/latents",
    "model-card": "/model/card",
    "open-inference-protocol": "/v2",
    "live": "/livez",
    "ready": "/readyz",
    "metrics": "/metrics",
    "recent": "/recent",
    "settings": "/settings",
}
"""What callers other than browsers get at /."""


def add_page(app: FastAPI, *, has_page: bool) -> None:
    """Add the route `/`, and with `has_page` the page that it offers to browsers."""

    async def root(request: Request) -> Response:
        offered = (JSON, HTML) if has_page else (JSON,)
        try:
            accepted = negotiate(RequestContext.of(request).headers.get("accept"), offered)
        except NotAcceptableError:
            accepted = JSON  # to whoever asks for something else, as links are all there is
        prefix = prefix_of(request.scope)
        if accepted == JSON:
            links = {name: prefix + path for name, path in LINKS.items()}
            return JSONResponse({"title": app.title, "links": links}, headers={"Vary": "Accept"})
        return await _answer(request, _index(prefix), {"Cache-Control": "no-cache"})

    async def file(request: Request) -> Response:
        current = assets()
        asset = current.files.get(request.path_params["name"])
        if asset is None or request.path_params["version"] != current.version:
            raise no_such_path(request.scope)
        return await _answer(request, asset, {"Cache-Control": FOREVER})

    app.add_route("/", root, include_in_schema=False)
    if has_page:
        app.add_route(f"/{FILES}/{{version}}/{{name:path}}", file, include_in_schema=False)


def _index(prefix: str) -> Asset:
    """The page as it is served below a prefix.

    A proxy may remove a prefix that it does not tell, so without one addresses are relative.
    """
    current = assets()
    root = f"{prefix}/" if prefix else "./"
    files = f"{root}{FILES}/{current.version}"
    modules = "\n".join(
        f'<link rel="modulepreload" href="{files}/{name}">'
        for name in current.files
        if name.endswith(".js")
    )
    page = current.files[INDEX].content
    for mark, text in ((ROOT_MARK, root), (FILES_MARK, files), (MODULES_MARK, modules)):
        page = page.replace(mark, text.encode())
    return Asset(page, current.files[INDEX].media_type)


async def _answer(request: Request, asset: Asset, headers: dict[str, str]) -> Response:
    """A file, compressed if the caller takes that; 304 if the caller has it."""
    asked = RequestContext.of(request).headers
    accepted = {part.strip() for part in asked.get("accept-encoding", "").split(",")}
    encoding = next((name for name in ENCODINGS if name in accepted), None)
    etag = asset.etag(encoding)
    headers |= {"ETag": etag, "Vary": "Accept, Accept-Encoding"}
    if etag in asked.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if asset.media_type.startswith(HTML):
        headers["Content-Security-Policy"] = POLICY
    content = asset.content
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        content = await asyncio.to_thread(asset.encoded, encoding)
    return Response(content, headers=headers, media_type=asset.media_type)
