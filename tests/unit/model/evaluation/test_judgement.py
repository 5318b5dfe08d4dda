"""The judgement in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.evaluation.figures import Anomalies, Detection, Estimate
from model.evaluation.judgement import excess_of_alarms, judgement
from tests.unit.model.evaluation.evaluations import EVALUATION, detection, facts


def baseline(name: str, area: float, advantage: tuple[float, float, float] | None) -> Detection:
    value = advantage and Estimate(value=advantage[0], low=advantage[1], high=advantage[2])
    return detection(name, area, is_baseline=True, advantage=value)


def anomalies(name: str, area: float, *baselines: Detection, part_of: str = "") -> Anomalies:
    return Anomalies(
        images=facts(name, 40), detections=(detection("fused", area), *baselines), part_of=part_of
    )


def sentences(*sets: Anomalies) -> list[str]:
    return judgement(replace(EVALUATION, anomalies=sets))


@pytest.mark.parametrize(
    ("area", "advantage", "sentence"),
    [
        (
            0.83,
            (-0.02, -0.05, 0.01),
            "On pneumonia, mean intensity alone is as good as fused: AUROC 0.83 against 0.81 "
            "(difference 0.02 ± 0.03). The network adds nothing there.",
        ),
        (
            0.91,
            (-0.10, -0.14, -0.06),
            "On pneumonia, mean intensity alone is better than fused: AUROC 0.91 against 0.81 "
            "(difference 0.10 ± 0.04). The network adds nothing there.",
        ),
        (
            0.79,
            (0.02, -0.03, 0.07),
            "On pneumonia, mean intensity alone is as good as fused within the error: AUROC 0.79 "
            "against 0.81 (difference −0.02 ± 0.05). The network adds nothing there that "
            "40 images could show.",
        ),
    ],
)
def test_it_names_the_set_the_baseline_and_both_figures(
    area: float, advantage: tuple[float, float, float], sentence: str
) -> None:
    others = baseline("PNG size", 0.6, (0.21, 0.1, 0.3))
    found = anomalies("pneumonia", 0.81, others, baseline("mean intensity", area, advantage))
    assert sentences(found) == [sentence]


def test_a_network_that_is_better_gets_none() -> None:
    assert sentences(anomalies("x", 0.81, baseline("PNG size", 0.6, (0.21, 0.001, 0.4)))) == []
    assert sentences(anomalies("x", 0.6, baseline("PNG size", 0.8, None))) == []  # an older one


def test_it_says_so_of_chance() -> None:
    found = sentences(anomalies("x", 0.505, baseline("PNG size", 0.6, (-0.1, -0.2, 0.0))))
    assert "fused is no better than chance" in found[0]
    found = sentences(anomalies("x", 0.3, baseline("PNG size", 0.6, (-0.3, -0.4, -0.2))))
    assert "fused is worse than chance" in found[0]


def test_the_best_of_several_equal_baselines_is_named() -> None:
    equal = [baseline(name, area, (0.0, -0.1, 0.1)) for name, area in (("a", 0.7), ("b", 0.8))]
    assert sentences(anomalies("x", 0.8, *equal))[0].startswith("On x, b alone")


def test_kinds_share_a_sentence() -> None:
    lost, won = (
        baseline("PNG size", 0.8, (0.0, -0.1, 0.1)),
        baseline("PNG size", 0.6, (0.2, 0.1, 0.3)),
    )
    whole = anomalies("bad", 0.8, won)
    kinds = [
        anomalies(name, 0.8, found, part_of="bad")
        for name, found in (("crack", lost), ("dent", won), ("hole", lost))
    ]
    (sentence,) = sentences(whole, *kinds)
    assert "On 2 of the 3 kinds in bad" in sentence
    assert "crack (PNG size, AUROC 0.80 against 0.80), hole" in sentence
    assert "dent" not in sentence
    assert judgement(replace(EVALUATION, anomalies=(whole, *kinds)), with_kinds=False) == []
    assert "On all 2 kinds" in sentences(whole, kinds[0], kinds[2])[0]


def test_flipped_images_count_only_if_no_others_were_given() -> None:
    lost = baseline("PNG size", 0.8, (0.0, -0.1, 0.1))
    flipped = replace(anomalies("mirrored", 0.8, lost), derived=True)
    given = anomalies("bad", 0.8, baseline("PNG size", 0.6, (0.2, 0.1, 0.3)))
    assert sentences(given, flipped) == []
    assert sentences(flipped)[0].startswith("On mirrored")


@pytest.mark.parametrize(("rate", "is_excess"), [(0.0, False), (0.055, False), (0.9, True)])
def test_more_false_alarms_than_chance_explains_are_said(rate: float, is_excess: bool) -> None:
    alarms = EVALUATION.false_alarms
    assert alarms is not None
    first = replace(alarms.rates[0], alpha=0.05, rate=rate)
    found = excess_of_alarms(
        replace(EVALUATION, false_alarms=replace(alarms, rates=(first, *alarms.rates[1:])))
    )
    assert bool(found) == is_excess
    assert is_excess == (f"{rate:.3f} of the clean images are false alarms" in found)
    assert excess_of_alarms(replace(EVALUATION, false_alarms=None)) == ""
