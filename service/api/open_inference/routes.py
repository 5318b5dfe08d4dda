"""Open Inference Protocol v2 over REST, with Triton's binary tensors.

Specification: kserve/open-inference-protocol, specification/protocol/inference_rest.md, and
triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as package_version
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Path
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from model.config import VAEConfig
from service.api.open_inference.messages import (
    LENGTH_HEADER,
    InferRequest,
    TensorSpec,
    infer_response,
    json_bytes,
)
from service.api.open_inference.schemas import (
    INFER,
    METADATA_RESPONSES,
    READY_RESPONSES,
    Liveness,
    Readiness,
    ServerMetadata,
    responses,
)
from service.api.state import Service
from service.codecs.arrays import check_count, latents_in_range, pixels_in_range
from service.codecs.offload import in_thread
from service.codecs.options import item_shapes
from service.codecs.registry import INLINE_JSON_BYTES, INLINE_JSON_NUMBERS, NOT_WRITTEN
from service.codecs.responses import json_response
from service.errors import BadBodyError, NotFoundError, NotReadyError
from service.http.body import read_body
from service.http.fast_routes import fast
from service.request import RequestContext

PLATFORM: Final = "pytorch_vae"

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

Run = Callable[[Service, NDArray[Any], RequestContext], Awaitable[Any]]
"""Runs the network on checked rows and returns a named tuple of tensors. A tensor that does not
exist is None."""


@dataclass(frozen=True)
class Model:
    """One of the protocol's models: the names of its input and outputs, and how to run it."""

    input: str
    outputs: tuple[str, ...]
    run: Run


MODELS: Final[Mapping[str, Model]] = {
    "encode": Model("images", ("mu", "sigma"), lambda s, *work: s.inference.encode(*work)),
    "decode": Model("z", ("images",), lambda s, *work: s.inference.decode(*work)),
    "reconstruct": Model(
        "images", ("images", "mse"), lambda s, *work: s.inference.reconstruct(*work)
    ),
    "anomaly-score": Model(
        "images",
        ("score", "p_value", "is_anomaly", "mse", "kl"),
        lambda s, *work: s.inference.score(*work, s.default_score),
    ),
}

NEEDS_CALIBRATION: Final = frozenset({"p_value", "is_anomaly"})
"""Outputs that only a calibrated bundle has."""

ModelName = Annotated[
    str, Path(description="the model's name", json_schema_extra={"enum": list(MODELS)})
]
Version = Annotated[str, Path(description="the bundle's version, as listed in the metadata")]


@router.get("", summary="The server", responses=responses(ServerMetadata))
async def server_metadata() -> Response:
    """Name, version and extensions."""
    return json_response(
        {
            "name": "vae-service",
            "version": package_version("vae-service"),
            "extensions": ["binary_tensor_data"],
        }
    )


@router.get(
    "/health/live",
    summary="Is the process alive?",
    responses=responses(Liveness) | {503: {"model": Liveness}},
)
async def live(request: Request) -> Response:
    """200, or 503 with `"live": false`."""
    try:
        Service.of(request).health.check_alive()
    except NotReadyError:
        return json_response({"live": False}, 503)
    return json_response({"live": True})


@router.get(
    "/health/ready",
    summary="Has a real forward pass succeeded recently?",
    responses=responses(Readiness) | {503: {"model": Readiness}},
)
async def ready(request: Request) -> Response:
    """200, or 503 with `"ready": false`."""
    return await _readiness(request, {})


@router.get("/models/{name}", summary="A model's tensors", responses=METADATA_RESPONSES)
async def model_metadata(request: Request, name: ModelName) -> Response:
    """Metadata of `encode`, `decode`, `reconstruct` or `anomaly-score`."""
    service = Service.of(request)
    model = _model(name)
    config = service.inference.engine.bundle.config
    return json_response(
        {
            "name": name,
            "versions": [service.version],
            "platform": PLATFORM,
            "inputs": [_spec(model.input, config).to_json()],
            "outputs": [spec.to_json() for spec in _outputs(model, service)],
        }
    )


@router.get(
    "/models/{name}/versions/{version}", summary="A model's tensors", responses=METADATA_RESPONSES
)
async def version_metadata(request: Request, name: ModelName, version: Version) -> Response:
    """As `/models/{name}`, for callers that give the version."""
    _check_version(request, version)
    return await model_metadata(request, name)


@router.get("/models/{name}/ready", summary="Is a model ready?", responses=READY_RESPONSES)
async def model_ready(request: Request, name: ModelName) -> Response:
    """200, or 503 with `"ready": false`."""
    _model(name)
    return await _readiness(request, {"name": name})


