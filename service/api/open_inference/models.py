"""The protocol's models: their tensors, their parameters, and what runs for a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from model.config import VAEConfig
from model.scores.calibration import DEFAULT_DRAWS
from service.api import schemas
from service.api.images import score_options
from service.api.open_inference.messages import (
    InferRequest,
    Output,
    Signature,
    Tensors,
    TensorSpec,
)
from service.api.state import Service
from service.codecs.arrays import check_draws
from service.errors import BadBodyError, NotFoundError
from service.inference.admission import ScoreOptions
from service.request import RequestContext

M = TypeVar("M", bound=BaseModel)

NEEDS_CALIBRATION: Final = frozenset({"p_value", "is_anomaly"})
"""Outputs that only a calibrated score has."""

SCORED: Final = frozenset({"score", "p_value", "is_anomaly"})
"""Outputs that depend on the score. MSE and KL are the same for all scores."""


Rows = NDArray[Any]


class Plan(NamedTuple):
    """What a request asks for."""

    outputs: tuple[Output, ...]
    run: Callable[[Rows, RequestContext], Awaitable[Tensors]]
    """Runs the network on checked rows. Gives at least `outputs`."""


@dataclass(frozen=True, eq=False)  # compared by identity: it is a key of a cache
class Model:
    """One of the protocol's models: names of its input, outputs and parameters, and what it does.

    `plan` raises `BadBodyError`, or what a native route raises for the same parameters.
    """

    input: str
    outputs: tuple[str, ...]
    plan: Callable[[Service, InferRequest], Plan]
    parameters: tuple[str, ...] = ()

    def signature(self, config: VAEConfig) -> Signature:
        """The tensors that the model may take and give, calibrated or not."""
        return _signature(self, config.image_shape, config.latent_size)


@lru_cache(maxsize=32)
def _signature(model: Model, image_shape: tuple[int, int, int], latent_size: int) -> Signature:
    specs = tuple(spec_of(name, image_shape, latent_size) for name in model.outputs)
    return Signature(spec_of(model.input, image_shape, latent_size), specs, model.parameters)


def find_model(name: str) -> Model:
    """The model of a name. Raises `NotFoundError`."""
    if name not in MODELS:
        raise NotFoundError(f"there is no model {name[:64]!r}, only {', '.join(MODELS)}")
    return MODELS[name]


def spec_of(name: str, image_shape: tuple[int, int, int], latent_size: int) -> TensorSpec:
    """A tensor's metadata. A name has the same shape in every model."""
    latent = (latent_size,)
    shapes = {"images": image_shape, "z": latent, "mu": latent, "sigma": latent}
    datatype = "BOOL" if name == "is_anomaly" else "FP32"
    return TensorSpec(name, datatype, (-1, *shapes.get(name, ())))


def usual_outputs(service: Service, model: Model) -> list[TensorSpec]:
    """The outputs that a model has if a request sets no parameters."""
    config = service.inference.engine.bundle.config
    calibrated = _scoring(service, {}).has_p_values
    return [
        spec
        for spec in model.signature(config).outputs
        if calibrated or spec.name not in NEEDS_CALIBRATION
    ]


def _plan_encode(service: Service, request: InferRequest) -> Plan:
    async def run(rows: Rows, context: RequestContext) -> Tensors:
        return (await service.inference.encode(rows, context))._asdict()

    return Plan(request.outputs, run)


def _plan_decode(service: Service, request: InferRequest) -> Plan:
    async def run(rows: Rows, context: RequestContext) -> Tensors:
        return (await service.inference.decode(rows, context))._asdict()

    return Plan(request.outputs, run)


def _plan_reconstruct(service: Service, request: InferRequest) -> Plan:
    """All outputs belong to one draw, so the parameters are those of the request."""
    for index, output in enumerate(request.outputs):
        if output.parameters:
            raise BadBodyError(
                f"outputs[{index}] has its own {next(iter(output.parameters))}, which only the "
                "request may have: all outputs are of the same z"
            )
    query = _validated(schemas.ReconstructQuery, request.parameters, flags=("sample",))

    async def run(rows: Rows, context: RequestContext) -> Tensors:
        reconstruction = await service.inference.reconstruct(
            rows, context, sample=query.sample, seed=query.seed
        )
        return reconstruction._asdict()

    return Plan(request.outputs, run)


