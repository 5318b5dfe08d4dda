"""Routes for images and latents: encode, decode, reconstruct, score and sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from model.engine.engine import Engine
from model.results import Floats
from model.scores.calibration import DEFAULT_DRAWS
from service.api import schemas
from service.api.openapi import BODY_ERRORS, WORK_ERRORS, responses
from service.api.state import Service
from service.codecs import registry
from service.codecs.accept import negotiate
from service.codecs.arrays import check_count, check_draws
from service.codecs.gif import check_frames, frames_bytes
from service.codecs.options import FileReport, ImageOptions, LatentOptions, Pixels
from service.codecs.png import picture_bytes, sheet_sides
from service.codecs.responses import MapDrawing, Result, without_grey_channel
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
    responses=responses(
        schemas.EncodeAnswer,
        registry.ARRAY_RESPONSE_TYPES,
        errors=BODY_ERRORS + WORK_ERRORS,
    ),
)
@fast()
async def encode(request: Request, query: Annotated[schemas.EncodeQuery, Query()]) -> Response:
    """The posterior N(μ, diag σ²) of each image. μ is the embedding. With `sample`, also z drawn
    from the posterior.

    As an array: [N, 2, D], μ first, then σ.
    """
    service, context = Service.of(request), RequestContext.of(request)
    accepted = negotiated(request, registry.ARRAY_RESPONSE_TYPES)
    images, warnings = await read_request_images(request, query)
    posterior = await service.inference.encode(images, context)
    fields = {"model": service.name, "mu": posterior.mu, "sigma": posterior.sigma}
    if query.sample:
        fields["z"] = draw(posterior, query.seed)
    result = Result(fields, np.stack(posterior, axis=1), warnings=warnings)
    return await write_result(request, accepted, result)


@router.post(
    "/decode",
    tags=["latents"],
    summary="Latents to images",
    responses=responses(
        schemas.ImagesAnswer, registry.DECODE_RESPONSE_TYPES, errors=BODY_ERRORS + WORK_ERRORS
    ),
)
@fast()
async def decode(request: Request, query: Annotated[schemas.DecodeQuery, Query()]) -> Response:
    """One image for each latent. With `n` instead of latents, `n` images decoded from draws from
    the prior.

    A GIF shows them one after another, a PNG side by side."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = negotiated(request, registry.DECODE_RESPONSE_TYPES)
    body = await read_body(request, service.settings.max_body_bytes)
    options = LatentOptions(
        size=service.latent_size,
        max_images=service.settings.max_images_per_request,
        query_names=type(query).model_fields,
    )
    content_type = context.headers.get("content-type", "")
    z = await registry.read_latents(
        body, content_type, options, service.decoders_for(body), context.deadline
    )
    return await _decode(request, z, accepted, query)


@router.post(
    "/reconstruct",
    tags=["images"],
    summary="Images through the network and back",
    responses=responses(
        schemas.ReconstructAnswer, registry.IMAGE_RESPONSE_TYPES, errors=BODY_ERRORS + WORK_ERRORS
    ),
)
@fast()
async def reconstruct(
    request: Request, query: Annotated[schemas.ReconstructQuery, Query()]
) -> Response:
    """Each image encoded and decoded again, with the mean squared error."""
    service, context = Service.of(request), RequestContext.of(request)
    accepted = negotiated(request, registry.IMAGE_RESPONSE_TYPES)
    images, warnings = await read_request_images(request, query)
    check_picture(service, accepted, len(images), query.scale)
    reconstruction = await service.inference.reconstruct(
        images, context, sample=query.sample, seed=query.seed
    )
    result = images_result(service, reconstruction.images, query, {"mse": reconstruction.mse})
    return await write_result(request, accepted, result._replace(warnings=warnings))


