"""The OpenAPI page: what does not follow from the handlers' signatures.

Request bodies are described for the bundle in memory, so that what the page allows is what the
service takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from model.config import VAEConfig
from service.access.policy import INFER, scope_of
from service.api import examples, schemas
from service.codecs.arrays import MAX_LATENT
from service.codecs.registry import FILES, IMAGE_READERS, JSON, LATENT_READERS, MULTIPART, RAW
from service.http.problems import OPEN_INFERENCE, PROBLEM_TYPE

Responses = dict[int | str, dict[str, Any]]
Schema = dict[str, Any]

BODY_ERRORS: Final = (400, 408, 413, 415)
"""Of routes that read a body."""

WORK_ERRORS: Final = (406, 413, 422, 500, 503, 504)
"""Of routes that need the network."""

IMAGE_ROUTES: Final = ("/encode", "/reconstruct", "/anomaly-score")

BINARY: Final[Schema] = {"type": "string", "format": "binary"}

BASE64_FILE: Final[Schema] = {
    "type": "string",
    "contentEncoding": "base64",
    "format": "base64-image",
    "description": "an image file (PNG, JPEG, WebP or BMP)",
}

HEADERS: Final[Schema] = {
    "X-Request-ID": {"description": "the caller's, or a new one", "schema": {"type": "string"}},
    "X-Model-Version": {
        "description": "start of the weights' sha256",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "milliseconds in the queue and in the network: queue;dur=…, infer;dur=…",
        "schema": {"type": "string"},
    },
}
"""Headers of every answer."""

RETRY_AFTER: Final[Schema] = {
    "Retry-After": {
        "description": "seconds until what waits now is done",
        "schema": {"type": "integer"},
    }
}

QUOTA_HEADERS: Final[Schema] = {
    "RateLimit": {
        "description": 'of a key with a rate: "images";r=…;t=…, images left, and seconds until all '
        "are there again",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'of a key with a rate: "images";q=…;w=1;qu="images", images a second',
        "schema": {"type": "string"},
    },
}

ERROR_HEADERS: Final[dict[int, Schema]] = {
    401: {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}},
    429: RETRY_AFTER | QUOTA_HEADERS,
    503: RETRY_AFTER,
}

BEARER: Final = "key"

API_KEY: Final[Schema] = {
    "type": "http",
    "scheme": "bearer",
    "description": "an API key, where the service asks for one",
}

TENSOR_HEADERS: Final[Schema] = {
    "X-Tensor-Shape": {
        "description": "of a raw answer: 4,28,28",
        "schema": {"type": "string"},
    },
    "X-Tensor-Dtype": {"description": "of a raw answer", "schema": {"type": "string"}},
}

PROBLEMS: Final[dict[int, str]] = {
    400: "the body is empty",
    401: "this takes an API key that is known here, as Authorization: Bearer KEY",
    403: "this takes an API key with scope infer, prometheus has metrics",
    406: "Accept is 'text/html', this route has application/json",
    408: "the body did not arrive within the request's 30 s",
    409: "bundle 'mine' cannot be used: model.safetensors is damaged: its sha256 is not the one in "
    "config.json",
    413: "10,000 images in one request > maximum 8,192",
    415: "Content-Type is 'text/plain', this route reads application/json",
    422: "images[3] has 1.5 at pixel 17, expected a number in [0, 1]",
    429: "64 images > 10 that are left of this key's 100 a second",
    500: "the service failed; its log has the reason under the request id",
    503: "64 images do not fit: 16384 wait already, the maximum is 16384",
    504: "no answer within the request's 30 s",
}
"""The detail of an example for each status."""

REQUEST_HEADERS: Final[list[Schema]] = [
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "seconds this request may take, if less than the service's own limit",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "example": 5,
    },
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "comes back in the answer, and stands in the log; a new one is made instead "
        "of one that is over 128 characters or not printable ASCII",
        "schema": {"type": "string"},
        "example": "order-4711",
    },
]
"""Headers that routes with work to do read."""


def answers(
    model: type[BaseModel],
    media_types: Sequence[str],
    *,
    errors: Sequence[int] = (),
) -> Responses:
    """The answers of a route: `model` as JSON, the other types, and the problems."""
    content: dict[str, Any] = {kind: {"schema": BINARY} for kind in media_types}
    content[JSON] = {}
    headers = HEADERS | (TENSOR_HEADERS if RAW in media_types else {})
    found: Responses = {200: {"model": model, "content": content, "headers": headers}}
    for status in sorted(set(errors)):
        found[status] = _problem(status)
    return found


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": HEADERS | ERROR_HEADERS.get(status, {}),
        "content": {
            PROBLEM_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": _problem_example(status),
            }
        },
    }


def inlined(model: type[BaseModel]) -> Schema:
    """A model's JSON schema with what it refers to put in its place."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolve(definitions[value["$ref"].rpartition("/")[2]])
        return {key: resolve(item) for key, item in value.items()}

    resolved: Schema = resolve(schema)
    return resolved


def _problem_example(status: int) -> Schema:
    example: Schema = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": PROBLEMS[status],
        "request_id": "d3f25f9972924b3885a69c4c2b5e9063",
    }
    if status == 422:
        example["errors"] = [{"loc": ["body", "images", 3], "msg": PROBLEMS[status]}]
    return example


