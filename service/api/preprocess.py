"""The route that shows images as the network gets them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import schemas
from service.api.images import (
    check_picture,
    images_result,
    negotiated,
    read_request_images,
    write_result,
)
from service.api.openapi import BODY_ERRORS, responses
from service.api.state import Service
from service.codecs import registry
from service.codecs.arrays import unit_pixels
from service.codecs.offload import in_thread
from service.codecs.options import FileReport
from service.http.parameters import refuse_repeated
from service.request import RequestContext

FILES_HEADER: Final = "x-image-files"

MAX_HEADER_FILES: Final = 16

MAX_HEADER_BYTES: Final = 2048
"""Of the header with the files. nginx, for one, gives all headers of an answer 4 kB."""

router = APIRouter(dependencies=[Depends(refuse_repeated)])


@router.post(
    "/preprocess",
    tags=["images"],
    summary="Images as the network gets them",
    responses=responses(
        schemas.PreprocessAnswer,
        registry.IMAGE_RESPONSE_TYPES,
        errors=(*BODY_ERRORS, 406, 422, 503, 504),
    ),
)
async def preprocess(
    request: Request, query: Annotated[schemas.PreprocessQuery, Query()]
) -> Response:
    """The images as they would be encoded, and what was done to each image file. The network does
    not run."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = negotiated(request, registry.IMAGE_RESPONSE_TYPES)
    files: dict[int, FileReport] = {}
    pixels, warnings = await read_request_images(request, query, files)
    context.images = len(pixels)
    check_picture(service, accepted, len(pixels), query.scale)
    context.charge()
    if pixels.size > registry.INLINE_BINARY_NUMBERS:
        numbers = await in_thread(
            service.writers, context.deadline, registry.NOT_WRITTEN, unit_pixels, pixels
        )
    else:
        numbers = unit_pixels(pixels)
    context.reserve_answer(numbers.nbytes)
    images = numbers.reshape(-1, *service.inference.engine.bundle.config.image_shape)
    reports = [files.get(index) for index in range(len(images))] if files else None
    result = images_result(service, images, query, {"files": reports})
    response = await write_result(request, accepted, result._replace(warnings=warnings))
    if reports is not None and accepted != registry.JSON:
        response.headers[FILES_HEADER] = _as_header(reports)
    return response


def _as_header(reports: Sequence[FileReport | None]) -> str:
    """The first reports as a JSON list in ASCII, as headers have to be."""
    texts: list[str] = []
    left = MAX_HEADER_BYTES
    for report in reports[:MAX_HEADER_FILES]:
        text = json.dumps(report)
        left -= len(text) + len(", ")
        if left < 0:
            break
        texts.append(text)
    return f"[{', '.join(texts)}]"
