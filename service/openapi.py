"""Pieces of the OpenAPI page that do not follow from the handlers' signatures."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel

from service import schemas
from service.errors import PROBLEM_TYPE
from service.media import IMAGE_READERS, JSON, PNG

Responses = dict[int | str, dict[str, Any]]

SCHEMA_REF: Final = "#/components/schemas/{model}"

BODY_ERRORS: Final = (400, 408, 413, 415)
"""Of routes that read a body."""

WORK_ERRORS: Final = (406, 413, 422, 500, 503, 504)
"""Of routes that need the network."""

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}


def images_request(example: dict[str, Any]) -> dict[str, Any]:
    """A body of images, in each type that can be read."""
    content: dict[str, Any] = dict.fromkeys(IMAGE_READERS, _BINARY)
    content[JSON] = {"schema": schemas.ImagesBody.model_json_schema(), "example": example}
    return {"requestBody": {"required": True, "content": content}}


def latents_request() -> dict[str, Any]:
    """A body of latents, or a wish for draws from the prior."""
    bodies = (schemas.LatentsBody, schemas.PriorBody)
    content = {
        JSON: {
            "schema": {"anyOf": [body.model_json_schema() for body in bodies]},
            "examples": {
                "prior": {"summary": "16 draws", "value": {"n": 16, "seed": 7}},
                "latents": {"summary": "one latent", "value": {"z": [[0.0] * 10]}},
            },
        }
    }
    return {"requestBody": {"required": True, "content": content}}


def answers(
    model: type[BaseModel],
    example: dict[str, Any] | None = None,
    *,
    errors: Sequence[int] = (),
    png: bool = False,
) -> Responses:
    """The answers of a route: `model` as JSON, a PNG where there is one, and the problems."""
    content: dict[str, Any] = {PNG: _BINARY} if png else {}
    content[JSON] = {"example": example} if example else {}
    found: Responses = {200: {"model": model, "content": content}}
    for status in sorted(set(errors)):
        found[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": SCHEMA_REF.format(model="Problem")}}},
        }
    return found