@router.get(
    "/models/{name}/versions/{version}/ready",
    summary="Is a model ready?",
    responses=READY_RESPONSES,
)
async def version_ready(request: Request, name: ModelName, version: Version) -> Response:
    """As `/models/{name}/ready`, for callers that give the version."""
    _check_version(request, version)
    return await model_ready(request, name)


@router.post("/models/{name}/infer", summary="Run a model", **INFER)
@fast(name=MODELS)
async def infer(request: Request, name: ModelName) -> Response:
    """Tensors in, tensors out, as JSON or binary."""
    service, context = Service.of(request), RequestContext.of(request)
    model = _model(name)
    config = service.inference.engine.bundle.config
    body = await read_body(request, service.settings.max_body_bytes)
    json_length = context.headers.get(LENGTH_HEADER.lower())

    def read() -> tuple[InferRequest, NDArray[Any]]:
        parsed = InferRequest.parse(body, json_length, _outputs(model, service))
        return parsed, _rows(parsed, model, config, service.settings.max_images_per_request)

    if json_bytes(body, json_length) <= INLINE_JSON_BYTES:
        infer_request, rows = read()
    else:
        infer_request, rows = await in_thread(
            service.decoders_for(body), context.deadline, "the tensors were not read", read
        )
    context.shorten_timeout_us(infer_request.timeout_us)
    result = await model.run(service, rows, context)
    tensors = result._asdict()
    respond = partial(infer_response, infer_request, name, service.version, tensors)
    if (
        sum(tensors[output.spec.name].size for output in infer_request.outputs)
        <= INLINE_JSON_NUMBERS
    ):
        return respond()
    return await in_thread(
        service.writers, context.deadline, NOT_WRITTEN, partial(respond, in_pieces=True)
    )


@router.post("/models/{name}/versions/{version}/infer", summary="Run a model", **INFER)
async def version_infer(request: Request, name: ModelName, version: Version) -> Response:
    """As `/models/{name}/infer`, for callers that give the version."""
    _check_version(request, version)
    return await infer(request, name)


def _spec(name: str, config: VAEConfig) -> TensorSpec:
    """A tensor's metadata. A name has the same shape in every model."""
    shapes = {
        "images": config.image_shape,
        "z": (config.latent_size,),
        "mu": (config.latent_size,),
        "sigma": (config.latent_size,),
    }
    datatype = "BOOL" if name == "is_anomaly" else "FP32"
    return TensorSpec(name, datatype, (-1, *shapes.get(name, ())))


def _outputs(model: Model, service: Service) -> list[TensorSpec]:
    engine = service.inference.engine
    calibrated = service.inference.is_calibrated(engine.scores[0])
    return [
        _spec(name, engine.bundle.config)
        for name in model.outputs
        if calibrated or name not in NEEDS_CALIBRATION
    ]


def _rows(
    infer_request: InferRequest, model: Model, config: VAEConfig, max_images: int
) -> NDArray[Any]:
    """The input as checked rows: pixels (N, C·H·W) or latents (N, D).

    Raises `BadBodyError` and the errors of `service.codecs.arrays`.
    """
    if infer_request.input.name != model.input:
        raise BadBodyError(
            f"the input is {infer_request.input.name[:64]!r}, this model takes {model.input!r}"
        )
    array = infer_request.input.array
    latents = model.input == "z"
    shapes = [(config.latent_size,)] if latents else item_shapes(config.image_shape)
    if array.shape[1:] not in shapes or not len(array):
        expected = " or ".join(str([-1, *shape]) for shape in shapes)
        raise BadBodyError(f"{model.input} has shape {list(array.shape)}, expected {expected}")
    check_count(len(array), max_images)
    rows = array.reshape(len(array), -1)
    if not latents:
        return pixels_in_range(rows, "uint8" if rows.dtype == np.uint8 else "float32")
    if rows.dtype == np.uint8:
        raise BadBodyError("z is UINT8, expected FP32")
    return latents_in_range(rows)


async def _readiness(request: Request, fields: dict[str, Any]) -> Response:
    try:
        await Service.of(request).health.check_ready()
    except NotReadyError:
        return json_response(fields | {"ready": False}, 503)
    return json_response(fields | {"ready": True})


def _model(name: str) -> Model:
    if name not in MODELS:
        raise NotFoundError(f"there is no model {name[:64]!r}, only {', '.join(MODELS)}")
    return MODELS[name]


def _check_version(request: Request, version: str) -> None:
    loaded = Service.of(request).version
    if version != loaded:
        raise NotFoundError(f"there is no version {version[:64]!r}, only {loaded}")
