"""The parts of the OpenAPI page that FastAPI cannot derive from the handlers' signatures.

Request bodies are described for the bundle in memory, so the page allows exactly what the service
accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from model.config import VAEConfig
from model.engine.engine import Engine
from model.images.formats import READ
from service.access.policy import INFER, scope_of
from service.api import examples, schemas
from service.codecs.arrays import MAX_LATENT
from service.codecs.registry import FILES, IMAGE_READERS, JSON, LATENT_READERS, MULTIPART, RAW
from service.http.problems import OPEN_INFERENCE, PROBLEM_TYPE

Responses = dict[int | str, dict[str, Any]]
Schema = dict[str, Any]

BODY_ERRORS: Final = (400, 408, 413, 415)
"""Error statuses of routes that read a body."""

WORK_ERRORS: Final = (406, 413, 422, 500, 503, 504)
"""Error statuses of routes that run the network."""

IMAGE_ROUTES: Final = ("/encode", "/reconstruct", "/anomaly-score", "/preprocess")

BINARY: Final[Schema] = {"type": "string", "format": "binary"}

BASE64_FILE: Final[Schema] = {
    "type": "string",
    "contentEncoding": "base64",
    "format": "base64-image",
    "description": f"an image file ({READ}), as base64 or a data URI",
}

HEADERS: Final[Schema] = {
    "X-Request-ID": {
        "description": "the caller's request id, or a new one",
        "schema": {"type": "string"},
    },
    "X-Model-Version": {
        "description": "first digits of the weights' SHA-256",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "milliseconds in the queue and in the network: queue;dur=…, infer;dur=…",
        "schema": {"type": "string"},
    },
}
"""Headers of every response."""

RETRY_AFTER: Final[Schema] = {
    "Retry-After": {
        "description": "seconds to wait before trying again",
        "schema": {"type": "integer"},
    }
}

QUOTA_HEADERS: Final[Schema] = {
    "RateLimit": {
        "description": 'for a key with a rate limit: "images";r=…;t=…, the images left and the '
        "seconds until the quota is full again",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'for a key with a rate limit: "images";q=…;w=1;qu="images", images per '
        "second",
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
    "description": "an API key, if the service requires one",
}

TENSOR_HEADERS: Final[Schema] = {
    "X-Tensor-Shape": {
        "description": "shape of a raw response, such as 4,28,28",
        "schema": {"type": "string"},
    },
    "X-Tensor-Dtype": {
        "description": "data type of a raw response, such as float32",
        "schema": {"type": "string"},
    },
}

WARNINGS: Final[Schema] = {
    "X-Warnings": {
        "description": "what to know of how the images were read, as a JSON list of texts; only "
        "if there is something, and in JSON answers a field",
        "schema": {"type": "string"},
    }
}

IMAGE_FILES: Final[Schema] = {
    "X-Image-Files": {
        "description": "the first of the image files and what was done to them, as a JSON list in "
        "ASCII; in JSON answers the field `files`",
        "schema": {"type": "string"},
    }
}

IMAGES_BODY: Final = (
    f"Images as numbers, or image files: {READ}. Files are turned upright by their EXIF "
    "orientation, made grey or RGB, and resized to {height} × {width} (height × width) whatever "
    "their aspect ratio, so other shapes are squashed; ?resize=false refuses them. Transparent "
    "areas are composited on black, or on white with ?invert=true, which is for dark ink. Of an "
    "animation or a file of several pages, the first is read. 16-bit files are scaled from 16 "
    "bits, or from as many as ?bits or the file itself says."
)
"""Of a request body, with the model's height and width."""

