"""Several bundles side by side."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from model.evaluation.comparison import Comparison, Contender, compare
from model.evaluation.detection import auroc, auroc_difference
from model.evaluation.figures import Estimate
from tests.unit.model.evaluation.evaluations import EVALUATION, detection

CLEAN, LETTERS = np.random.default_rng(0).standard_normal((2, 80)).astype(np.float32)


def contender(name: str, shift: float, noise: float = 0, active: int = 9) -> Contender:
    """A bundle whose score of letters is higher by `shift`."""
    extra = noise * np.random.default_rng(1).standard_normal((2, 80)).astype(np.float32)
    clean, letters = CLEAN + extra[0], LETTERS + shift + extra[1]
    area = replace(detection("fused", 0.5), auroc=auroc(clean, letters))
    worse = Estimate(value=-0.1, low=-0.2, high=0.0)
    baseline = detection("PNG size", 0.99, is_baseline=True, advantage=worse)
    anomalies = replace(EVALUATION.anomalies[0], detections=(area, baseline))
    evaluation = replace(EVALUATION, anomalies=(anomalies,), active_units=active)
    return Contender(name=name, evaluation=evaluation, clean=clean, anomalies=(letters,))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(
        [contender("a", 1.0), contender("b|c", 1.05, noise=0.3, active=2), contender("d", 0)]
    )


def test_the_best_is_marked_and_what_cannot_be_told_from_it(comparison: Comparison) -> None:
    (row,) = comparison.rows
    best = max(row.cells, key=lambda cell: cell.auroc.value)
    assert [cell.is_best for cell in row.cells] == [cell is best for cell in row.cells]
    first, second, third = (
        contender(n, s, x) for n, s, x in (("a", 1, 0), ("b", 1.05, 0.3), ("d", 0, 0))
    )
    winner = (first, second)[row.cells[1].is_best]
    for cell, other in zip(row.cells, (first, second, third), strict=True):
        behind = auroc_difference(
            (winner.clean, other.clean), (winner.anomalies[0], other.anomalies[0])
        )
        assert cell.is_level == (behind.low <= 0)
    assert [cell.is_level for cell in row.cells] == [True, True, False]


def test_markdown_has_a_column_for_each(comparison: Comparison) -> None:
    lines = comparison.markdown().splitlines()
    assert lines[0].startswith("a: On letters, PNG size alone")
    assert r"| anomalies | n | a | b\|c | d |" in lines
    (row,) = (line for line in lines if line.startswith("| letters | 1,234 |"))
    assert row.count("**") == 2
    assert row.count("≈") == 1
    assert "| active latents | | 9 of 10 | 2 of 10 | 9 of 10 |" in lines
    alarms = "0.0474 (expected 0.05 ± 0.0062)"
    assert f"| false alarms at α = 0.05 | | {alarms} | {alarms} | {alarms} |" in lines
    assert any(line.startswith("| false alarms at α = 0.01 | | 0.0096") for line in lines)


def test_json_holds_the_same(comparison: Comparison) -> None:
    found = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert [bundle["name"] for bundle in found["bundles"]] == ["a", "b|c", "d"]
    assert found["bundles"][1]["active_latents"] == 2
    assert found["bundles"][0]["false_alarms"] == {"0.05": 0.0474, "0.01": 0.0096}
    assert found["bundles"][0]["judgement"][0].startswith("On letters, PNG size alone")
    (row,) = found["anomalies"]
    assert (row["name"], row["n"]) == ("letters", 1_234)
    assert sum(cell["is_best"] for cell in row["cells"]) == 1
    assert row["cells"][0]["auroc"]["value"] == comparison.rows[0].cells[0].auroc.value


def test_without_calibration_there_is_a_dash() -> None:
    plain = contender("a", 1)
    plain = replace(plain, evaluation=replace(plain.evaluation, false_alarms=None))
    made = compare([plain, contender("b", 1)])
    rows = dict(made.facts(with_expected=False))
    assert rows["false alarms at α = 0.05"] == ["–", "0.0474"]
    assert made.to_json()["bundles"][0]["false_alarms"] == {"0.05": None, "0.01": None}