@router.post(
    "/anomaly-score",
    tags=["images"],
    summary="How anomalous each image is",
    responses=responses(
        schemas.ScoreAnswer,
        registry.IMAGE_RESPONSE_TYPES,
        errors=BODY_ERRORS + WORK_ERRORS,
    ),
)
@fast()
async def anomaly_score(
    request: Request, query: Annotated[schemas.ScoreQuery, Query()]
) -> Response:
    """A higher score is more anomalous. `p_value` is the share of clean images that score at least
    as high, and `is_anomaly` is `p_value ≤ alpha`, so `alpha` is the expected false-alarm rate on
    clean images. `p_value`, `is_anomaly` and `threshold` are null for a score without calibration.

    As an array: [N] scores, or the map with `map=true`. A PNG needs `map=true`.

    `map=true` answers where each image is unusual. For the scores of a detector, 0 on the map is
    the median of clean images and 1 their quantile of 99.9 %: a PNG tints the places above 0.5, or
    with `contour=true` outlines those from 1 on. For other scores, the map is the squared error of
    each pixel.
    """
    service, context = Service.of(request), RequestContext.of(request)
    options = score_options(service, query)
    offered_types = registry.IMAGE_RESPONSE_TYPES if query.map else registry.ARRAY_RESPONSE_TYPES
    accepted = negotiated(request, offered_types)
    if query.contour and accepted != registry.PNG:
        raise InvalidContentError(
            f"contour is drawn in PNGs only, and this answer is {accepted}: send Accept: image/png",
            ("query", "contour"),
        )
    images, warnings = await read_request_images(request, query)
    if options.name in service.inference.engine.sampled_scores:
        check_draws(len(images), options.draws, service.settings.max_images_per_request)
    check_picture(service, accepted, len(images), query.scale)
    scores = await service.inference.score(images, context, options)
    fields = score_fields(service, options, scores.threshold) | {
        "score": scores.score,
        "p_value": scores.p_value,
        "is_anomaly": scores.is_anomaly,
        "mse": scores.mse,
        "kl": scores.kl,
    }
    if options.fdr:
        fields["fdr"] = query.fdr
    if scores.anomaly_map is None:
        return await write_result(
            request, accepted, Result(fields, scores.score, warnings=warnings)
        )
    fields["anomaly_map"] = without_grey_channel(scores.anomaly_map)
    drawing = None
    if accepted == registry.PNG:
        scaled = options.name in service.inference.engine.scaled_maps
        drawing = MapDrawing(
            images=images,
            style="contour" if query.contour else "tint" if scaled else "errors",
        )
    result = Result(
        fields=fields,
        array=scores.anomaly_map,
        drawable=True,
        drawing=drawing,
        scale=query.scale,
        max_png_pixels=service.settings.max_image_pixels,
        warnings=warnings,
    )
    return await write_result(request, accepted, result)


@router.get(
    "/sample",
    tags=["latents"],
    summary="New images: z ~ N(0, T² I), decoded",
    responses=responses(schemas.ImagesAnswer, registry.SAMPLE_RESPONSE_TYPES, errors=WORK_ERRORS),
)
@fast()
async def sample(request: Request, query: Annotated[schemas.SampleQuery, Query()]) -> Response:
    """`n` new images, decoded from draws from the prior. The same `seed` gives the same images.

    With a `temperature` T other than 1, draws are from N(0, T² I).
    """
    service = Service.of(request)
    accepted = negotiated(request, registry.SAMPLE_RESPONSE_TYPES)
    check_count(query.n, service.settings.max_images_per_request)
    z = standard_normal((query.n, service.latent_size), query.seed)
    z *= query.temperature
    return await _decode(request, z, accepted, query)


def negotiated(request: Request, offered: Sequence[str]) -> str:
    """The type of the answer. Raises `NotAcceptableError`."""
    return negotiate(RequestContext.of(request).headers.get("accept"), offered)


def score_fields(
    service: Service, options: ScoreOptions, threshold: float | None
) -> dict[str, Any]:
    """The first fields of an answer with scores, which are the same for all images."""
    return {
        "model": service.name,
        "score_type": options.name,
        "alpha": options.alpha,
        # float32 like the scores, so that JSON shows both with the same digits.
        "threshold": None if threshold is None else np.float32(threshold),
    }


def score_options(service: Service, query: schemas.ScoreQuery) -> ScoreOptions:
    """How a request wants its images scored.

    Raises `InvalidContentError` if the model does not offer the requested score, or for a contour
    of anything but a map on the scale of clean images.
    """
    engine = service.inference.engine
    name = score_name(engine, query.score)
    if query.contour:
        _check_contour(query, name, engine.scaled_maps)
    return ScoreOptions(
        name=name,
        alpha=service.settings.alpha if query.alpha is None else query.alpha,
        fdr=query.fdr is not None,
        map=query.map,
        draws=query.samples or DEFAULT_DRAWS,
        seed=query.seed,
        counts=query.count,
    )


