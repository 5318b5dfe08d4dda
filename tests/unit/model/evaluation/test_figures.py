"""The metrics of an evaluation, against definitions, other implementations, and known truths."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from model.bundle.bundle import Bundle
from model.config import VAEConfig
from model.datasets.load import DataError, ImageSet
from model.engine.engine import Engine
from model.evaluation.baselines import png_bytes, trivial_scores
from model.evaluation.detection import Values, auroc, fpr_at_95_tpr
from model.evaluation.evaluate import (
    HALVINGS,
    evaluate,
    exchangeable_rates,
    false_alarms,
    is_calibration_set,
)
from model.evaluation.figures import CalibrationFacts, Evaluation
from model.evaluation.observations import Observations, observe
from model.scores.calibration import Calibration, calibration_of
from model.training.calibrate import calibrated
from tests.unit.samples import assert_one_line, tiny_bundle

CONFIG = VAEConfig(hidden_sizes=(16,), latent_size=3)
SETS = ("letters", "letters (2)")


def image_set(name: str, images: NDArray[np.uint8]) -> ImageSet:
    return ImageSet(name=name, images=images, files={f"{name}.gz": "00ff"})


@pytest.fixture(scope="module")
def bundle(digits: NDArray[np.uint8]) -> Bundle:
    plain = tiny_bundle(config=CONFIG, pixel_variance=0.1)
    return calibrated(plain, digits[300:420], data_set="held out", date="2026-01-02")


@pytest.fixture(scope="module")
def observed(bundle: Bundle, digits: NDArray[np.uint8]) -> Observations:
    engine = Engine(bundle, device="cpu")
    letters = [image_set("letters", 255 - digits[200:230]), image_set("letters", digits[230:250])]
    return observe(engine, image_set("digits", digits[:100]), letters, training=None)


@pytest.fixture(scope="module")
def turned(bundle: Bundle, digits: NDArray[np.uint8]) -> Observations:
    """Without anomalies."""
    engine = Engine(bundle, device="cpu")
    return observe(engine, image_set("digits", digits[:100]), [], training=None)


@pytest.fixture(scope="module")
def evaluation(observed: Observations) -> Evaluation:
    return evaluate(observed, date="2026-02-03", notes=["small"])


# AUROC


def normals(seed: int, n: int, m: int, shift: float) -> tuple[Values, Values]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal(n), generator.standard_normal(m) + shift


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_share_of_pairs_in_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    clean, strange = generator.integers(0, 9, 31), generator.integers(2, 12, 17)  # with ties
    above = (strange[:, None] > clean).mean() + 0.5 * (strange[:, None] == clean).mean()
    found = auroc(clean.astype(np.float32), strange.astype(np.float32))
    assert found.value == pytest.approx(above)
    both = np.concatenate([clean, strange])
    assert found.value == pytest.approx(roc_auc_score(np.repeat([0, 1], [31, 17]), both))
    assert 0 < found.low < found.value < found.high < 1


def test_its_interval_is_about_the_bootstrap_s() -> None:
    clean, strange = normals(0, 150, 120, 1.0)
    found = auroc(clean, strange)
    generator = np.random.default_rng(1)
    areas = [
        (generator.choice(strange, 120)[:, None] > generator.choice(clean, 150)).mean()
        for _ in range(1_000)
    ]
    low, high = np.quantile(areas, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_its_interval_holds_the_truth_19_times_in_20(shift: float) -> None:
    truth = NormalDist().cdf(shift / 2**0.5)
    intervals = [auroc(*normals(seed, 40, 50, shift)) for seed in range(300)]
    covered = np.mean([found.low <= truth <= found.high for found in intervals])
    assert 0.92 <= covered <= 0.985


def test_scores_that_never_overlap_are_not_certain() -> None:
    few, many = np.arange(5.0), np.arange(100.0) + 10
    found = auroc(few, many)
    assert (found.value, found.high) == (1, 1)
    assert found.low**5 == pytest.approx(0.025)
    found = auroc(many, few)
    assert (found.value, found.low) == (0, 0)
    assert (1 - found.high) ** 5 == pytest.approx(0.025)


def test_one_image_says_nothing() -> None:
    found = auroc(np.arange(10.0), np.array([4.5]))
    assert (found.value, found.low, found.high) == (0.5, 0, 1)


# False positives at 95 % true positives


@pytest.mark.parametrize(("n", "m"), [(40, 20), (33, 61), (7, 3), (5, 1), (100, 100)])
def test_fpr_is_that_of_the_best_threshold_that_finds_95_percent(n: int, m: int) -> None:
    generator = np.random.default_rng(n)
    clean, strange = generator.integers(0, 9, n), generator.integers(3, 14, m)
    rates = [
        (clean >= threshold).mean()
        for threshold in range(15)
        if 100 * (strange >= threshold).sum() >= 95 * m
    ]
    found = fpr_at_95_tpr(clean.astype(np.float32), strange.astype(np.float32))
    assert found.value == pytest.approx(min(rates))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_its_interval_is_that_of_drawing_images() -> None:
    clean, strange = normals(2, 200, 150, 2.0)
    generator = np.random.default_rng(3)
    drawn = np.sort(generator.choice(strange, (2_000, 150)), axis=1)
    thresholds = drawn[:, 150 * 5 // 100]
    rates = (generator.choice(clean, (2_000, 200)) >= thresholds[:, None]).mean(axis=1)
    found = fpr_at_95_tpr(clean, strange)
    wanted = np.quantile(rates, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.02)
    assert fpr_at_95_tpr(clean, strange) == found


def test_no_false_alarm_among_few_is_not_never() -> None:
    found = fpr_at_95_tpr(np.arange(9.0), np.arange(9.0) + 20)
    assert (found.value, found.low) == (0, 0)
    assert (1 - found.high) ** 9 == pytest.approx(0.025)
    found = fpr_at_95_tpr(np.arange(9.0) + 20, np.arange(9.0))
    assert (found.value, found.high) == (1, 1)
    assert found.low < 0.7


# Baselines


def test_trivial_scores_are_what_they_say() -> None:
    images = np.zeros((3, 1, 4, 4), np.uint8)
    images[1] = 255
    images[2, 0, :2] = 51
    scores = trivial_scores(images)
    assert scores["mean intensity"] == pytest.approx([0, 1, 0.1])
    assert scores["share of zero pixels"] == pytest.approx([1, 0, 0.5])
    noise = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    assert png_bytes(noise) > png_bytes(np.zeros_like(noise)) > png_bytes(noise[:1, :1, :1]) > 0


# Observations


def test_without_anomalies_the_clean_images_are_turned(
    observed: Observations, turned: Observations, digits: NDArray[np.uint8], bundle: Bundle
) -> None:
    assert tuple(found.facts.name for found in observed.anomalies) == SETS
    assert not any(found.derived for found in observed.anomalies)
    down, mirrored = turned.anomalies
    assert (down.facts.name, mirrored.facts.name) == ("upside down", "mirrored")
    assert down.derived
    assert mirrored.derived
    assert turned.judged == (down, mirrored)
    np.testing.assert_array_equal(down.images, np.flip(digits[:100], axis=2))
    np.testing.assert_array_equal(mirrored.images, np.flip(digits[:100], axis=3))
    scores = Engine(bundle, device="cpu").score(mirrored.images, "mse").score
    assert mirrored.scores["mse"] == pytest.approx(scores, rel=1e-5)


def test_it_takes_a_few_images(bundle: Bundle, digits: NDArray[np.uint8]) -> None:
    engine = Engine(bundle, device="cpu")
    with pytest.raises(DataError) as caught:
        observe(engine, image_set("few", digits[:3]), [], training=None)
    assert_one_line(caught.value, "few", 3, 4)
    told: list[str] = []
    clean, one = image_set("few", digits[:4]), image_set("one", digits[9:10])
    few = observe(engine, clean, [one], training=None, on_set=told.append)
    assert told == ["PCA", "few", "one"]
    assert evaluate(few, date="2026-01-01").anomalies[0].images.n == 1


# The evaluation


def test_it_measures_what_the_engine_says(
    evaluation: Evaluation, observed: Observations, bundle: Bundle, digits: NDArray[np.uint8]
) -> None:
    scores = Engine(bundle, device="cpu").score(digits[:100])
    assert evaluation.fit.mse == pytest.approx(scores.mse.mean(), rel=1e-4)
    assert evaluation.fit.kl == pytest.approx(scores.kl.mean(), rel=1e-4)
    assert evaluation.negative_elbo == evaluation.fit.negative_elbo(784, 0.1)
    assert (evaluation.bundle, evaluation.version) == ("tiny", bundle.version)
    assert evaluation.clean.files == {"digits.gz": "00ff"}
    letters = evaluation.anomalies[0]
    for found in letters.detections[: len(observed.clean.scores)]:
        clean, strange = (
            part.scores[found.score] for part in (observed.clean, observed.anomalies[0])
        )
        assert found.auroc == auroc(clean, strange)
        assert found.fpr_at_95_tpr == fpr_at_95_tpr(clean, strange)
        assert not found.is_baseline
    assert letters.default.score == Engine(bundle, device="cpu").scores[0]


def test_a_baseline_points_the_way_that_suits_it(
    evaluation: Evaluation, turned: Observations
) -> None:
    inverted = evaluation.anomalies[0]
    baselines = {found.score: found for found in inverted.detections if found.is_baseline}
    assert len(baselines) == 4
    assert all(found.auroc.value >= 0.5 for found in baselines.values())
    assert baselines["mean intensity"].auroc.value == 1
    assert not baselines["mean intensity"].reversed
    zeros = baselines["share of zero pixels"]
    assert (zeros.auroc.value, zeros.reversed, zeros.fpr_at_95_tpr.value) == (1, True, 0)
    assert inverted.best_baseline.auroc.value == 1
    down = evaluate(turned, date="2026-02-03").anomalies[0]
    intensity = next(found for found in down.detections if found.score == "mean intensity")
    assert intensity.auroc.value == pytest.approx(0.5, abs=1e-6)


def test_an_active_unit_is_one_whose_mean_varies(digits: NDArray[np.uint8]) -> None:
    bundle = tiny_bundle(config=CONFIG)
    weights = {name: tensor.clone() for name, tensor in bundle.weights.items()}
    weights["encoder.2.weight"][:3] *= torch.tensor([[0.0], [20.0], [0.001]])
    engine = Engine(replace(bundle, weights=weights), device="cpu")
    found = observe(engine, image_set("digits", digits[:40]), [], training=None)
    assert evaluate(found, date="2026-01-01").active_units == 1


def test_it_survives_json(evaluation: Evaluation, bundle: Bundle) -> None:
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == evaluation
    assert json.loads(text) == evaluation.to_json()
    assert '"is_rival": true' in text  # the name that bundles hold


def test_without_calibration_there_are_no_false_alarms(
    observed: Observations, bundle: Bundle
) -> None:
    engine = Engine(replace(bundle, calibration=None, pixel_variance=None), device="cpu")
    plain = evaluate(replace(observed, engine=engine), date="2026-01-01")
    assert plain.false_alarms is None
    assert plain.negative_elbo is None
    assert plain.to_json()["false_alarms"] is None
    assert Evaluation.from_json(plain.to_json()) == plain


# False alarms


def gaussian_calibration(n: int) -> Calibration:
    scores = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    return calibration_of({"a": scores[0], "b": scores[1]}, data_set="x", date="2026-01-01")


def test_the_rate_is_the_share_of_small_p_values() -> None:
    calibration = gaussian_calibration(500)
    clean = {"a": np.linspace(-3, 3, 41, dtype=np.float32), "c": np.zeros(41, np.float32)}
    alarms = false_alarms(calibration, clean)
    table = calibration.scores["a"]
    for rate in alarms.rates:
        p_values = [(1 + (table >= score).sum()) / 501 for score in clean[rate.score]]
        assert rate.rate == pytest.approx(np.mean([p <= rate.alpha for p in p_values]))
    assert [(rate.score, rate.alpha) for rate in alarms.rates] == [("a", 0.05), ("a", 0.01)]
    assert alarms.calibration == CalibrationFacts.of(calibration)


def test_halves_of_one_set_keep_to_alpha() -> None:
    rates = exchangeable_rates(gaussian_calibration(2_000), "a")
    for rate in rates:
        assert rate.mean == pytest.approx(rate.alpha, abs=3 * rate.std / HALVINGS**0.5 + 0.001)
        spread = (rate.alpha * (1 - rate.alpha) * 2 / 1_000) ** 0.5
        assert rate.std == pytest.approx(spread, rel=0.3)
    assert exchangeable_rates(gaussian_calibration(1), "a") == ()


def test_the_spread_is_that_of_two_samples() -> None:
    alarms = false_alarms(gaussian_calibration(10_000), {"a": np.zeros(9, np.float32)})
    assert alarms.spread(0.05, 10_000) == pytest.approx(0.006, abs=1e-4)  # as the README promises
    assert alarms.spread(0.01, 10_000) == pytest.approx(0.003, abs=3e-4)


def test_it_knows_the_calibration_s_own_images(
    observed: Observations, bundle: Bundle, digits: NDArray[np.uint8]
) -> None:
    calibration = bundle.calibration
    assert calibration is not None
    assert not is_calibration_set(calibration, observed.clean.scores)
    own = calibration_of(observed.clean.scores, data_set="same", date="2026-01-01")
    assert is_calibration_set(own, observed.clean.scores)
    assert CalibrationFacts.of(own) != CalibrationFacts.of(calibration)
