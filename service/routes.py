"""The native endpoints, a few lines each."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from model.engine import Floats
from service import examples, media, schemas
from service.context import RequestContext
from service.errors import BodyTimeoutError, InvalidContentError, UnsupportedTypeError
from service.inference import Inference, draw, standard_normal
from service.media import JSON, PNG
from service.metrics import Metrics
from service.openapi import BODY_ERRORS, WORK_ERRORS, answers, images_request, latents_request
from service.settings import Settings

MAX_LATENT: Final = 1e6
"""Largest |z|. Millions of standard deviations away from anything, and still finite in float32."""

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the handlers need; `create_app` puts it into `app.state.service`."""

    settings: Settings
    inference: Inference
    metrics: Metrics

    @classmethod
    def of(cls, request: Request) -> Service:
        """The service that answers this request."""
        service: Service = request.app.state.service
        return service

    @property
    def name(self) -> str:
        """The bundle's name: `model` in answers."""
        return self.inference.engine.bundle.name


@router.post(
    "/encode",
    tags=["images"],
    summary="Images to latents: μ and σ of the posterior",
    responses=answers(schemas.EncodeAnswer, examples.ENCODE, errors=BODY_ERRORS + WORK_ERRORS),
    openapi_extra=images_request(examples.IMAGES),
)
async def encode(request: Request, query: Annotated[schemas.EncodeQuery, Query()]) -> Response:
    """Each image's posterior N(μ, diag σ²). μ is the embedding; `sample` also draws z."""
    service, context = Service.of(request), RequestContext.of(request)
    media.negotiate(request.headers.get("accept"), [JSON])
    images = await _read_images(request, query)
    posterior = await service.inference.encode(images, context)
    answer = {"model": service.name, "mu": posterior.mu, "sigma": posterior.sigma}
    if query.sample:
        answer["z"] = draw(posterior, _seed(query.seed))
    return media.json_response(answer)


@router.post(
    "/decode",
    tags=["latents"],
    summary="Latents to images",
    responses=answers(schemas.ImagesAnswer, errors=BODY_ERRORS + WORK_ERRORS, png=True),
    openapi_extra=latents_request(),
)
async def decode(request: Request, query: Annotated[schemas.DecodeQuery, Query()]) -> Response:
    """The image that each latent stands for; or, given `n`, images of draws from the prior."""
    accepted = media.negotiate(request.headers.get("accept"), [JSON, PNG])
    body = await _read_body(request)
    z = _read_latents(body, request)
    return await _decoded(request, z, accepted, query.scale)


@router.post(
    "/reconstruct",
    tags=["images"],
    summary="Images through the network and back",
    responses=answers(schemas.ReconstructAnswer, errors=BODY_ERRORS + WORK_ERRORS, png=True),
    openapi_extra=images_request(examples.IMAGES),
)
async def reconstruct(
    request: Request, query: Annotated[schemas.ReconstructQuery, Query()]
) -> Response:
    """Each image encoded and decoded again, as the network would have drawn it."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = media.negotiate(request.headers.get("accept"), [JSON, PNG])
    images = await _read_images(request, query)
    seed = _seed(query.seed) if query.sample else None
    result = await service.inference.reconstruct(images, context, seed=seed)
    return await _images_response(
        request, result.images, accepted, query.scale, {"mse": result.mse}
    )


@router.post(
    "/anomaly-score",
    tags=["images"],
    summary="How strange each image is",
    responses=answers(schemas.ScoreAnswer, examples.SCORE, errors=BODY_ERRORS + WORK_ERRORS),
    openapi_extra=images_request(examples.IMAGES),
)
async def anomaly_score(
    request: Request, query: Annotated[schemas.ScoreQuery, Query()]
) -> Response:
    """Larger is stranger. `p_value` and `is_anomaly` are null: this bundle has no calibration."""
    service, context = Service.of(request), RequestContext.of(request)
    media.negotiate(request.headers.get("accept"), [JSON])
    offered = service.inference.engine.scores
    name = query.score or offered[0]
    if name not in offered:
        raise InvalidContentError(
            f"score is {name[:64]!r}, this model offers {', '.join(offered)}", ("query", "score")
        )
    images = await _read_images(request, query)
    scores = await service.inference.score(images, context)
    # No calibration yet, so no threshold, p-value or verdict: null, never an invented number.
    return media.json_response(
        {
            "model": service.name,
            "score_type": name,
            "alpha": query.alpha,
            "threshold": None,
            "score": scores.score,
            "p_value": None,
            "is_anomaly": None,
            "mse": scores.mse,
            "kl": scores.kl,
        }
    )


@router.get(
    "/sample",
    tags=["latents"],
    summary="New images: z ~ N(0, I), decoded",
    responses=answers(schemas.ImagesAnswer, errors=WORK_ERRORS, png=True),
)
async def sample(request: Request, query: Annotated[schemas.SampleQuery, Query()]) -> Response:
    """`n` images nobody has drawn before. The same `seed` gives the same images."""
    accepted = media.negotiate(request.headers.get("accept"), [PNG, JSON])
    z = _draw_prior(request, query.n, query.seed)
    return await _decoded(request, z, accepted, query.scale)


@router.get(
    "/model",
    tags=["service"],
    summary="The bundle in memory",
    response_model=schemas.ModelAnswer,
)
async def model(request: Request) -> dict[str, Any]:
    """What it is, where it comes from, how well it fits, and what it offers."""
    engine = Service.of(request).inference.engine
    bundle = engine.bundle
    return {
        "id": bundle.name,
        "version": bundle.version,
        "architecture": bundle.config.to_json(),
        "image_shape": bundle.config.image_shape,
        "latent_size": bundle.config.latent_size,
        "scores": engine.scores,
        "calibration": None,
        "device": engine.device,
        "dtype": engine.dtype,
        "metrics": bundle.metrics,
        "provenance": bundle.provenance,
    }


@router.get(
    "/livez",
    tags=["service"],
    summary="Is the process alive?",
    responses=answers(schemas.HealthAnswer, {"status": "ok"}),
)
async def livez() -> dict[str, str]:
    """200 while the process answers."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    tags=["service"],
    summary="Has a real forward pass worked lately?",
    responses=answers(schemas.HealthAnswer, {"status": "ok"}, errors=[503]),
)
async def readyz(request: Request) -> dict[str, str]:
    """200 if a forward pass worked in the last seconds, or works now; else 503 with the reason."""
    await Service.of(request).inference.check_ready()
    return {"status": "ok"}


