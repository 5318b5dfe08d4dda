"""Routes that operate the service: the model, reload, health and metrics."""

from __future__ import annotations

import logging
import os
import re
import signal
from multiprocessing import parent_process
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from model.bundle.bundle import BundleError
from model.engine.device import DeviceError
from service.access.policy import RELOAD
from service.api import schemas
from service.api.openapi import answers
from service.api.state import Service
from service.codecs.registry import JSON
from service.errors import BundleRefusedError
from service.request import RequestContext
from service.telemetry.metrics import Metrics

NOT_TOLD: Final = frozenset({"versions", "torch"})
"""Of a bundle's provenance: versions of libraries, which tell whoever asks where to look for
holes. Its card has them."""

log = logging.getLogger("service")

DIRECTORIES: Final = re.compile(r"(?:/[^/\s':]+)*/(?=[^/\s':]+)")
"""Of absolute paths, which are for the log alone."""

router = APIRouter()


@router.get(
    "/model",
    tags=["service"],
    summary="The bundle in memory",
    responses=answers(schemas.ModelAnswer, [JSON]),
)
async def model(request: Request) -> dict[str, Any]:
    """What it is, where it comes from, how well it fits, and what it offers."""
    engine = Service.of(request).inference.engine
    bundle = engine.bundle
    calibration = engine.calibration
    return {
        "id": bundle.name,
        "version": bundle.version,
        "architecture": bundle.config.to_json(),
        "image_shape": bundle.config.image_shape,
        "latent_size": bundle.config.latent_size,
        "scores": engine.scores,
        "calibration": calibration
        and {"data_set": calibration.data_set, "n": calibration.n, "date": calibration.date},
        "device": engine.device,
        "dtype": engine.dtype,
        "metrics": {split: fit for split, fit in bundle.metrics.items() if split != "evaluation"},
        "provenance": {
            name: value for name, value in bundle.provenance.items() if name not in NOT_TOLD
        },
    }


@router.post(
    RELOAD,
    tags=["service"],
    summary="Load the bundle again",
    responses=answers(schemas.ReloadAnswer, [JSON], errors=[409]),
)
async def reload(request: Request) -> dict[str, str]:
    """Put the bundle, as it is on disk now, in the place of the one in memory, without a request
    lost. 409 with the reason if it cannot be used; then the one in memory stays."""
    service, context = Service.of(request), RequestContext.of(request)
    try:
        bundle = (await service.reload()).inference.engine.bundle
    except (BundleError, DeviceError) as error:
        log.error("the bundle in memory stays: %s", error)
        raise BundleRefusedError(DIRECTORIES.sub("", str(error))) from error
    context.model_version = bundle.version
    if (parent := parent_process()) is not None and parent.pid is not None:
        os.kill(parent.pid, signal.SIGHUP)  # it tells all the workers
    return {"id": bundle.name, "version": bundle.version}


@router.get(
    "/livez",
    tags=["service"],
    summary="Is the process alive?",
    responses=answers(schemas.HealthAnswer, [JSON], errors=[503]),
)
async def livez(request: Request) -> dict[str, str]:
    """200 unless forward passes have failed, or hung, for `VAE_STALL_TIMEOUT_S`."""
    Service.of(request).health.check_alive()
    return {"status": "ok"}


@router.get(
    "/readyz",
    tags=["service"],
    summary="Has a real forward pass worked lately?",
    responses=answers(schemas.HealthAnswer, [JSON], errors=[503]),
)
async def readyz(request: Request) -> dict[str, str]:
    """200 if a known image got its known scores in the last seconds, or gets them now; else 503
    with the reason."""
    await Service.of(request).health.check_ready()
    return {"status": "ok"}


@router.get(
    "/metrics",
    tags=["service"],
    summary="Prometheus text",
    response_class=PlainTextResponse,
)
async def metrics(request: Request) -> Response:
    """Requests, latency, batch sizes, queue depth."""
    text = Service.of(request).metrics.render()
    return Response(text, media_type=Metrics.content_type)
