"""GET /model/calibration: the clean images' scores that p-values come from."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from model.scores.calibration import Calibration, calibration_of
from service.api.calibration import MAX_SCORES
from service.app import App
from tests.api.bodies import JSON, NPY, RAW, Images
from tests.api.helpers import engine_of, problem, uint8_body

pytestmark = pytest.mark.anyio

ROUTE = "/model/calibration"


def use(app: App, calibration: Calibration | None, *, of_bundle: bool = True) -> None:
    """Give the engine another calibration; with `of_bundle`, the bundle too."""
    engine = engine_of(app)
    engine.calibration = calibration
    if of_bundle:
        engine.bundle = replace(engine.bundle, calibration=calibration)


def of_scores(scores: NDArray[np.float32]) -> Calibration:
    return calibration_of({"mse": scores}, data_set="mine", date="2026-01-01", folds=5)


async def test_p_values_follow_from_it(client: AsyncClient, four: Images) -> None:
    for query in ("", "?score=mse"):
        found = (await client.get(ROUTE + query)).json()
        scored = (await client.post(f"/anomaly-score{query}", json=uint8_body(four))).json()
        assert found["score_type"] == scored["score_type"]
        scores, n = np.array(found["scores"]), found["n"]
        assert len(scores) == n
        assert (np.diff(scores) >= 0).all()
        expected = [(1 + np.count_nonzero(scores >= s)) / (n + 1) for s in scored["score"]]
        assert scored["p_value"] == pytest.approx(expected, abs=1e-12)


async def test_it_says_where_it_is_from(client: AsyncClient) -> None:
    found = (await client.get(ROUTE)).json()
    model = (await client.get("/model")).json()
    assert found["model"] == model["id"]
    assert {name: found[name] for name in model["calibration"]} == model["calibration"]


async def test_every_answer_type_holds_the_same(client: AsyncClient) -> None:
    expected = np.array((await client.get(ROUTE)).json()["scores"], np.float32)
    by_npy = np.load(BytesIO((await client.get(ROUTE, headers={"Accept": NPY})).content))
    raw = await client.get(ROUTE, headers={"Accept": RAW})
    assert raw.headers["x-tensor-shape"] == str(len(expected))
    assert raw.headers["x-tensor-dtype"] == "float32"
    for found in (by_npy, np.frombuffer(raw.content, "<f4")):
        assert found.dtype == np.float32
        assert (found == expected).all()
    assert (await client.get(ROUTE)).headers["content-type"] == JSON
    problem(await client.get(ROUTE, headers={"Accept": "image/png"}), 406, NPY)


@pytest.mark.parametrize("n", [1, MAX_SCORES, MAX_SCORES + 1, 123_456])
async def test_of_many_scores_order_statistics_are_shown(
    small_app: App, small_client: AsyncClient, n: int
) -> None:
    use(small_app, of_scores(np.arange(n, dtype=np.float32)))
    found = (await small_client.get(f"{ROUTE}?score=mse")).json()
    assert (found["n"], found["folds"], found["data_set"]) == (n, 5, "mine")
    scores = np.array(found["scores"])
    assert len(scores) == min(n, MAX_SCORES)
    assert (scores[0], scores[-1]) == (0, n - 1)
    if len(scores) > 1:
        assert (np.diff(scores) >= 1).all()
        assert np.ptp(np.diff(scores)) <= 1, "evenly spaced"


async def test_it_is_that_of_the_data_type_in_use(
    small_app: App, small_client: AsyncClient
) -> None:
    table = np.array([1, 2], np.float32)
    calibration = replace(of_scores(table), other_dtypes={"bfloat16": {"mse": table + 10}})
    use(small_app, calibration)
    engine_of(small_app).dtype = "bfloat16"
    use(small_app, calibration.of_dtype("bfloat16"), of_bundle=False)
    found = (await small_client.get(f"{ROUTE}?score=mse")).json()
    assert found["scores"] == [11, 12]


async def test_one_that_is_missing_is_explained(small_app: App, small_client: AsyncClient) -> None:
    what_to_do = ("vae calibrate", "/model/reload")
    use(small_app, of_scores(np.array([1, 2], np.float32)))
    lacks_kl = await small_client.get(f"{ROUTE}?score=kl")
    problem(lacks_kl, 404, "lacks the score 'kl'", *what_to_do)
    engine_of(small_app).dtype = "float16"
    use(small_app, None, of_bundle=False)
    problem(await small_client.get(ROUTE), 404, "computed in float16", *what_to_do)
    use(small_app, None)
    problem(await small_client.get(ROUTE), 404, "has no calibration:", *what_to_do)


async def test_what_is_not_there_is_refused(client: AsyncClient) -> None:
    unknown = await client.get(f"{ROUTE}?score=nothing")
    found = problem(unknown, 422, "'nothing'", "mse")
    assert found["errors"][0]["loc"] == ["query", "score"]
    problem(await client.get(f"{ROUTE}?scores=mse"), 422, "'scores'")
    twice = problem(await client.get(f"{ROUTE}?score=mse&score=kl"), 422, "'score' is there twice")
    assert twice["errors"][0]["loc"] == ["query", "score"]
