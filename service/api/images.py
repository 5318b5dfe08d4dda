"""The native endpoints, a few lines each."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Sequence
from multiprocessing import parent_process
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Query
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from model.bundle.bundle import BundleError
from model.engine.device import DeviceError
from model.engine.engine import Floats
from model.scores.calibration import DEFAULT_DRAWS
from service.api import schemas
from service.api.openapi import BODY_ERRORS, WORK_ERRORS, answers
from service.api.state import Service
from service.codecs import registry as media
from service.codecs.arrays import (
    ImagesWanted,
    LatentsWanted,
    Pixels,
    check_count,
    check_draws,
    unit_pixels,
)
from service.codecs.responses import Answer, without_grey_channel
from service.errors import BundleRefusedError, InvalidContentError
from service.http.body import read_body
from service.http.fast_routes import Routes, handler_of
from service.http.lifecycle import RequestContext
from service.inference.admission import ScoreWanted
from service.sampling import draw, standard_normal
from service.telemetry.metrics import Metrics

NOT_TOLD: Final = frozenset({"versions", "torch"})
"""Of a bundle's provenance: versions of libraries, which tell whoever asks where to look for
holes. Its card has them."""

log = logging.getLogger("service")

RELOAD: Final = "/model/reload"

DIRECTORIES: Final = re.compile(r"(?:/[^/\s':]+)*/(?=[^/\s':]+)")
"""Of absolute paths, which are for the log alone."""

router = APIRouter()


@router.post(
    "/encode",
    tags=["images"],
    summary="Images to latents: μ and σ of the posterior",
    responses=answers(
        schemas.EncodeAnswer,
        media.ARRAY_ANSWERS,
        errors=BODY_ERRORS + WORK_ERRORS,
    ),
)
async def encode(request: Request, query: Annotated[schemas.EncodeQuery, Query()]) -> Response:
    """Each image's posterior N(μ, diag σ²). μ is the embedding; `sample` also draws z.

    As an array: [N, 2, D], μ then σ.
    """
    service, context = Service.of(request), RequestContext.of(request)
    accepted = _negotiate(request, media.ARRAY_ANSWERS)
    images = await _read_images(request, query)
    posterior = await service.inference.encode(images, context)
    fields = {"model": service.name, "mu": posterior.mu, "sigma": posterior.sigma}
    if query.sample:
        fields["z"] = draw(posterior, query.seed)
    return await _write(request, accepted, Answer(fields, np.stack(posterior, axis=1)))


@router.post(
    "/decode",
    tags=["latents"],
    summary="Latents to images",
    responses=answers(schemas.ImagesAnswer, media.IMAGE_ANSWERS, errors=BODY_ERRORS + WORK_ERRORS),
)
async def decode(request: Request, query: Annotated[schemas.DecodeQuery, Query()]) -> Response:
    """The image that each latent stands for; or, given `n`, images of draws from the prior."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = _negotiate(request, media.IMAGE_ANSWERS)
    body = await read_body(request, service.settings.max_body_bytes, service.deadlines)
    wanted = LatentsWanted(
        size=service.latent_size, max_images=service.settings.max_images_per_request
    )
    named = context.headers.get("content-type", "")
    with media.in_time(context, "the latents were not read"):
        z = await media.read_latents(
            body, named, wanted, service.decoders_for(body), context.deadline
        )
    return await _decoded(request, z, accepted, query)