def openapi_of(
    app: FastAPI, config: VAEConfig, scores: Sequence[str], max_images: int, takes_keys: bool
) -> Callable[[], Schema]:
    """`app.openapi` for a bundle: the page is made when first asked for, then kept."""

    def openapi() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, config, scores, max_images)
            _describe_access(app.openapi_schema, takes_keys)
        return app.openapi_schema

    return openapi


def _describe(app: FastAPI, config: VAEConfig, scores: Sequence[str], max_images: int) -> Schema:
    page = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components = page["components"]["schemas"]
    components["Problem"] = inlined(schemas.Problem)
    paths = page["paths"]
    for path, operations in paths.items():
        if path.startswith(OPEN_INFERENCE):
            for operation in operations.values():
                # FastAPI's guess; a path parameter there is any text, and a wrong one is 404.
                operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        components.pop(unused, None)
    for path in IMAGE_ROUTES:
        paths[path]["post"]["requestBody"] = _images_body(config, max_images)
    paths["/decode"]["post"]["requestBody"] = _latents_body(config, max_images)
    for path, method in [
        *((path, "post") for path in (*IMAGE_ROUTES, "/decode")),
        ("/sample", "get"),
    ]:
        paths[path][method].setdefault("parameters", []).extend(REQUEST_HEADERS)
    for path, example in (("/encode", examples.ENCODE), ("/anomaly-score", examples.SCORE)):
        # Put in here, as FastAPI would drop what is null.
        paths[path]["post"]["responses"]["200"]["content"][JSON]["example"] = example
    for parameter in paths["/anomaly-score"]["post"]["parameters"]:
        if parameter["name"] == "score":
            parameter["schema"] = {"enum": list(scores), "default": scores[0]}
    for parameter in paths["/sample"]["get"]["parameters"]:
        if parameter["name"] == "n":
            parameter["schema"]["maximum"] = max_images
    return page


def _describe_access(page: Schema, takes_keys: bool) -> None:
    """Say where a key is needed, and how one is refused."""
    page["components"]["securitySchemes"] = {BEARER: API_KEY}
    for path, operations in page["paths"].items():
        if (scope := scope_of(path)) is None:
            continue
        for method, operation in operations.items():
            if takes_keys:
                operation["security"] = [{BEARER: []}]
            limited = scope == INFER and (method == "post" or path == "/sample")
            for status in (401, 403, *((429,) if limited else ())):
                operation["responses"][str(status)] = _refusal(status, path)


def _refusal(status: int, path: str) -> Schema:
    answer = _problem(status)
    if path.startswith(OPEN_INFERENCE):
        error = {"$ref": "#/components/schemas/Error"}
        answer["content"] = {JSON: {"schema": error, "example": {"error": PROBLEMS[status]}}}
    return answer


def _images_body(config: VAEConfig, max_images: int) -> Schema:
    """A body of images, in each type that can be read."""
    channels, height, width = config.image_shape

    def forms(number: Schema) -> list[Schema]:
        rows = _lists(number, height, width)
        grey = [rows] if channels == 1 else []
        return [*grey, _lists(rows, channels), _lists(number, config.pixels)]

    def body(item: list[Schema], dtype: list[str], *required: str) -> Schema:
        images = {
            "type": "array",
            "minItems": 1,
            "maxItems": max_images,
            "items": {"anyOf": [BASE64_FILE, *item]},
        }
        return {
            "type": "object",
            "properties": {"images": images, "dtype": {"enum": dtype}},
            "required": ["images", *required],
            "additionalProperties": False,
        }

    floats = {"type": "number", "minimum": 0, "maximum": 1}
    whole = {"type": "integer", "minimum": 0, "maximum": 255}
    content: Schema = {kind: {"schema": BINARY} for kind in IMAGE_READERS}
    content[JSON] = {
        "schema": {
            "anyOf": [body(forms(floats), ["float32"]), body(forms(whole), ["uint8"], "dtype")]
        },
        "example": examples.IMAGES,
    }
    content[MULTIPART] = {
        "schema": {
            "type": "object",
            "properties": {
                "images": {"type": "array", "minItems": 1, "maxItems": max_images, "items": BINARY}
            },
            "required": ["images"],
            "additionalProperties": False,
        },
        "encoding": {"images": {"contentType": ", ".join(FILES)}},
    }
    return {"required": True, "content": content}


def _latents_body(config: VAEConfig, max_images: int) -> Schema:
    """A body of latents, or a wish for draws from the prior."""
    number = {"type": "number", "minimum": -MAX_LATENT, "maximum": MAX_LATENT}
    latents = {
        "type": "object",
        "properties": {
            "z": {
                "type": "array",
                "minItems": 1,
                "maxItems": max_images,
                "items": _lists(number, config.latent_size),
            }
        },
        "required": ["z"],
        "additionalProperties": False,
    }
    prior = schemas.PriorBody.model_json_schema()
    prior["properties"]["n"]["maximum"] = max_images
    content: Schema = {kind: {"schema": BINARY} for kind in LATENT_READERS}
    content[JSON] = {
        "schema": {"anyOf": [latents, prior]},
        "examples": {
            "prior": {"summary": "16 draws", "value": {"n": 16, "seed": 7}},
            "latents": {"summary": "one latent", "value": {"z": [[0.0] * config.latent_size]}},
        },
    }
    return {"required": True, "content": content}


def _lists(item: Schema, *sizes: int) -> Schema:
    """Nested lists of exactly these sizes, the outermost first."""
    for size in reversed(sizes):
        item = {"type": "array", "minItems": size, "maxItems": size, "items": item}
    return item
