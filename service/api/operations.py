"""Routes for operators: model information, reload, health and metrics."""

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

from model.bundle.checks import BundleError
from model.engine.device import DeviceError
from service.access.policy import RELOAD
from service.api import schemas
from service.api.images import negotiated
from service.api.openapi import responses
from service.api.state import Service
from service.codecs import registry
from service.codecs.registry import JSON
from service.codecs.responses import Result
from service.errors import BundleRefusedError, NotAcceptableError, NotFoundError
from service.request import RequestContext
from service.telemetry.metrics import CONTENT_TYPES, OPENMETRICS, TEXT

PRIVATE_PROVENANCE: Final = frozenset({"versions", "torch"})
"""Provenance fields that `/model` leaves out: library versions would help an attacker find known
vulnerabilities. The model card has them."""

FORMATS: Final = (TEXT, OPENMETRICS)
"""Of metrics. The first is the default."""

log = logging.getLogger("service")

DIRECTORIES: Final = re.compile(r"(?:/[^/\s':]+)*/(?=[^/\s':]+)")
"""Directories of absolute paths. They go into the log, but not into responses."""

router = APIRouter()


@router.get(
    "/model",
    tags=["service"],
    summary="The bundle in memory",
    responses=responses(schemas.ModelAnswer, [JSON]),
)
async def model(request: Request) -> dict[str, Any]:
    """The bundle's architecture, scores, calibration, training metrics and provenance, and the
    device that runs it."""
    engine = Service.of(request).inference.engine
    bundle = engine.bundle
    calibration = engine.calibration
    detector = {} if bundle.detector is None else {"detector": bundle.detector.config.to_json()}
    return {
        "id": bundle.name,
        "version": bundle.version,
        "architecture": bundle.config.to_json() | detector,
        "image_shape": bundle.config.image_shape,
        "latent_size": bundle.config.latent_size,
        "scores": engine.scores,
        "scaled_maps": engine.scaled_maps,
        "calibration": calibration
        and {
            "data_set": calibration.data_set,
            "n": calibration.n,
            "date": calibration.date,
            "folds": calibration.folds,
        },
        "device": engine.device,
        "dtype": engine.dtype,
        "metrics": {split: fit for split, fit in bundle.metrics.items() if split != "evaluation"},
        "provenance": {
            name: value
            for name, value in bundle.provenance.items()
            if name not in PRIVATE_PROVENANCE
        },
    }


@router.get(
    "/model/latents",
    tags=["service"],
    summary="Where images lie in the latent space",
    responses=responses(schemas.LatentsAnswer, registry.ARRAY_RESPONSE_TYPES, errors=[404, 406]),
)
async def latents(request: Request) -> Response:
    """Posterior means μ of up to 3,000 images that are kept in the bundle, most often of images
    that it was trained on, with their labels if there are any. A bundle of an older version has
    none: the response is 404, and `vae calibrate` adds them.

    As an array: [M, D], μ alone.
    """
    service, context = Service.of(request), RequestContext.of(request)
    sample = service.inference.engine.bundle.latents
    if sample is None:
        raise NotFoundError(
            f"bundle {service.name} keeps no posterior means: vae calibrate --bundle DIR --data "
            "DIR adds those of clean images"
        )
    accepted = negotiated(request, registry.ARRAY_RESPONSE_TYPES)
    fields = {
        "model": service.name,
        "data_set": sample.data_set,
        "n": sample.n,
        "mu": sample.mu,
        "labels": sample.labels,
        "classes": sample.classes,
    }
    result = Result(fields, sample.mu)
    return await registry.write(accepted, result, service.writers, context.deadline)


@router.post(
    RELOAD,
    tags=["service"],
    summary="Load the bundle again",
    responses=responses(schemas.ReloadAnswer, [JSON], errors=[409]),
)
async def reload(request: Request) -> dict[str, str]:
    """Replace the bundle in memory by the one on disk. No request is lost. If the bundle on disk
    cannot be used, the response is 409 with the reason, and the bundle in memory stays."""
    service, context = Service.of(request), RequestContext.of(request)
    try:
        bundle = (await service.reload()).inference.engine.bundle
    except (BundleError, DeviceError) as error:
        log.error("reload failed, the bundle in memory stays: %s", error)
        raise BundleRefusedError(DIRECTORIES.sub("", str(error))) from error
    context.model_version = bundle.version
    if (parent := parent_process()) is not None and parent.pid is not None:
        os.kill(parent.pid, signal.SIGHUP)  # the supervisor makes every worker reload
    return {"id": bundle.name, "version": bundle.version}


@router.get(
    "/livez",
    tags=["service"],
    summary="Is the process alive?",
    responses=responses(schemas.HealthAnswer, [JSON], errors=[503]),
)
async def livez(request: Request) -> dict[str, str]:
    """200 unless forward passes have failed or hung for `VAE_STALL_TIMEOUT_S`."""
    Service.of(request).health.check_alive()
    return {"status": "ok"}


@router.get(
    "/readyz",
    tags=["service"],
    summary="Has a real forward pass succeeded recently?",
    responses=responses(schemas.HealthAnswer, [JSON], errors=[503]),
)
async def readyz(request: Request) -> dict[str, str]:
    """200 if a reference image got its expected scores in the last few seconds, or gets them now.
    Otherwise 503 with the reason."""
    await Service.of(request).health.check_ready()
    return {"status": "ok"}


@router.get(
    "/metrics",
    tags=["service"],
    summary="Prometheus text, or OpenMetrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {OPENMETRICS: {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Counts of requests, latency, batch sizes, queue depth and more. OpenMetrics, for callers
    whose `Accept` prefers it, also has exemplars: the traces of requests that have one."""
    try:
        accepted = negotiated(request, FORMATS)
    except NotAcceptableError:
        accepted = TEXT  # rather than a 406, which scrapers do not expect
    text = Service.of(request).metrics.render(accepted)
    return Response(text, headers={"Content-Type": CONTENT_TYPES[accepted], "Vary": "Accept"})