def score_name(engine: Engine, name: str | None) -> str:
    """`name`, or the default score if that is None.

    Raises `InvalidContentError` if the model does not offer it.
    """
    name = engine.scores[0] if name is None else name
    if name not in engine.scores:
        raise InvalidContentError(
            f"score is {name[:64]!r}, expected one that this model offers: "
            f"{', '.join(engine.scores)}",
            ("query", "score"),
        )
    return name


def _check_contour(query: schemas.ScoreQuery, name: str, scaled_maps: Sequence[str]) -> None:
    if not query.map:
        reason = "contour needs map=true"
    elif name not in scaled_maps:
        offered = f"{', '.join(scaled_maps)} have one" if scaled_maps else "this model has none"
        reason = f"contour needs a score whose map is on the scale of clean images: {offered}"
        reason += f"; score is {name!r}"
    else:
        return
    raise InvalidContentError(reason, ("query", "contour"))


async def read_request_images(
    request: Request, query: schemas.ImagesQuery, files: dict[int, FileReport] | None = None
) -> tuple[Pixels, Sequence[str]]:
    """The images of a request, (N, C·H·W), and what its caller should know of how they were read.

    Adds to `files` what each image file is. Errors as in `registry.read_images`.
    """
    service = Service.of(request)
    body = await read_body(request, service.settings.max_body_bytes)
    context = RequestContext.of(request)
    options = image_options(service, context.headers, query)
    options.deadline = context.deadline
    options.files = files
    images = await registry.read_images(body, options, service.decoders_for(body))
    return images, options.warnings


def image_options(
    service: Service, headers: Mapping[str, str], query: schemas.ImagesQuery
) -> ImageOptions:
    """How to read the images of a request."""
    bundle = service.inference.engine.bundle
    return ImageOptions(
        shape=bundle.config.image_shape,
        preprocessing=bundle.preprocessing,
        max_images=service.settings.max_images_per_request,
        max_image_pixels=service.settings.max_image_pixels,
        content_type=headers.get("content-type", ""),
        dtype=query.dtype,
        resize=query.resize,
        invert=query.invert,
        bits=query.bits,
        query_names=type(query).model_fields,
    )


def check_picture(service: Service, accepted: str, n: int, scale: int) -> None:
    """Raise `InvalidContentError` for a picture that would be too large, before the work for it."""
    if accepted in registry.PICTURES:
        _, *sides = service.inference.engine.bundle.config.image_shape
        check = sheet_sides if accepted == registry.PNG else check_frames
        check(n, (sides[0], sides[1]), scale, service.settings.max_image_pixels)


async def write_result(request: Request, accepted: str, result: Result) -> Response:
    """The response in the negotiated type. What a picture takes is reserved meanwhile.

    Raises `TimeoutError` at the deadline.
    """
    service, context = Service.of(request), RequestContext.of(request)
    if accepted == registry.PNG:
        context.reserve_answer(picture_bytes(result))
    elif accepted == registry.GIF:
        context.reserve_answer(frames_bytes(result))
    return await registry.write(accepted, result, service.writers, context.deadline)


async def _decode(
    request: Request, z: Floats, accepted: str, query: schemas.DecodeQuery
) -> Response:
    service = Service.of(request)
    check_picture(service, accepted, len(z), query.scale)
    decoded = await service.inference.decode(z, RequestContext.of(request))
    return await write_result(request, accepted, images_result(service, decoded.images, query, {}))


def images_result(
    service: Service,
    images: Floats,
    query: schemas.DecodeQuery | schemas.PreprocessQuery,
    extra: dict[str, Any],
) -> Result:
    """The result for images of shape (N, C, H, W). `extra` holds further JSON fields."""
    return Result(
        fields={"model": service.name, "images": without_grey_channel(images)} | extra,
        array=images,
        drawable=True,
        uint8=query.dtype == "uint8",
        scale=query.scale,
        max_png_pixels=service.settings.max_image_pixels,
    )
