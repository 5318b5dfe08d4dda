"""The scores of a detector beside those of the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.features.detector import PARTS, Detector, Findings
from model.scores.detected import COMBINED, CPU_ROWS, DETECTED_SCORES, DetectorScores
from model.scores.sampled import score_names
from tests.unit.model.features.detectors import GREY, SHAPE, as_pixels, fitted, photographs
from tests.unit.samples import some_statistics


@pytest.fixture
def detector() -> Detector:
    return fitted().detector


@pytest.fixture
def pixels() -> Tensor:
    return as_pixels(photographs(5, seed=4))


@torch.inference_mode()
def test_parts_are_the_detectors_columns(detector: Detector, pixels: Tensor) -> None:
    scores = DetectorScores(detector)
    found = scores.find(pixels)
    columns = detector(pixels)
    for one, other in zip(found, detector.split(columns), strict=True):
        torch.testing.assert_close(one, other)
    for number, name in enumerate(PARTS):
        score = scores.score(name, found)
        torch.testing.assert_close(score, columns[:, number])


@torch.inference_mode()
def test_combined_is_of_the_parts(detector: Detector, pixels: Tensor) -> None:
    scores = DetectorScores(detector)
    found = scores.find(pixels)
    combined = scores.score(COMBINED, found)
    torch.testing.assert_close(combined, detector.combined(found.parts))
    together = scores.scores(found)
    assert together.shape == (5, len(DETECTED_SCORES))
    for column, name in zip(together.T, DETECTED_SCORES, strict=True):
        assert torch.equal(column, scores.score(name, found))


@torch.inference_mode()
def test_another_runtime_may_compute_it(detector: Detector, pixels: Tensor) -> None:
    """A few images at a time, which bounds the memory."""
    given: list[Tensor] = []
    columns = torch.arange(5 * detector.config.columns).reshape(5, -1).float()

    def run(pixels: Tensor) -> Tensor:
        given.append(pixels)
        return columns[sum(map(len, given)) - len(pixels) :][: len(pixels)]

    found = DetectorScores(detector, run).find(pixels)
    assert [len(part) for part in given] == [CPU_ROWS, 5 - CPU_ROWS]
    assert torch.equal(torch.cat(given), pixels)
    assert torch.equal(torch.cat([part.flatten(1) for part in found], dim=1), columns)


@torch.inference_mode()
def test_a_map_is_in_each_channel(detector: Detector, pixels: Tensor) -> None:
    scores = DetectorScores(detector)
    found = scores.find(pixels)
    for name in DETECTED_SCORES:
        whole = scores.map_of(name, found)
        assert whole.shape == pixels.shape
        by_channel = whole.reshape(5, *SHAPE)
        for channel in range(SHAPE[0]):
            torch.testing.assert_close(by_channel[:, channel], detector.map_of(name, found))


@torch.inference_mode()
def test_a_grey_map_has_one_channel() -> None:
    detector = fitted(GREY).detector
    h, w = GREY.grid
    found = Findings(torch.zeros(2, 3), torch.rand(2, h, w), torch.rand(2, 8, 8))
    whole = DetectorScores(detector).map_of(COMBINED, found)
    assert whole.shape == (2, 20 * 60)


@pytest.mark.parametrize("variance", [None, 0.25])
def test_the_first_score_is_the_default_one(variance: float | None) -> None:
    """It is `combined` with a detector, and else what it was."""
    statistics = some_statistics()
    plain = score_names(statistics, variance)
    assert score_names(statistics, variance, detected=True) == (*DETECTED_SCORES, *plain)
    assert score_names(statistics, variance, detected=False) == plain
    assert DETECTED_SCORES[0] == COMBINED == "combined"
    assert DETECTED_SCORES[1:] == PARTS
    assert not set(DETECTED_SCORES) & set(plain)
