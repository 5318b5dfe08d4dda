"""A network's self-test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle.bundle import find_bundle, load_bundle, pretrained_names
from model.bundle.self_test import SelfTest, probe_images, run_self_test
from model.engine.engine import Engine
from model.scores.calibration import DTYPES
from model.scores.detected import DETECTED_SCORES
from tests.unit.model.bundle.helpers import edit, refused
from tests.unit.model.features.detectors import detector_bundle
from tests.unit.samples import tiny_bundle


@pytest.mark.parametrize("name", pretrained_names())
def test_bundles_that_ship_record_what_their_network_gives(name: str) -> None:
    bundle = load_bundle(find_bundle(name))
    found = run_self_test(bundle.network(), bundle.config)
    assert bundle.self_test is not None
    assert bundle.self_test.agrees(found, "float32")
    assert 0.005 < found.mse < 0.1, "a ring is something that it can draw, more or less"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_engine_agrees_in_each_type(dtype: str) -> None:
    engine = Engine(load_bundle(find_bundle("mnist")), device="cpu", threads=1, dtype=dtype)
    scores = engine.score(engine.probe, "mse")
    assert engine.is_right(scores)
    assert not engine.is_right(scores._replace(mse=scores.mse * 1.1))
    assert not engine.is_right(scores._replace(kl=scores.kl * 0.9))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_default_score_has_to_be_a_number(dtype: str) -> None:
    """It is not recorded, so any number will do."""
    engine = Engine(load_bundle(find_bundle("mnist")), device="cpu", threads=1, dtype=dtype)
    scores = engine.score(engine.probe)
    assert engine.is_right(scores)
    for wrong in (np.nan, np.inf, -np.inf):
        assert not engine.is_right(scores._replace(score=np.array([wrong], np.float32)))


def test_other_weights_are_noticed() -> None:
    mnist, fashion = (load_bundle(find_bundle(name)) for name in ("mnist", "fashion-mnist"))
    assert mnist.self_test is not None
    assert not mnist.self_test.agrees(run_self_test(fashion.network(), mnist.config), "bfloat16")


def test_no_number_is_no_agreement() -> None:
    recorded = SelfTest(0.01, 30.0)
    assert not recorded.agrees(SelfTest(float("nan"), 30.0), "float32")
    assert recorded.agrees(SelfTest(0.010001, 30.001), "float32")
    assert SelfTest(0.07, 0.0).agrees(SelfTest(0.07, 1e-6), "float32"), "of a collapsed network"


RECORDED = SelfTest(0.01, 30.0, dict.fromkeys(DETECTED_SCORES, 5.0))


@pytest.mark.parametrize("name", DETECTED_SCORES)
def test_a_detector_s_score_has_to_agree(name: str) -> None:
    assert RECORDED.agrees_on(name, 5.004)
    assert not RECORDED.agrees_on(name, 5.006)
    assert not RECORDED.agrees_on(name, float("nan"))
    small = RECORDED._replace(detector=dict.fromkeys(DETECTED_SCORES, 1e-5))
    assert small.agrees_on(name, -1e-5), "rounding near 0"


def test_a_score_that_is_not_recorded_has_to_be_a_number() -> None:
    for recorded in (RECORDED, RECORDED._replace(detector=None)):
        assert recorded.agrees_on("fused", 1e9)
        assert not recorded.agrees_on("fused", float("nan"))


@pytest.mark.parametrize("recorded", [RECORDED, SelfTest(0.01, 30.0)])
def test_json_and_back(recorded: SelfTest) -> None:
    text = json.dumps(recorded.to_json())
    assert SelfTest.from_json(json.loads(text)) == recorded
    assert ("detector" in text) == (recorded.detector is not None)


@pytest.mark.parametrize(
    "detector",
    [17, "combined", [], {}, {"combined": 1.0}, dict.fromkeys(DETECTED_SCORES, "high")],
)
def test_what_is_no_record_of_a_detector_is_refused(detector: Any, tmp_path: Path) -> None:
    detector_bundle().save(tmp_path, "")
    edit(tmp_path, known=SelfTest(0.01, 30.0).to_json() | {"detector": detector})
    refused(tmp_path)


def test_a_bundle_records_the_scores_of_its_detector(tmp_path: Path) -> None:
    bundle = detector_bundle()
    bundle.save(tmp_path, "")
    engine = Engine(bundle, device="cpu")
    recorded = load_bundle(tmp_path).self_test
    assert recorded is not None
    assert recorded.detector is not None
    assert tuple(recorded.detector) == DETECTED_SCORES
    for name, score in recorded.detector.items():
        assert score == pytest.approx(float(engine.score(engine.probe, name).score[0]), rel=1e-4)
    assert len(set(recorded.detector.values())) == len(DETECTED_SCORES)


def test_bundles_without_a_detector_record_what_they_did(tmp_path: Path) -> None:
    tiny_bundle().save(tmp_path, "")
    assert set(json.loads((tmp_path / "config.json").read_text())["known"]) == {"mse", "kl"}


def test_the_probe_is_bytes_in_the_network_s_shape() -> None:
    config = load_bundle(find_bundle("mnist")).config
    images = probe_images(config)
    assert images.shape == (1, config.pixels)
    assert images.dtype == "uint8"
    assert {int(images.min()), int(images.max())} <= set(range(256))
    assert images.max() > 200
