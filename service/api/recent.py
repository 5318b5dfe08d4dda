"""The route for the images that were scored last."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from time import sleep
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from service.access.policy import RECENT
from service.api import schemas
from service.api.openapi import responses
from service.api.state import Service
from service.codecs.offload import PAUSE_S, in_thread
from service.codecs.registry import JSON, NOT_WRITTEN
from service.codecs.responses import ChunkedResponse, to_json
from service.errors import NotFoundError
from service.http.parameters import refuse_repeated
from service.inference.recent import RecentImage
from service.request import RequestContext

router = APIRouter(dependencies=[Depends(refuse_repeated)])


@router.get(
    RECENT,
    tags=["service"],
    summary="The images that were scored last",
    responses=responses(schemas.RecentAnswer, [JSON], errors=[404, 422, 504]),
)
async def recent(request: Request, query: Annotated[schemas.RecentQuery, Query()]) -> Response:
    """Thumbnails of the images that this process scored last, the newest last, if
    `VAE_RECENT_IMAGES` lets them be kept. Each worker has its own."""
    service, context = Service.of(request), RequestContext.of(request)
    kept = service.recent
    if kept is None:
        raise NotFoundError(
            "scored images are not kept here: VAE_RECENT_IMAGES is 0; set it to the number of "
            "images to keep, up to 1,000"
        )
    about = {"capacity": kept.capacity, "process": kept.process}
    pieces = await in_thread(
        service.writers, context.deadline, NOT_WRITTEN, _pieces, about, kept.after(query.after)
    )
    return ChunkedResponse(pieces, JSON, {"cache-control": "no-store"})


def _pieces(about: dict[str, int | str], images: Sequence[RecentImage]) -> list[bytes]:
    """The answer in pieces, one for each image. To be run in a thread: encoding a thousand PNGs
    takes a good part of a second."""
    pieces = [to_json(about)[:-1] + b',"images":[']
    for image in images:
        fields = image._asdict()
        fields["thumbnail"] = _png(fields.pop("pixels"))
        pieces.append((b"," if len(pieces) > 1 else b"") + to_json(fields))
        sleep(PAUSE_S)
    pieces.append(b"]}")
    return pieces


def _png(pixels: NDArray[np.uint8]) -> str:
    """In base64."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return b64encode(file.getvalue()).decode("ascii")
