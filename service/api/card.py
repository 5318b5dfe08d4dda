"""The routes for the bundle's card and its plots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter
from fastapi import Path as PathParameter
from starlette.requests import Request
from starlette.responses import Response

from model.bundle.bundle import find_bundle
from model.bundle.card_files import read_card, read_plot, stored_version
from model.bundle.checks import BundleError
from service.api.openapi import BINARY, HEADERS, problems
from service.api.state import Service
from service.codecs.registry import PNG
from service.errors import BundleRefusedError, NotFoundError

MARKDOWN: Final = "text/markdown"

NOT_SNIFFED: Final = {"x-content-type-options": "nosniff"}
"""The files may be anyone's: no browser is to take them for anything else."""

router = APIRouter()


def _answers(media_type: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": schema}}
    return {200: {"content": content, "headers": HEADERS}} | problems([404, 409])


@router.get(
    "/model/card",
    tags=["service"],
    summary="The bundle's card",
    response_class=Response,
    responses=_answers(MARKDOWN, {"type": "string"}),
)
async def card(request: Request) -> Response:
    """What the bundle is, what it was trained on and how good it is, in Markdown. Its pictures are
    below `/model/plots/`, as its own links say. Read from disk: if another version of the bundle
    is there than in memory, the answer is 409."""
    text = await asyncio.to_thread(_read, Service.of(request), read_card)
    if text is None:
        raise NotFoundError("this bundle has no card: its directory has no README.md")
    return Response(text, media_type=MARKDOWN, headers=NOT_SNIFFED)


@router.get(
    "/model/plots/{name}",
    tags=["service"],
    summary="A plot of the bundle's card",
    response_class=Response,
    responses=_answers(PNG, BINARY),
)
async def plot(
    request: Request,
    name: Annotated[str, PathParameter(description="as in the card, such as samples.png")],
) -> Response:
    """A picture that the card shows. Read from disk, as the card."""
    picture = await asyncio.to_thread(
        _read, Service.of(request), lambda directory: read_plot(directory, name)
    )
    if picture is None:
        raise NotFoundError(f"this bundle has no plot {name[:64]!r}; its card shows those it has")
    return Response(picture, media_type=PNG, headers=NOT_SNIFFED)


def _read(service: Service, read: Callable[[Path], bytes | None]) -> bytes | None:
    """What `read` finds in the directory of the bundle that is in memory.

    Raises `BundleRefusedError` if that bundle is not there any more.
    """
    try:
        directory = find_bundle(service.settings.bundle)
    except BundleError:
        raise BundleRefusedError("the bundle in memory is no longer on disk") from None
    found = stored_version(directory)
    if found is None:
        raise BundleRefusedError("the bundle on disk has no config.json that can be read")
    if found != service.version:
        raise BundleRefusedError(
            f"the bundle on disk has version {found}, and the one in memory {service.version}: "
            "POST /model/reload, or SIGHUP, loads it"
        )
    return read(directory)
