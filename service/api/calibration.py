"""The route for the calibration: the clean images' scores that p-values come from."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from model.engine.engine import Engine
from model.results import Floats
from model.scores.calibration import Calibration
from service.api import schemas
from service.api.images import negotiated, score_name
from service.api.openapi import responses
from service.api.state import Service
from service.codecs import registry
from service.codecs.responses import Result
from service.errors import NotFoundError
from service.http.parameters import refuse_repeated
from service.request import RequestContext

MAX_SCORES: Final = 10_000
"""Scores in an answer, at most: more than a histogram can show, and 100 kB of JSON."""

router = APIRouter(dependencies=[Depends(refuse_repeated)])


@router.get(
    "/model/calibration",
    tags=["service"],
    summary="The clean images' scores that p-values come from",
    responses=responses(
        schemas.CalibrationAnswer, registry.ARRAY_RESPONSE_TYPES, errors=[404, 406, 422]
    ),
)
async def calibration(
    request: Request, query: Annotated[schemas.CalibrationQuery, Query()]
) -> Response:
    """Scores of clean images that the network was not trained on, in ascending order: all of them,
    or 10,000 order statistics at evenly spaced ranks, with both ends. Scores in another data type
    have their own calibration, and the answer has that of the data type in use.

    As an array: [m] scores.
    """
    service, context = Service.of(request), RequestContext.of(request)
    accepted = negotiated(request, registry.ARRAY_RESPONSE_TYPES)
    engine = service.inference.engine
    name = score_name(engine, query.score)
    found = _calibration_of(engine, name)
    scores = _order_statistics(found.scores[name])
    fields = {
        "model": service.name,
        "score_type": name,
        "data_set": found.data_set,
        "date": found.date,
        "folds": found.folds,
        "n": found.n,
        "scores": scores,
    }
    return await registry.write(accepted, Result(fields, scores), service.writers, context.deadline)


def _calibration_of(engine: Engine, name: str) -> Calibration:
    """The calibration in use. Raises `NotFoundError` if it is missing or lacks the score."""
    found = engine.calibration
    if found is not None and name in found.scores:
        return found
    if engine.bundle.calibration is None:
        lacks = "this bundle has no calibration"
    elif found is None:
        lacks = f"this bundle has no calibration of scores computed in {engine.dtype}"
    else:
        lacks = f"this bundle's calibration lacks the score {name!r}"
    raise NotFoundError(
        f"{lacks}: `vae calibrate` calibrates all scores with clean images, and "
        "POST /model/reload loads the result"
    )


def _order_statistics(table: Floats) -> Floats:
    """The whole table, (n,), or `MAX_SCORES` of its values at evenly spaced ranks."""
    if len(table) <= MAX_SCORES:
        return table
    ranks = np.rint(np.linspace(0, len(table) - 1, MAX_SCORES)).astype(np.intp)
    chosen: Floats = table[ranks]
    return chosen