def _plan_scores(service: Service, request: InferRequest) -> Plan:
    """Images are scored once for each different score that outputs ask for."""
    usual = _scoring(service, request.parameters)
    outputs = request.outputs
    if not request.names_outputs and not usual.has_p_values:
        outputs = tuple(item for item in outputs if item.spec.name not in NEEDS_CALIBRATION)
    works: dict[object, ScoreOptions] = {}
    sources: dict[str, object] = {}
    # Most requests need no look at each output.
    is_plain = usual.has_p_values and not any(output.parameters for output in outputs)
    for index, output in () if is_plain else enumerate(outputs):
        name, scoring = output.spec.name, usual
        if output.parameters:
            scoring = _scoring(service, {**request.parameters, **output.parameters})
        if name in NEEDS_CALIBRATION and not scoring.has_p_values:
            reason = _why_no_p_values(service, scoring.options)
            raise BadBodyError(f"outputs[{index}]: {name} is {reason}")
        if name in SCORED:
            sources[name] = scoring.key
            if name == "is_anomaly" or scoring.key not in works:  # only that depends on alpha
                works[scoring.key] = scoring.options
    if not works:
        works[usual.key] = usual.options
    others = next(iter(works))

    async def run(rows: Rows, context: RequestContext) -> Tensors:
        for options in works.values():
            if options.name in service.inference.engine.sampled_scores:
                check_draws(len(rows), options.draws, service.settings.max_images_per_request)
        found = {
            key: await service.inference.score(rows, context, options)
            for key, options in works.items()
        }
        return {
            name: getattr(found[sources.get(name, others)], name)
            for name in (output.spec.name for output in outputs)
        }

    return Plan(outputs, run)


class _Scoring(NamedTuple):
    """How an output wants its images scored."""

    options: ScoreOptions
    key: object
    """What outputs have to agree on to come from the same scores."""
    has_p_values: bool


def _scoring(service: Service, parameters: Mapping[str, Any]) -> _Scoring:
    options = service.default_score
    if parameters:
        options = score_options(service, _validated(schemas.ScoreQuery, parameters))
    name, inference = options.name, service.inference
    if name not in inference.engine.sampled_scores:
        return _Scoring(options, name, inference.is_calibrated(name))
    has_p_values = inference.is_calibrated(name) and options.draws == DEFAULT_DRAWS
    return _Scoring(options, (name, options.draws, options.seed), has_p_values)


def _validated(query: type[M], parameters: Mapping[str, Any], flags: tuple[str, ...] = ()) -> M:
    """Parameters as the query of the native route with the same name. null is as if left out.

    Raises `RequestValidationError`, as that route does; also for a boolean other than `flags`,
    which pydantic would take for 0 or 1.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, bool) and name not in flags:
            expected = EXPECTED.get(name, "a number")
            raise BadBodyError(f"{name} is {str(value).lower()}, expected {expected}")
    try:
        return query.model_validate(given)
    except ValidationError as error:
        errors = [item | {"loc": ("parameters", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(errors) from error


def _why_no_p_values(service: Service, options: ScoreOptions) -> str:
    if service.inference.is_calibrated(options.name):
        return (
            f"available for {options.name} only with {DEFAULT_DRAWS} samples, its calibration; "
            f"samples is {options.draws}"
        )
    return f"not available for {options.name}, which is not calibrated"


EXPECTED: Final = {"fdr": "'bh'", "score": "the name of a score"}
"""What to give instead of a boolean; all others are numbers."""

MODELS: Final[Mapping[str, Model]] = {
    "encode": Model("images", ("mu", "sigma"), _plan_encode),
    "decode": Model("z", ("images",), _plan_decode),
    "reconstruct": Model("images", ("images", "mse"), _plan_reconstruct, ("sample", "seed")),
    "anomaly-score": Model(
        "images",
        ("score", "p_value", "is_anomaly", "mse", "kl"),
        _plan_scores,
        ("alpha", "score", "seed", "fdr", "samples"),
    ),
}