PROBLEMS: Final[dict[int, str]] = {
    400: "the body is empty",
    401: "this requires a valid API key; send it as Authorization: Bearer KEY",
    403: "this requires an API key with scope infer; key prometheus has metrics",
    404: "bundle mine keeps no posterior means: vae calibrate --bundle DIR --data DIR adds those "
    "of clean images",
    406: "Accept is 'text/html', this route offers application/json",
    408: "the body did not arrive within the request's 30 s",
    409: "bundle 'mine' cannot be used: model.safetensors is damaged: its sha256 is not the one in "
    "config.json",
    413: "10,000 images in one request > maximum 8,192",
    415: "Content-Type is 'text/plain', this route reads application/json",
    422: "images[3] has 1.5 at pixel 17, expected a number in [0, 1]",
    429: "64 images > 10 left of this key's 100 per second",
    500: "the service failed; its log has the reason under the request id",
    503: "64 images do not fit: 16384 wait already, the maximum is 16384",
    504: "no answer within the request's 30 s",
}
"""An example `detail` for each error status."""

REQUEST_HEADERS: Final[list[Schema]] = [
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "seconds this request may take, if shorter than the service's own limit",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "example": 5,
    },
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "returned in the response and written to the log; an id that is longer than "
        "128 characters or not printable ASCII is replaced by a new one",
        "schema": {"type": "string"},
        "example": "order-4711",
    },
]
"""Request headers of routes that run the network."""


def responses(
    model: type[BaseModel],
    media_types: Sequence[str],
    *,
    errors: Sequence[int] = (),
) -> Responses:
    """The responses of a route: `model` as JSON, binary in the other `media_types`, and problems
    with the statuses in `errors`."""
    content: dict[str, Any] = {media_type: {"schema": BINARY} for media_type in media_types}
    content[JSON] = {}
    headers = HEADERS | (TENSOR_HEADERS if RAW in media_types else {})
    headers |= WARNINGS if "warnings" in model.model_fields else {}
    headers |= IMAGE_FILES if "files" in model.model_fields else {}
    by_status: Responses = {200: {"model": model, "content": content, "headers": headers}}
    return by_status | problems(errors)


def problems(statuses: Sequence[int]) -> Responses:
    """The responses of a route that are problems."""
    return {status: _problem(status) for status in sorted(set(statuses))}


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
    """A model's JSON schema, with every `$ref` replaced by its definition."""
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
    app: FastAPI, engine: Engine, max_images: int, takes_keys: bool
) -> Callable[[], Schema]:
    """A replacement for `app.openapi` that describes the engine's bundle.

    The page is built at the first request for it, then cached.
    """

    def openapi() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, engine, max_images)
            _describe_access(app.openapi_schema, takes_keys)
        return app.openapi_schema

    return openapi


def _describe(app: FastAPI, engine: Engine, max_images: int) -> Schema:
    config = engine.bundle.config
    page = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    # Relative to the document's own address, which is right below any prefix of a reverse proxy.
    page["servers"] = [{"url": "."}]
    components = page["components"]["schemas"]
    components["Problem"] = inlined(schemas.Problem)
    paths = page["paths"]
    for path, operations in paths.items():
        if path.startswith(OPEN_INFERENCE):
            for operation in operations.values():
                # FastAPI adds 422 for the path parameters, but a wrong one is a 404 there.
                operation["responses"].pop("422", None)
                # Together with the example of a body, these make a request that works.
                sample = "decode" if path.endswith("/infer") else "encode"
                values = {"name": sample, "version": engine.bundle.version}
                for parameter in operation.get("parameters", []):
                    if parameter["in"] == "path":
                        parameter["example"] = values[parameter["name"]]
    for unused in ("HTTPValidationError", "ValidationError"):
        components.pop(unused, None)
    plot = paths["/model/plots/{name}"]["get"]
    plot["responses"].pop("422", None)  # as above
    plot["parameters"][0]["example"] = "samples.png"
    for path in IMAGE_ROUTES:
        paths[path]["post"]["requestBody"] = _images_body(config, max_images)
    paths["/decode"]["post"]["requestBody"] = _latents_body(config, max_images)
    for path, method in [
        *((path, "post") for path in (*IMAGE_ROUTES, "/decode")),
        ("/sample", "get"),
    ]:
        paths[path][method].setdefault("parameters", []).extend(REQUEST_HEADERS)
    for path, example in (("/encode", examples.ENCODE), ("/anomaly-score", examples.SCORE)):
        # Added here because FastAPI would drop the fields that are null.
        paths[path]["post"]["responses"]["200"]["content"][JSON]["example"] = example
    scored = paths["/anomaly-score"]["post"]["parameters"]
    for parameter in (*scored, *paths["/model/calibration"]["get"]["parameters"]):
        if parameter["name"] == "score":
            parameter["schema"] = {"enum": list(engine.scores), "default": engine.scores[0]}
        if parameter["name"] == "contour" and not engine.scaled_maps:
            parameter["schema"] = {"enum": [False], "default": False}
    for parameter in paths["/sample"]["get"]["parameters"]:
        if parameter["name"] == "n":
            parameter["schema"]["maximum"] = max_images
    return page


