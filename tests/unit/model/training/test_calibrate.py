"""Every score of clean images, sorted and kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.bundle import Bundle
from model.engine.engine import Engine
from model.features.detector import Detector, Findings, StoredDetector
from model.scores.calibration import DEFAULT_DRAWS, DTYPES, CalibrationError, Floats
from model.scores.detected import DETECTED_SCORES, DetectorScores
from model.training import calibrate as module
from model.training.calibrate import (
    all_scores,
    calibrated,
    calibration_by_dtype,
    scores_by_dtype,
)
from tests.unit.model.engine.onnx_bundles import exported_detector
from tests.unit.model.features.detectors import detector_bundle, photographs
from tests.unit.samples import TINY, some_statistics, tiny_bundle, whole_bundle

N = 37
BUNDLES: dict[str, Callable[[], Bundle]] = {
    "all": lambda: tiny_bundle(pixel_variance=0.1, statistics=some_statistics()),
    "no likelihood": lambda: tiny_bundle(statistics=some_statistics()),
    "nothing known": tiny_bundle,
}
each_bundle = pytest.mark.parametrize("make", BUNDLES.values(), ids=BUNDLES)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    shape = (N, *TINY.image_shape)
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def one_by_one(engine: Engine, images: NDArray[np.uint8]) -> dict[str, Floats]:
    """Every score, an image at a time."""
    found: dict[str, Floats] = {
        name: np.concatenate([engine.score(image[None], name).score for image in images])
        for name in engine.scores
        if name not in engine.sampled_scores
    }
    if engine.sampled_scores:
        noise = np.random.default_rng(0).standard_normal((N, 32, TINY.latent_size), np.float32)
        draws = []
        for image, epsilons in zip(images, noise, strict=True):
            row = np.concatenate([image.ravel() / np.float32(255), epsilons.ravel()])
            draws.append(engine.draw(row[None]))
        likelihood, weight = (np.concatenate(parts) for parts in list(zip(*draws, strict=True))[:2])
        found["reconstruction_probability"] = -likelihood.mean(axis=1)
        weight = weight.astype(np.float64)
        found["iwae"] = -np.log(np.exp(weight).mean(axis=1)).astype(np.float32)
    return found


@each_bundle
def test_each_score_of_each_image_is_in_its_table(
    make: Callable[[], Bundle], images: NDArray[np.uint8]
) -> None:
    engine = Engine(make(), device="cpu")
    scores = all_scores(engine, images)
    expected = one_by_one(engine, images)
    assert tuple(scores) == engine.scores
    assert set(expected) == set(scores)
    assert DEFAULT_DRAWS == 32
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-4, atol=1e-5)
    bundle = calibrated(make(), images, data_set="mine", date="2026-01-03")
    calibration = bundle.calibration
    assert calibration is not None
    assert tuple(calibration.scores) == engine.scores
    assert (calibration.n, calibration.data_set, calibration.date) == (N, "mine", "2026-01-03")
    for name, table in calibration.scores.items():
        np.testing.assert_array_equal(table, np.sort(scores[name]))


@each_bundle
def test_each_dtype_has_scores_of_its_own(
    make: Callable[[], Bundle], images: NDArray[np.uint8]
) -> None:
    scores = scores_by_dtype(make(), images)
    assert list(scores) == list(DTYPES)
    for dtype in DTYPES:
        expected = all_scores(Engine(make(), device="cpu", dtype=dtype), images)
        assert list(scores[dtype]) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(scores[dtype][name], values)
    made = calibration_by_dtype(scores, data_set="mine", date="2026-01-03", folds=5)
    assert (made.n, made.folds, made.data_set) == (N, 5, "mine")
    whole = calibrated(make(), images, data_set="mine", date="2026-01-03").calibration
    assert whole is not None
    assert whole.folds == 0  # all are the network's own
    for dtype in DTYPES:
        tables, others = made.of_dtype(dtype), whole.of_dtype(dtype)
        assert tables is not None
        assert others is not None
        for name, table in tables.scores.items():
            np.testing.assert_array_equal(table, np.sort(scores[dtype][name]))
            np.testing.assert_array_equal(table, others.scores[name])


@pytest.mark.parametrize("make", [detector_bundle, exported_detector])
def test_a_detector_is_built_once_and_computes_all_of_its_scores_at_once(
    make: Callable[[], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, images = make(), photographs(N)
    engine = Engine(bundle, device="cpu")
    expected = {name: engine.score(images, name).score for name in engine.scaled_maps}
    assert tuple(expected) == DETECTED_SCORES
    built: list[StoredDetector] = []
    found: list[int] = []
    module_of, find = StoredDetector.module, DetectorScores.find

    def building(self: StoredDetector) -> Detector:
        built.append(self)
        return module_of(self)

    def finding(self: DetectorScores, pixels: Tensor) -> Findings:
        found.append(len(pixels))
        return find(self, pixels)

    monkeypatch.setattr(StoredDetector, "module", building)
    monkeypatch.setattr(DetectorScores, "find", finding)
    scores = all_scores(engine, images)
    assert len(built) == 1
    assert sum(found) == N
    assert tuple(scores) == engine.scores
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-4, atol=1e-4)
    built.clear()
    by_dtype = scores_by_dtype(bundle, images)
    assert len(built) == 1 + len(DTYPES)  # one for all types, and that of each engine
    assert sum(found) == 2 * N
    for name in DETECTED_SCORES:
        for of_dtype in by_dtype.values():
            np.testing.assert_array_equal(of_dtype[name], scores[name])
    empty = all_scores(engine, images[:0])
    assert [len(empty[name]) for name in engine.scores] == [0] * len(engine.scores)


def test_an_older_calibration_is_replaced_and_the_rest_stays(images: NDArray[np.uint8]) -> None:
    before = whole_bundle()
    after = calibrated(before, images, data_set="mine", date="2026-01-03")
    assert after.calibration is not None
    assert after.calibration.n == N
    assert after.version == before.version
    assert all(torch.equal(tensor, before.weights[name]) for name, tensor in after.weights.items())
    assert (after.statistics, after.provenance) == (before.statistics, before.provenance)
    assert before.calibration is not None
    assert before.calibration.n == 7


def test_the_same_images_give_the_same_tables(images: NDArray[np.uint8]) -> None:
    engine = Engine(BUNDLES["all"](), device="cpu")
    copy = images.copy()
    first, again, other = (all_scores(engine, images, seed) for seed in (0, 0, 1))
    for name in engine.scores:
        assert np.array_equal(first[name], again[name])
        assert np.array_equal(first[name], other[name]) == (name not in engine.sampled_scores)
    assert np.array_equal(images, copy)


def test_chunks_do_not_matter(images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(BUNDLES["all"](), device="cpu")
    whole = all_scores(engine, images)
    monkeypatch.setattr(module, "CHUNK_IMAGES", 16)  # draws go on where they were
    for name, values in all_scores(engine, images).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=1e-5)


@each_bundle
def test_no_images_calibrate_nothing(make: Callable[[], Bundle], images: NDArray[np.uint8]) -> None:
    with pytest.raises(CalibrationError, match="sizes"):
        calibrated(make(), images[:0], data_set="mine", date="2026-01-03")
