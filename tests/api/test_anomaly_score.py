"""Scores with a stated meaning: p-values, false-alarm rates, the scores on offer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.engine.engine import Engine
from model.scores.calibration import DEFAULT_DRAWS
from model.training.calibrate import calibrated
from service.app import App, create_app
from service.settings import Settings
from tests.api.helpers import client_of, problem, uint8_body
from tests.processes import Server

pytestmark = pytest.mark.anyio

SCORES = [
    *("fused", "mse_top5", "mse", "kl", "neg_elbo"),
    *("latent_density", "latent_mahalanobis"),
]
DRAWN = ["reconstruction_probability", "iwae"]


def app_of(bundle: Bundle, directory: Path, alpha: float = 0.01) -> App:
    """A service of a bundle, saved for the purpose."""
    bundle.save(directory, "card")
    return create_app(Settings(bundle=str(directory), threads=1, alpha=alpha))


@pytest.fixture
def images(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Digits, and as many that are mostly noise."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 1, 28, 28), dtype=np.uint8)
    return np.concatenate([digits[:8], noise])


def restated(table: NDArray[np.float32], score: list[float]) -> NDArray[np.float64]:
    """p-values as API.md has them."""
    scores = np.array(score, np.float32)
    found: NDArray[np.float64] = (1 + (table[None] >= scores[:, None]).sum(axis=1)) / (
        len(table) + 1
    )
    return found


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.5, 0.00005])
@pytest.mark.parametrize("name", [None, *SCORES])
async def test_p_values_verdicts_and_threshold(
    client: AsyncClient, engine: Engine, images: NDArray[np.uint8], name: str | None, alpha: float
) -> None:
    query = {"alpha": alpha} | ({"score": name} if name else {})
    response = await client.post("/anomaly-score", params=query, json=uint8_body(images))
    answer = response.json()
    assert answer["score_type"] == (name or "fused")
    assert answer["alpha"] == alpha
    assert engine.bundle.calibration is not None
    table = engine.bundle.calibration.scores[name or "fused"]
    np.testing.assert_allclose(answer["p_value"], restated(table, answer["score"]), rtol=1e-12)
    assert answer["is_anomaly"] == [p <= alpha for p in answer["p_value"]]
    if answer["threshold"] is None:
        assert alpha < 1 / (len(table) + 1)
        assert not any(answer["is_anomaly"])
    else:
        assert answer["is_anomaly"] == [s > answer["threshold"] for s in answer["score"]]


async def test_the_setting_is_the_default_alpha(
    engine: Engine, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    async with client_of(app_of(engine.bundle, tmp_path / "b", alpha=0.2)) as client:
        answer = (await client.post("/anomaly-score", json=uint8_body(images))).json()
        assert answer["alpha"] == 0.2
        assert answer["is_anomaly"] == [p <= 0.2 for p in answer["p_value"]]


@pytest.mark.parametrize("alpha", ["0", "1", "-0.1", "1.5", "nan", "much"])
async def test_alpha_outside_its_range_is_refused(
    client: AsyncClient, four: NDArray[np.uint8], alpha: str
) -> None:
    answer = await client.post(f"/anomaly-score?alpha={alpha}", json=uint8_body(four))
    problem(answer, 422, "alpha", alpha)


async def test_an_unknown_score_is_refused_with_those_on_offer(
    client: AsyncClient, four: NDArray[np.uint8]
) -> None:
    answer = await client.post("/anomaly-score?score=bernoulli", json=uint8_body(four))
    problem(answer, 422, "'bernoulli'", *SCORES, *DRAWN)


async def test_model_names_the_scores_and_the_calibration(
    client: AsyncClient, engine: Engine
) -> None:
    answer = (await client.get("/model")).json()
    assert answer["scores"] == SCORES + DRAWN
    assert engine.bundle.calibration is not None
    assert answer["calibration"] == {
        "data_set": engine.bundle.calibration.data_set,
        "n": engine.bundle.calibration.n,
        "folds": 0,
        "date": engine.bundle.calibration.date,
    }


# Several images at once: the false discovery rate


@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.9])
async def test_benjamini_hochberg_over_the_request(
    client: AsyncClient, images: NDArray[np.uint8], alpha: float
) -> None:
    response = await client.post(
        "/anomaly-score", params={"alpha": alpha, "fdr": "bh"}, json=uint8_body(images)
    )
    answer = response.json()
    assert answer["fdr"] == "bh"
    p = np.array(answer["p_value"])
    m = len(p)
    passing = [k for k in range(1, m + 1) if (p <= alpha * k / m).sum() >= k]
    cut = alpha * max(passing) / m if passing else 0.0
    assert answer["is_anomaly"] == [value <= cut for value in p]
    assert np.mean(answer["is_anomaly"][8:]) == 1  # the noise
    assert answer["is_anomaly"] == [s > answer["threshold"] for s in answer["score"]]


async def test_it_differs_from_the_plain_rule(engine: Engine, tmp_path: Path) -> None:
    """Clean images only: at alpha 0.5 half of them are alarms, and hardly a discovery."""
    clean = np.random.default_rng(1).integers(0, 256, (400, 1, 28, 28), dtype=np.uint8)
    bundle = calibrated(engine.bundle, clean[:300], data_set="noise", date="2026-01-01")
    async with client_of(app_of(bundle, tmp_path / "b")) as client:
        plain, bounded = [
            (await client.post(f"/anomaly-score?{query}", json=uint8_body(clean[300:]))).json()
            for query in ("alpha=0.5", "alpha=0.5&fdr=bh")
        ]
    assert 30 <= sum(plain["is_anomaly"]) <= 70
    assert sum(bounded["is_anomaly"]) <= 10
    assert bounded["p_value"] == plain["p_value"]


async def test_another_correction_is_refused(client: AsyncClient, four: NDArray[np.uint8]) -> None:
    problem(await client.post("/anomaly-score?fdr=no", json=uint8_body(four)), 422, "fdr", "'no'")


async def test_a_table_of_p_values_that_is_lacking(
    engine: Engine, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    """As of a score that the version that calibrated did not know."""
    assert engine.bundle.calibration is not None
    tables = {"mse": engine.bundle.calibration.scores["mse"]}
    bundle = replace(engine.bundle, calibration=replace(engine.bundle.calibration, scores=tables))
    async with client_of(app_of(bundle, tmp_path / "b")) as client:
        for name, known in (("fused", False), ("iwae", False), ("mse", True)):
            response = await client.post(f"/anomaly-score?score={name}", json=uint8_body(images))
            assert (response.json()["p_value"] is not None) == known
        outputs = (await client.get("/v2/models/anomaly-score")).json()["outputs"]
        assert [output["name"] for output in outputs] == ["score", "mse", "kl"]


def test_an_alpha_that_can_flag_nothing_is_reported_at_startup(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app_of(engine.bundle, tmp_path / "b", alpha=0.0002)
    assert "alpha" not in caplog.text
    app_of(engine.bundle, tmp_path / "b", alpha=0.00005)
    assert "alpha is 5e-05" in caplog.text
    assert "10000 images" in caplog.text


# Draws


@pytest.mark.parametrize("name", DRAWN)
async def test_drawn_scores_repeat_by_seed(
    client: AsyncClient, images: NDArray[np.uint8], name: str
) -> None:
    answers = [
        (await client.post(f"/anomaly-score?score={name}{q}", json=uint8_body(images))).json()
        for q in ("&seed=7", "&seed=7", "&seed=8", "")
    ]
    assert answers[0] == answers[1]
    assert len({tuple(answer["score"]) for answer in answers}) == 3
    assert min(answers[0]["score"][8:]) > max(answers[0]["score"][:8])
    assert answers[0]["mse"] == answers[2]["mse"]  # those are at z = μ
    assert all(0 < p <= 1 for p in answers[0]["p_value"])


async def test_many_samples_of_iwae_are_tighter(
    client: AsyncClient, four: NDArray[np.uint8]
) -> None:
    means = [
        np.mean(
            (
                await client.post(
                    f"/anomaly-score?score=iwae&seed=1&samples={k}", json=uint8_body(four)
                )
            ).json()["score"]
        )
        for k in (1, 16, 512)
    ]
    assert means[0] > means[1] > means[2]


async def test_another_number_of_samples_has_no_p_value(
    client: AsyncClient, four: NDArray[np.uint8]
) -> None:
    """It was calibrated with `DEFAULT_DRAWS`: null, never an invented number."""
    for samples, known in ((DEFAULT_DRAWS, True), (DEFAULT_DRAWS + 1, False)):
        response = await client.post(
            f"/anomaly-score?score=iwae&samples={samples}", json=uint8_body(four)
        )
        answer = response.json()
        for key in ("p_value", "is_anomaly", "threshold"):
            assert (answer[key] is not None) == known
        assert len(answer["score"]) == 4


async def test_samples_are_limited(small_client: AsyncClient, four: NDArray[np.uint8]) -> None:
    path = "/anomaly-score?score=iwae&samples="
    assert (await small_client.post(f"{path}2", json=uint8_body(four))).status_code == 200
    problem(await small_client.post(f"{path}3", json=uint8_body(four)), 413, "4", "3", "12", "8")
    problem(await small_client.post(f"{path}0", json=uint8_body(four)), 422, "samples", "0")
    problem(await small_client.post(f"{path}5000", json=uint8_body(four)), 422, "samples", "4096")


async def test_different_numbers_of_samples_at_once(
    client: AsyncClient, engine: Engine, images: NDArray[np.uint8]
) -> None:
    """Each request gets its own: those of K draws do not share a pass with those of another K."""
    numbers = [1, 2, 31, 32, 33, 100]
    path = "/anomaly-score?score=iwae&seed=5&samples="
    body = uint8_body(images)
    together = await asyncio.gather(*(client.post(f"{path}{k}", json=body) for k in numbers * 2))
    for k, answer in zip(numbers * 2, together, strict=True):
        noise = np.random.default_rng(5).standard_normal((16, k, 10), np.float32)
        found = [
            engine.sampled_score(
                "iwae",
                engine.draw(engine.draw_rows(images[i : i + 1], noise[i : i + 1]), min(k, 32)),
                (1, k, 10),
            )[0]
            for i in range(16)
        ]
        assert answer.json()["score"] == pytest.approx(found, rel=1e-5)


async def test_draws_of_one_request_do_not_depend_on_others(
    client: AsyncClient, images: NDArray[np.uint8]
) -> None:
    """Row i is row i: alone and among others, with the same seed for the same rows."""
    path = "/anomaly-score?score=reconstruction_probability&seed=3"
    together = (await client.post(path, json=uint8_body(images))).json()["score"]
    alone = (await client.post(path, json=uint8_body(images[:1]))).json()["score"]
    assert alone == pytest.approx(together[:1], rel=1e-5)


# The map goes with any score


@pytest.mark.parametrize("name", [*SCORES, *DRAWN])
async def test_a_map_with_any_score(
    client: AsyncClient, images: NDArray[np.uint8], name: str
) -> None:
    path = f"/anomaly-score?map=true&score={name}&seed=1"
    answer = (await client.post(path, json=uint8_body(images))).json()
    anomaly_map = np.array(answer["anomaly_map"])
    np.testing.assert_allclose(anomaly_map.mean(axis=(1, 2)), answer["mse"], rtol=1e-5)
    plain = (await client.post(path.replace("true", "false"), json=uint8_body(images))).json()
    assert answer["score"] == pytest.approx(plain["score"], rel=1e-5)


# Bundles without a calibration


async def test_without_calibration_there_is_no_p_value(
    engine: Engine, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    app = app_of(replace(engine.bundle, calibration=None), tmp_path / "b")
    async with client_of(app) as client:
        answer = (await client.post("/anomaly-score?fdr=bh", json=uint8_body(images))).json()
        assert [answer[key] for key in ("threshold", "p_value", "is_anomaly")] == [None] * 3
        assert len(answer["score"]) == len(images)
        assert (await client.get("/model")).json()["calibration"] is None
        outputs = (await client.get("/v2/models/anomaly-score")).json()["outputs"]
        assert [output["name"] for output in outputs] == ["score", "mse", "kl"]


async def test_an_imported_bundle_offers_what_it_can(
    engine: Engine, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    bare = replace(engine.bundle, calibration=None, statistics=None, pixel_variance=None)
    async with client_of(app_of(bare, tmp_path / "b")) as client:
        assert (await client.get("/model")).json()["scores"] == ["mse_top5", "mse", "kl"]
        answer = (await client.post("/anomaly-score", json=uint8_body(images))).json()
        assert answer["score_type"] == "mse_top5"
        problem(
            await client.post("/anomaly-score?score=fused", json=uint8_body(images)),
            422,
            "'fused'",
            "mse_top5, mse, kl",
        )


# The rate itself, on real digits


@pytest.mark.parametrize("name", ["mnist", pytest.param("mnist-conv", marks=pytest.mark.slow)])
def test_false_alarms_on_mnists_test_images(
    server: Server,
    start_server: Callable[..., Server],
    test_images: Callable[[str], NDArray[np.uint8]],
    name: str,
) -> None:
    """Every one of the 10,000, over HTTP, at the default score."""
    headers = {"Content-Type": "application/octet-stream"}
    p_values: list[float] = []
    live = server if name == "mnist" else start_server("--bundle", name)
    with live.client() as client:
        for part in np.split(test_images("mnist"), 5):
            answer = client.post("/anomaly-score", content=part.tobytes(), headers=headers)
            p_values += answer.json()["p_value"]
    rates = {alpha: float(np.mean(np.array(p_values) <= alpha)) for alpha in (0.05, 0.01)}
    print(f"\n{name}: false-alarm rates on MNIST's test set, over HTTP, {rates}")
    assert rates[0.05] == pytest.approx(0.050, abs=0.006)
    assert rates[0.01] == pytest.approx(0.010, abs=0.003)


@pytest.mark.parametrize("name", ["mnist", "mnist-conv", "fashion-mnist", "fashion-mnist-conv"])
def test_alone_and_in_a_batch(name: str, test_images: Callable[[str], NDArray[np.uint8]]) -> None:
    """The same to 1e-5, with the same verdict, by every score."""
    images = test_images("fashion-mnist" if name.startswith("fashion") else "mnist")[:128]
    engine = Engine(load_bundle(find_bundle(name)), device="cpu", threads=1)
    assert engine.bundle.calibration is not None
    for score in SCORES:
        together = engine.score(images, score).score
        alone = np.concatenate([engine.score(image[None], score).score for image in images])
        # A log-likelihood is a difference of terms as large as the typical score: where they nearly
        # cancel, what is left has their rounding.
        atol = 1e-5 * max(1.0, float(np.median(np.abs(together))))
        np.testing.assert_allclose(alone, together, rtol=1e-5, atol=atol)
        for alpha in (0.01, 0.05):
            one, other = (
                engine.bundle.calibration.p_values(score, found) <= alpha
                for found in (together, alone)
            )
            np.testing.assert_array_equal(one, other)


def test_the_shipped_bundles_are_calibrated() -> None:
    for name in ("mnist", "fashion-mnist", "mnist-conv", "fashion-mnist-conv", "mnist-2d"):
        calibration = load_bundle(find_bundle(name)).calibration
        assert calibration is not None
        assert calibration.n == 10_000
        assert set(calibration.scores) == {*SCORES, *DRAWN}