def _describe_access(page: Schema, takes_keys: bool) -> None:
    """Describe which routes need a key, and how they refuse a request without one."""
    page["components"]["securitySchemes"] = {BEARER: API_KEY}
    for path, operations in page["paths"].items():
        if (scope := scope_of(path)) is None:
            continue
        for method, operation in operations.items():
            if takes_keys:
                operation["security"] = [{BEARER: []}]
            rate_limited = scope == INFER and (method == "post" or path == "/sample")
            for status in (401, 403, *((429,) if rate_limited else ())):
                operation["responses"][str(status)] = _refusal(status, path)


def _refusal(status: int, path: str) -> Schema:
    response = _problem(status)
    if path.startswith(OPEN_INFERENCE):
        error = {"$ref": "#/components/schemas/Error"}
        response["content"] = {JSON: {"schema": error, "example": {"error": PROBLEMS[status]}}}
    return response


def _images_body(config: VAEConfig, max_images: int) -> Schema:
    """The request body of image routes, in each type that they read."""
    channels, height, width = config.image_shape

    def pixel_arrays(number: Schema) -> list[Schema]:
        rows = _arrays(number, height, width)
        grey = [rows] if channels == 1 else []
        return [*grey, _arrays(rows, channels), _arrays(number, config.pixels)]

    def body(pixels: list[Schema], dtype: list[str], *required: str) -> Schema:
        images = {
            "type": "array",
            "minItems": 1,
            "maxItems": max_images,
            "items": {"anyOf": [BASE64_FILE, *pixels]},
        }
        return {
            "type": "object",
            "properties": {"images": images, "dtype": {"enum": dtype}},
            "required": ["images", *required],
            "additionalProperties": False,
        }

    unit = {"type": "number", "minimum": 0, "maximum": 1}
    byte = {"type": "integer", "minimum": 0, "maximum": 255}
    content: Schema = {media_type: {"schema": BINARY} for media_type in IMAGE_READERS}
    content[JSON] = {
        "schema": {
            "anyOf": [
                body(pixel_arrays(unit), ["float32"]),
                body(pixel_arrays(byte), ["uint8"], "dtype"),
            ]
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
    description = IMAGES_BODY.format(height=height, width=width)
    return {"required": True, "description": description, "content": content}


def _latents_body(config: VAEConfig, max_images: int) -> Schema:
    """The request body of `/decode`: latents, or a number of draws from the prior."""
    number = {"type": "number", "minimum": -MAX_LATENT, "maximum": MAX_LATENT}
    latents = {
        "type": "object",
        "properties": {
            "z": {
                "type": "array",
                "minItems": 1,
                "maxItems": max_images,
                "items": _arrays(number, config.latent_size),
            }
        },
        "required": ["z"],
        "additionalProperties": False,
    }
    prior = schemas.PriorBody.model_json_schema()
    prior["properties"]["n"]["maximum"] = max_images
    content: Schema = {media_type: {"schema": BINARY} for media_type in LATENT_READERS}
    content[JSON] = {
        "schema": {"anyOf": [latents, prior]},
        "examples": {
            "prior": {"summary": "16 draws", "value": {"n": 16, "seed": 7}},
            "latents": {"summary": "one latent", "value": {"z": [[0.0] * config.latent_size]}},
        },
    }
    return {"required": True, "content": content}


def _arrays(item: Schema, *sizes: int) -> Schema:
    """Nested arrays of exactly these sizes, outermost first."""
    for size in reversed(sizes):
        item = {"type": "array", "minItems": size, "maxItems": size, "items": item}
    return item
