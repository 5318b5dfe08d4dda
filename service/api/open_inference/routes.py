"""Open Inference Protocol v2 over REST, with Triton's binary tensors.

Specification: kserve/open-inference-protocol, specification/protocol/inference_rest.md, and
triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version as package_version
from time import perf_counter
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Path
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from model.config import VAEConfig
from service.api.open_inference.messages import (
    LENGTH_HEADER,
    InferRequest,
    infer_response,
    json_bytes,
    read_index_request,
)
from service.api.open_inference.models import MODELS, Model, Plan, find_model, usual_outputs
from service.api.open_inference.schemas import (
    INDEX_BODY,
    INFER,
    METADATA_RESPONSES,
    READY_RESPONSES,
    Liveness,
    Readiness,
    RepositoryIndex,
    ServerMetadata,
    Statistics,
    responses,
)
from service.api.open_inference.statistics import statistics_of
from service.api.state import Service
from service.codecs.arrays import check_count, latents_in_range, pixels_in_range
from service.codecs.offload import in_thread
from service.codecs.options import item_shapes
from service.codecs.registry import INLINE_JSON_BYTES, INLINE_JSON_NUMBERS, NOT_WRITTEN
from service.codecs.responses import json_response, to_json
from service.errors import BadBodyError, InvalidContentError, NotFoundError, NotReadyError
from service.http.body import read_body
from service.http.fast_routes import fast
from service.request import RequestContext
from service.telemetry.infer_statistics import InferTimes, totals_of
from service.telemetry.metrics import Metrics

PLATFORM: Final = "pytorch_vae"

INFER_PATH: Final = "/models/{name}/infer"

INFER_PATH_BELOW_ROOT: Final = f"/v2{INFER_PATH}"

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

ModelName = Annotated[
    str, Path(description="the model's name", json_schema_extra={"enum": list(MODELS)})
]
Version = Annotated[str, Path(description="the bundle's version, as listed in the metadata")]


@router.get("", summary="The server", responses=responses(ServerMetadata, 400))
async def server_metadata(request: Request) -> Response:
    """Name, version and extensions."""
    _check_query(request)
    return json_response(
        {
            "name": "vae-service",
            "version": package_version("vae-service"),
            "extensions": ["binary_tensor_data", "parameters", "statistics"],
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


@router.post(
    "/repository/index",
    summary="The models",
    responses=responses(RepositoryIndex, 400, 408),
    openapi_extra=INDEX_BODY,
)
async def repository_index(request: Request) -> Response:
    """Name, version and state of each model. With `"ready": true` in the body, which may be empty,
    only those that are ready."""
    service = Service.of(request)
    _check_query(request)
    body = await read_body(request, service.settings.max_body_bytes)
    only_ready = read_index_request(body)
    reason = ""
    try:
        await service.health.check_ready()
    except NotReadyError as error:
        reason = error.detail
    state = {"state": "UNAVAILABLE" if reason else "READY", "reason": reason}
    names = () if reason and only_ready else MODELS
    index = [{"name": name, "version": service.version} | state for name in names]
    return Response(to_json(index), media_type="application/json")


@router.get(
    "/models/stats", summary="Statistics of all models", responses=responses(Statistics, 400)
)
async def all_statistics(request: Request) -> Response:
    """Counts and times of all infer requests since the service started, for each model."""
    _check_query(request)
    return _statistics(request, MODELS)


@router.get(
    "/models/{name}/stats",
    summary="A model's statistics",
    responses=responses(Statistics, 400, 404),
)
async def model_statistics(request: Request, name: ModelName) -> Response:
    """As `/models/stats`, for one model."""
    find_model(name)
    _check_query(request)
    return _statistics(request, [name])


@router.get(
    "/models/{name}/versions/{version}/stats",
    summary="A model's statistics",
    responses=responses(Statistics, 400, 404),
)
async def version_statistics(request: Request, name: ModelName, version: Version) -> Response:
    """As `/models/{name}/stats`, for callers that give the version."""
    _check_version(request, version)
    return await model_statistics(request, name)


@router.get("/models/{name}", summary="A model's tensors", responses=METADATA_RESPONSES)
async def model_metadata(request: Request, name: ModelName) -> Response:
    """Metadata of `encode`, `decode`, `reconstruct` or `anomaly-score`."""
    service = Service.of(request)
    model = find_model(name)
    _check_query(request)
    config = service.inference.engine.bundle.config
    return json_response(
        {
            "name": name,
            "versions": [service.version],
            "platform": PLATFORM,
            "inputs": [model.signature(config).input.to_json()],
            "outputs": [spec.to_json() for spec in usual_outputs(service, model)],
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
    find_model(name)
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


@router.post(INFER_PATH, summary="Run a model", **INFER)
@fast(name=MODELS)
async def infer(request: Request, name: ModelName) -> Response:
    """Tensors in, tensors out, as JSON or binary."""
    service, context = Service.of(request), RequestContext.of(request)
    model = find_model(name)
    statistics = service.metrics.infer
    context.on_pass = partial(statistics.count_pass, name)
    try:
        return await _infer(request, name, model)
    except BaseException:
        statistics.count_failure(name, perf_counter() - context.started)
        raise


async def _infer(request: Request, name: str, model: Model) -> Response:
    service, context = Service.of(request), RequestContext.of(request)
    config = service.inference.engine.bundle.config
    if request.scope["query_string"]:
        _check_query(request, model.parameters)
    body = await read_body(request, service.settings.max_body_bytes)
    json_length = context.headers.get(LENGTH_HEADER.lower())
    began = perf_counter()

    def read() -> tuple[InferRequest, Plan, NDArray[Any]]:
        parsed = InferRequest.parse(body, json_length, model.signature(config))
        plan = model.plan(service, parsed)
        return parsed, plan, _rows(parsed, config, service.settings.max_images_per_request)

    if json_bytes(body, json_length) <= INLINE_JSON_BYTES:
        infer_request, plan, rows = read()
    else:
        infer_request, plan, rows = await in_thread(
            service.decoders_for(body), context.deadline, "the tensors were not read", read
        )
    context.shorten_timeout_us(infer_request.timeout_us)
    was_read = perf_counter()
    tensors = await plan.run(rows, context)
    has_run = perf_counter()
    respond = partial(infer_response, infer_request, plan.outputs, name, service.version, tensors)
    if sum(tensors[output.spec.name].size for output in plan.outputs) <= INLINE_JSON_NUMBERS:
        response = respond()
    else:
        response = await in_thread(
            service.writers, context.deadline, NOT_WRITTEN, partial(respond, in_pieces=True)
        )
    written = perf_counter()
    times = InferTimes(
        total=written - context.started,
        compute_input=was_read - began,
        queue=context.queue_s,
        compute_infer=context.infer_s,
        compute_output=written - has_run,
    )
    service.metrics.infer.count_success(name, len(rows), times)
    return response


@router.post("/models/{name}/versions/{version}/infer", summary="Run a model", **INFER)
async def version_infer(request: Request, name: ModelName, version: Version) -> Response:
    """As `/models/{name}/infer`, for callers that give the version."""
    _check_version(request, version)
    return await infer(request, name)


def note_refusal(scope: Scope, metrics: Metrics) -> None:
    """Count a request for a fast route that was refused before its handler was called."""
    if scope["route"].path == INFER_PATH_BELOW_ROOT:
        metrics.infer.count_failure(scope["path"].split("/")[3], 0.0)


def _rows(infer_request: InferRequest, config: VAEConfig, max_images: int) -> NDArray[Any]:
    """The input as checked rows: pixels (N, C·H·W) or latents (N, D).

    Raises `BadBodyError` and the errors of `service.codecs.arrays`.
    """
    name, array = infer_request.input.name, infer_request.input.array
    latents = name == "z"
    shapes = [(config.latent_size,)] if latents else item_shapes(config.image_shape)
    if array.shape[1:] not in shapes or not len(array):
        expected = " or ".join(str([-1, *shape]) for shape in shapes)
        raise BadBodyError(f"{name} has shape {list(array.shape)}, expected {expected}")
    check_count(len(array), max_images)
    rows = array.reshape(len(array), -1)
    if not latents:
        dtype = "uint8" if rows.dtype == np.uint8 else "float32"
        return pixels_in_range(rows, dtype, as_bytes="send the datatype UINT8")
    return latents_in_range(rows)


async def _readiness(request: Request, fields: dict[str, Any]) -> Response:
    try:
        await Service.of(request).health.check_ready()
    except NotReadyError:
        return json_response(fields | {"ready": False}, 503)
    return json_response(fields | {"ready": True})


def _statistics(request: Request, names: Iterable[str]) -> Response:
    service = Service.of(request)
    metrics = service.metrics.collect()
    stats = [statistics_of(totals_of(name, metrics), name, service.version) for name in names]
    return json_response({"model_stats": stats})


def _check_query(request: Request, parameters: Sequence[str] = ()) -> None:
    """Raise `InvalidContentError` for any query parameter: it would be ignored silently.

    `parameters` are those that the body may have instead.
    """
    for name in request.query_params:
        hint = ": put it into the body's parameters" if name in parameters else ""
        raise InvalidContentError(
            f"{name[:64]!r} is not a known query parameter here{hint}", ("query", name[:64])
        )


def _check_version(request: Request, version: str) -> None:
    loaded = Service.of(request).version
    if version != loaded:
        raise NotFoundError(f"there is no version {version[:64]!r}, only {loaded}")