@router.get("/metrics", tags=["service"], summary="Prometheus text", response_class=Response)
async def metrics(request: Request) -> Response:
    """Requests, latency, batch sizes, queue depth."""
    text = Service.of(request).metrics.render()
    return Response(text, media_type=Metrics.content_type)


async def _read_body(request: Request) -> bytes:
    """The body, within the request's deadline."""
    context = RequestContext.of(request)
    context.shorten_timeout(request.headers)
    try:
        async with asyncio.timeout(context.time_left_s):
            return await media.read_body(request, Service.of(request).settings.max_body_bytes)
    except TimeoutError as error:
        raise BodyTimeoutError(
            f"the body did not arrive within the request's {context.timeout_s:g} s"
        ) from error


async def _read_images(request: Request, query: schemas.FileQuery) -> media.Pixels:
    service = Service.of(request)
    body = await _read_body(request)
    image_format = media.ImageFormat(
        shape=service.inference.engine.bundle.config.image_shape,
        max_images=service.settings.max_images_per_request,
        max_image_pixels=service.settings.max_image_pixels,
    )
    options = media.FileOptions(resize=query.resize, invert=query.invert)
    return await media.read_images(body, request.headers, image_format, options)


def _read_latents(body: bytes, request: Request) -> Floats:
    """The latents in a JSON body, (N, D), or as many draws from the prior as it asks for."""
    service = Service.of(request)
    media_type = media.body_type(body, request.headers)
    if media_type != JSON:
        raise UnsupportedTypeError(f"Content-Type is {media_type!r}, this route reads {JSON}")
    value = media.parse_json(body)
    if "n" in value:
        try:
            prior = schemas.PriorBody.model_validate(value)
        except ValidationError as error:
            found = [item | {"loc": ("body", *item["loc"])} for item in error.errors()]
            raise RequestValidationError(found) from error
        return _draw_prior(request, prior.n, prior.seed)
    media.reject_unknown(value, ["z"])
    items = media.check_items(value, "z", service.settings.max_images_per_request)
    z = media.numbers(items, "z", [(service.inference.engine.bundle.config.latent_size,)])
    wrong = ~(np.abs(z) <= MAX_LATENT)  # so that NaN is wrong too
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise InvalidContentError(
            f"z[{row}] has {z[row, column]} at {column}, expected numbers within ±{MAX_LATENT:g}",
            ("body", "z", row, column),
        )
    return z.astype(np.float32)


def _draw_prior(request: Request, n: int, seed: int | None) -> Floats:
    service = Service.of(request)
    media.check_count(n, service.settings.max_images_per_request)
    return standard_normal((n, service.inference.engine.bundle.config.latent_size), _seed(seed))


async def _decoded(request: Request, z: Floats, accepted: str, scale: int) -> Response:
    result = await Service.of(request).inference.decode(z, RequestContext.of(request))
    return await _images_response(request, result.images, accepted, scale, {})


async def _images_response(
    request: Request, images: Floats, accepted: str, scale: int, extra: dict[str, Any]
) -> Response:
    """Images, (N, C, H, W), as the accepted type; `extra` goes with them in JSON."""
    service = Service.of(request)
    if accepted == PNG:
        return await asyncio.to_thread(
            media.png_response, images, scale, service.settings.max_image_pixels
        )
    return media.json_response({"model": service.name, "images": media.nested(images)} | extra)


def _seed(asked: int | None) -> int:
    return secrets.randbits(64) if asked is None else asked
