"""Plans for direct requests: /anomaly-score and /encode, with small bodies.

A planner sees a request's head, and plans what `service.api.images` would do. It gives None for
options that are seldom used, and for errors: their requests take the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
from fastapi.exceptions import RequestValidationError

from model.results import Encoding, Floats
from service.api import schemas
from service.api.images import image_options, score_fields, score_options
from service.api.state import Service
from service.codecs import registry
from service.codecs.accept import negotiate
from service.codecs.options import Pixels
from service.codecs.responses import Result, to_json
from service.errors import ServiceError
from service.http.compression import COMPRESS_BYTES, is_accepted
from service.http.direct import Answer, Plan, Planner, lines_of
from service.http.fast_routes import parse_query
from service.inference.admission import ScoresWithPValues

MAX_IMAGES: Final = 512
"""Images whose answer is written on the event loop, in half a millisecond."""

FEW_IMAGES: Final = 4
"""Up to this many, a request's part of the texts of a batch takes less time than its own."""

FLOAT_BYTES: Final = 14
"""One float32 in JSON at most, with its comma: `-1.1754944e-38,`."""

SCORE_BYTES: Final = 4 * FLOAT_BYTES + 24
"""One image's score, verdict, MSE and KL, and its p-value, which has up to 17 digits."""

OTHER_BYTES: Final = 512
"""The rest of an answer: names of fields, of the model, and of the score."""


def planners(service: Service) -> dict[str, Planner]:
    """The planner of each path that has one."""
    return {
        "/anomaly-score": _or_none(partial(_plan_scores, service, ColumnTexts())),
        "/encode": _or_none(partial(_plan_encoding, service)),
    }


def _or_none(planner: Planner) -> Planner:
    """A planner that gives None for a request that is wrong: the general way has its error."""

    def plan(headers: Mapping[str, str], query_string: bytes) -> Plan | None:
        try:
            return planner(headers, query_string)
        except (ServiceError, RequestValidationError):
            return None

    return plan


class ColumnTexts:
    """The columns of a batch of scores as JSON texts, written once for all requests of the batch.

    One call of orjson per column takes half the time of one per column and request.
    """

    def __init__(self) -> None:
        self._result: ScoresWithPValues | None = None
        self._texts: tuple[list[bytes], ...] = ()
        self._p_values: list[float] = []

    def of(self, result: ScoresWithPValues) -> tuple[tuple[list[bytes], ...], list[float]]:
        """The texts of score, p-value, MSE and KL, (N,) each, and the p-values as numbers."""
        if result is not self._result:
            columns = (result.score, result.p_value, result.mse, result.kl)
            self._texts = tuple(to_json(column)[1:-1].split(b",") for column in columns)
            self._p_values = result.p_value.tolist()
            self._result = result
        return self._texts, self._p_values


def _plan_scores(
    service: Service, texts: ColumnTexts, headers: Mapping[str, str], query_string: bytes
) -> Plan | None:
    query = parse_query(schemas.ScoreQuery, query_string)
    options = score_options(service, query)
    accepted = _accepted(headers)
    inference = service.inference
    usual = options.counts and not (options.map or options.fdr)
    if (
        not (usual and inference.is_calibrated(options.name))
        or options.name in inference.engine.sampled_scores
    ):
        return None
    alpha = options.alpha
    threshold = inference.threshold(options.name, alpha)
    fields = score_fields(service, options, threshold)
    start_of_answer = to_json(fields)[:-1]

    def write_many(result: ScoresWithPValues, start: int, stop: int) -> Answer:
        score, p_value = result.score[start:stop], result.p_value[start:stop]
        verdicts = p_value <= alpha
        service.metrics.count_scored(stop - start, int(np.count_nonzero(verdicts)))
        if accepted != registry.JSON:
            return _array_answer(accepted, score)
        columns = {"score": score, "p_value": p_value, "is_anomaly": verdicts}
        parts = {"mse": result.mse[start:stop], "kl": result.kl[start:stop]}
        return _json_answer(to_json(fields | columns | parts))

    def write(result: ScoresWithPValues, start: int, stop: int) -> Answer:
        if stop - start > FEW_IMAGES or accepted != registry.JSON:
            return write_many(result, start, stop)
        (score, p_value, mse, kl), numbers = texts.of(result)
        verdicts = [p <= alpha for p in numbers[start:stop]]
        service.metrics.count_scored(len(verdicts), sum(verdicts))
        return _json_answer(
            b'%b,"score":[%b],"p_value":[%b],"is_anomaly":[%b],"mse":[%b],"kl":[%b]}'
            % (
                start_of_answer,
                b",".join(score[start:stop]),
                b",".join(p_value[start:stop]),
                b",".join([b"true" if verdict else b"false" for verdict in verdicts]),
                b",".join(mse[start:stop]),
                b",".join(kl[start:stop]),
            )
        )

    read = _reader(service, headers, query, SCORE_BYTES if accepted == registry.JSON else 0)
    return Plan(read, inference.score_run(options.name), inference.inline_images, write)


def _plan_encoding(
    service: Service, headers: Mapping[str, str], query_string: bytes
) -> Plan | None:
    query = parse_query(schemas.EncodeQuery, query_string)
    accepted = _accepted(headers)
    inference = service.inference
    if query.sample:
        return None

    def write(result: Encoding, start: int, stop: int) -> Answer:
        mu, sigma = result.mu[start:stop], result.sigma[start:stop]
        if accepted != registry.JSON:
            return _array_answer(accepted, np.stack((mu, sigma), axis=1))
        return _json_answer(to_json({"model": service.name, "mu": mu, "sigma": sigma}))

    bytes_each = 2 * service.latent_size * FLOAT_BYTES if accepted == registry.JSON else 0
    read = _reader(service, headers, query, bytes_each)
    return Plan(read, inference.engine.encode, inference.inline_images, write)


def _accepted(headers: Mapping[str, str]) -> str:
    return negotiate(headers.get("accept"), registry.ARRAY_RESPONSE_TYPES)


def _json_answer(body: bytes) -> Answer:
    vary = b"Accept" if len(body) < COMPRESS_BYTES else b"Accept, Accept-Encoding"
    return Answer(
        b"content-length: %d\r\ncontent-type: application/json\r\nvary: %b\r\n" % (len(body), vary),
        body,
    )


def _array_answer(media_type: str, array: Floats) -> Answer:
    response = registry.WRITERS[media_type](Result({}, array))
    return Answer(lines_of(response.raw_headers), bytes(response.body))


def _reader(
    service: Service, headers: Mapping[str, str], query: schemas.ImagesQuery, bytes_each: int
) -> Callable[[bytes], Pixels | None]:
    """Reads as many images at once as can be answered at once.

    An answer has up to `bytes_each` for each image that could be compressed, and it is too short to
    be.
    """
    max_images = MAX_IMAGES
    if bytes_each and is_accepted(headers.get("accept-encoding")):
        max_images = (COMPRESS_BYTES - OTHER_BYTES) // bytes_each
    options = image_options(service, headers, query)
    read = registry.quick_reader(options)

    def read_few(body: bytes) -> Pixels | None:
        images = read(body)
        return images if images is not None and len(images) <= max_images else None

    return read_few
