"""Routes that work on images and latents: encode, decode, reconstruct, score and sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from model.results import Floats
from model.scores.calibration import DEFAULT_DRAWS
from service.api import schemas
from service.api.openapi import BODY_ERRORS, WORK_ERRORS, answers
from service.api.state import Service
from service.codecs import registry
from service.codecs.accept import negotiate
from service.codecs.arrays import check_count, check_draws, unit_pixels
from service.codecs.options import ImageOptions, LatentOptions, Pixels
from service.codecs.responses import Result, without_grey_channel
from service.errors import InvalidContentError
from service.http.body import read_body
from service.http.fast_routes import fast
from service.inference.admission import ScoreOptions
from service.request import RequestContext
from service.sampling import draw, standard_normal

router = APIRouter()


@router.post(
    "/encode",
    tags=["images"],
    summary="Images to latents: μ and σ of the posterior",
    responses=answers(
        schemas.EncodeAnswer,
        registry.ARRAY_ANSWERS,
        errors=BODY_ERRORS + WORK_ERRORS,
    ),
)
@fast()
async def encode(request: Request, query: Annotated[schemas.EncodeQuery, Query()]) -> Response:
    """Each image's posterior N(μ, diag σ²). μ is the embedding; `sample` also draws z.

    As an array: [N, 2, D], μ then σ.
    """
    service, context = Service.of(request), RequestContext.of(request)
    accepted = _negotiate(request, registry.ARRAY_ANSWERS)
    images = await _read_images(request, query)
    posterior = await service.inference.encode(images, context)
    fields = {"model": service.name, "mu": posterior.mu, "sigma": posterior.sigma}
    if query.sample:
        fields["z"] = draw(posterior, query.seed)
    return await _write(request, accepted, Result(fields, np.stack(posterior, axis=1)))


@router.post(
    "/decode",
    tags=["latents"],
    summary="Latents to images",
    responses=answers(
        schemas.ImagesAnswer, registry.IMAGE_ANSWERS, errors=BODY_ERRORS + WORK_ERRORS
    ),
)
@fast()
async def decode(request: Request, query: Annotated[schemas.DecodeQuery, Query()]) -> Response:
    """The image that each latent stands for; or, given `n`, images of draws from the prior."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = _negotiate(request, registry.IMAGE_ANSWERS)
    body = await read_body(request, service.settings.max_body_bytes)
    wanted = LatentOptions(
        size=service.latent_size, max_images=service.settings.max_images_per_request
    )
    named = context.headers.get("content-type", "")
    z = await registry.read_latents(
        body, named, wanted, service.decoders_for(body), context.deadline
    )
    return await _decoded(request, z, accepted, query)


@router.post(
    "/reconstruct",
    tags=["images"],
    summary="Images through the network and back",
    responses=answers(
        schemas.ReconstructAnswer, registry.IMAGE_ANSWERS, errors=BODY_ERRORS + WORK_ERRORS
    ),
)
@fast()
async def reconstruct(
    request: Request, query: Annotated[schemas.ReconstructQuery, Query()]
) -> Response:
    """Each image encoded and decoded again, as the network would have drawn it."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = _negotiate(request, registry.IMAGE_ANSWERS)
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
        registry.IMAGE_ANSWERS,
        errors=BODY_ERRORS + WORK_ERRORS,
    ),
)
@fast()
async def anomaly_score(
    request: Request, query: Annotated[schemas.ScoreQuery, Query()]
) -> Response:
    """Larger is stranger. `p_value` is the share of clean images that are as strange or stranger,
    and `is_anomaly` is `p_value ≤ alpha`, so that `alpha` is the false-alarm rate to be expected on
    clean images. All three, with `threshold`, are null for a score that was not calibrated.

    As an array: [N] scores, or the map with `map=true`. A PNG needs `map=true`.
    """
    service, context = Service.of(request), RequestContext.of(request)
    offered_types = registry.IMAGE_ANSWERS if query.map else registry.ARRAY_ANSWERS
    accepted = _negotiate(request, offered_types)
    wanted = _score_wanted(service, query)
    images = await _read_images(request, query)
    if wanted.name in service.inference.engine.sampled_scores:
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
        return await _write(request, accepted, Result(fields, found.score))
    fields["anomaly_map"] = without_grey_channel(found.error_map)
    drawn_over = (
        unit_pixels(images).reshape(found.error_map.shape) if accepted == registry.PNG else None
    )
    answer = Result(
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
    responses=answers(schemas.ImagesAnswer, registry.PICTURE_ANSWERS, errors=WORK_ERRORS),
)
@fast()
async def sample(request: Request, query: Annotated[schemas.SampleQuery, Query()]) -> Response:
    """`n` images that nobody has drawn before. The same `seed` gives the same images."""
    service = Service.of(request)
    accepted = _negotiate(request, registry.PICTURE_ANSWERS)
    check_count(query.n, service.settings.max_images_per_request)
    z = standard_normal((query.n, service.latent_size), query.seed)
    return await _decoded(request, z, accepted, query)


def _negotiate(request: Request, offered: Sequence[str]) -> str:
    return negotiate(RequestContext.of(request).headers.get("accept"), offered)


def _score_wanted(service: Service, query: schemas.ScoreQuery) -> ScoreOptions:
    """Raises `InvalidContentError` for a score that is not offered."""
    engine = service.inference.engine
    name = engine.scores[0] if query.score is None else query.score
    if name not in engine.scores:
        raise InvalidContentError(
            f"score is {name[:64]!r}, this model offers {', '.join(engine.scores)}",
            ("query", "score"),
        )
    return ScoreOptions(
        name=name,
        alpha=service.settings.alpha if query.alpha is None else query.alpha,
        fdr=query.fdr is not None,
        map=query.map,
        draws=query.samples or DEFAULT_DRAWS,
        seed=query.seed,
    )


async def _read_images(request: Request, query: schemas.ImagesQuery) -> Pixels:
    service = Service.of(request)
    body = await read_body(request, service.settings.max_body_bytes)
    context = RequestContext.of(request)
    wanted = ImageOptions(
        shape=service.inference.engine.bundle.config.image_shape,
        max_images=service.settings.max_images_per_request,
        max_image_pixels=service.settings.max_image_pixels,
        content_type=context.headers.get("content-type", ""),
        dtype=query.dtype,
        resize=query.resize,
        invert=query.invert,
        deadline=context.deadline,
    )
    return await registry.read_images(body, wanted, service.decoders_for(body))


async def _write(request: Request, accepted: str, answer: Result) -> Response:
    service, context = Service.of(request), RequestContext.of(request)
    return await registry.write(accepted, answer, service.writers, context.deadline)


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
) -> Result:
    """Images, (N, C, H, W), in every form; `extra` goes with them in JSON."""
    return Result(
        fields={"model": service.name, "images": without_grey_channel(images)} | extra,
        array=images,
        drawable=True,
        uint8=query.dtype == "uint8",
        scale=query.scale,
        max_png_pixels=service.settings.max_image_pixels,
    )