@router.post(
    "/reconstruct",
    tags=["images"],
    summary="Images through the network and back",
    responses=answers(
        schemas.ReconstructAnswer, media.IMAGE_ANSWERS, errors=BODY_ERRORS + WORK_ERRORS
    ),
)
async def reconstruct(
    request: Request, query: Annotated[schemas.ReconstructQuery, Query()]
) -> Response:
    """Each image encoded and decoded again, as the network would have drawn it."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = _negotiate(request, media.IMAGE_ANSWERS)
    images = await _read_images(request, query)
    result = await service.inference.reconstruct(
        images, context, sample=query.sample, seed=query.seed
    )
    answer = _images_answer(service, result.images, query, {"mse": result.mse})
    return await _write(request, accepted, answer)


@router.post(
    "/anomaly-score",
    tags=["images"],
    summary="How strange each image is",
    responses=answers(
        schemas.ScoreAnswer,
        media.IMAGE_ANSWERS,
        errors=BODY_ERRORS + WORK_ERRORS,
    ),
)
async def anomaly_score(
    request: Request, query: Annotated[schemas.ScoreQuery, Query()]
) -> Response:
    """Larger is stranger. `p_value` is the share of clean images that are as strange or stranger,
    and `is_anomaly` is `p_value ≤ alpha`, so that `alpha` is the false-alarm rate to be expected on
    clean images. All three, with `threshold`, are null for a score that was not calibrated.

    As an array: [N] scores, or the map with `map=true`. A PNG needs `map=true`.
    """
    service, context = Service.of(request), RequestContext.of(request)
    offered_types = media.IMAGE_ANSWERS if query.map else media.ARRAY_ANSWERS
    accepted = _negotiate(request, offered_types)
    wanted = _score_wanted(service, query)
    images = await _read_images(request, query)
    if wanted.name in service.inference.engine.drawn_scores:
        check_draws(len(images), wanted.draws, service.settings.max_images_per_request)
    found = await service.inference.score(images, context, wanted)
    fields: dict[str, Any] = {
        "model": service.name,
        "score_type": wanted.name,
        "alpha": wanted.alpha,
        # As a float32, like the scores: both are then written with the same digits.
        "threshold": None if found.threshold is None else np.float32(found.threshold),
        "score": found.score,
        "p_value": found.p_value,
        "is_anomaly": found.is_anomaly,
        "mse": found.mse,
        "kl": found.kl,
    }
    if wanted.fdr:
        fields["fdr"] = query.fdr
    if found.error_map is None:
        return await _write(request, accepted, Answer(fields, found.score))
    fields["anomaly_map"] = without_grey_channel(found.error_map)
    drawn_over = (
        unit_pixels(images).reshape(found.error_map.shape) if accepted == media.PNG else None
    )
    answer = Answer(
        fields=fields,
        array=found.error_map,
        drawable=True,
        backdrop=drawn_over,
        scale=query.scale,
        max_png_pixels=service.settings.max_image_pixels,
    )
    return await _write(request, accepted, answer)


@router.get(
    "/sample",
    tags=["latents"],
    summary="New images: z ~ N(0, I), decoded",
    responses=answers(schemas.ImagesAnswer, media.PICTURE_ANSWERS, errors=WORK_ERRORS),
)
async def sample(request: Request, query: Annotated[schemas.SampleQuery, Query()]) -> Response:
    """`n` images that nobody has drawn before. The same `seed` gives the same images."""
    service = Service.of(request)
    RequestContext.of(request).shorten_timeout()
    accepted = _negotiate(request, media.PICTURE_ANSWERS)
    check_count(query.n, service.settings.max_images_per_request)
    z = standard_normal((query.n, service.latent_size), query.seed)
    return await _decoded(request, z, accepted, query)


@router.get(
    "/model",
    tags=["service"],
    summary="The bundle in memory",
    responses=answers(schemas.ModelAnswer, [media.JSON]),
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
    responses=answers(schemas.ReloadAnswer, [media.JSON], errors=[409]),
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
    responses=answers(schemas.HealthAnswer, [media.JSON], errors=[503]),
)
async def livez(request: Request) -> dict[str, str]:
    """200 unless forward passes have failed, or hung, for `VAE_STALL_TIMEOUT_S`."""
    Service.of(request).health.check_alive()
    return {"status": "ok"}


@router.get(
    "/readyz",
    tags=["service"],
    summary="Has a real forward pass worked lately?",
    responses=answers(schemas.HealthAnswer, [media.JSON], errors=[503]),
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


def direct() -> Routes:
    """The routes that read images or latents, for `DirectRoutes`."""
    return {
        ("POST", route.path): (route, handler_of(route))
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ()) and route.path != RELOAD
    }


def _negotiate(request: Request, offered: Sequence[str]) -> str:
    return media.negotiate(RequestContext.of(request).headers.get("accept"), offered)


def _score_wanted(service: Service, query: schemas.ScoreQuery) -> ScoreWanted:
    """Raises `InvalidContentError` for a score that is not offered."""
    engine = service.inference.engine
    name = engine.scores[0] if query.score is None else query.score
    if name not in engine.scores:
        raise InvalidContentError(
            f"score is {name[:64]!r}, this model offers {', '.join(engine.scores)}",
            ("query", "score"),
        )
    return ScoreWanted(
        name=name,
        alpha=service.settings.alpha if query.alpha is None else query.alpha,
        fdr=query.fdr is not None,
        map=query.map,
        draws=query.samples or DEFAULT_DRAWS,
        seed=query.seed,
    )


async def _read_images(request: Request, query: schemas.ImagesQuery) -> Pixels:
    service = Service.of(request)
    service.inference.check_room()  # before a body is read that could not be taken
    body = await read_body(request, service.settings.max_body_bytes, service.deadlines)
    context = RequestContext.of(request)
    wanted = ImagesWanted(
        shape=service.inference.engine.bundle.config.image_shape,
        max_images=service.settings.max_images_per_request,
        max_image_pixels=service.settings.max_image_pixels,
        content_type=context.headers.get("content-type", ""),
        dtype=query.dtype,
        resize=query.resize,
        invert=query.invert,
        deadline=context.deadline,
    )
    with media.in_time(context, "the images were not decoded"):
        return await media.read_images(body, wanted, service.decoders_for(body))


async def _write(request: Request, accepted: str, answer: Answer) -> Response:
    service, context = Service.of(request), RequestContext.of(request)
    with media.in_time(context, "the answer was not written"):
        return await media.write(accepted, answer, service.writers, context.deadline)


async def _decoded(
    request: Request, z: Floats, accepted: str, query: schemas.DecodeQuery
) -> Response:
    service = Service.of(request)
    result = await service.inference.decode(z, RequestContext.of(request))
    answer = _images_answer(service, result.images, query, {})
    return await _write(request, accepted, answer)


def _images_answer(
    service: Service,
    images: Floats,
    query: schemas.DecodeQuery | schemas.ReconstructQuery,
    extra: dict[str, Any],
) -> Answer:
    """Images, (N, C, H, W), in every form; `extra` goes with them in JSON."""
    return Answer(
        fields={"model": service.name, "images": without_grey_channel(images)} | extra,
        array=images,
        drawable=True,
        uint8=query.dtype == "uint8",
        scale=query.scale,
        max_png_pixels=service.settings.max_image_pixels,
    )
