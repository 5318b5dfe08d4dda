"""p-values, thresholds and false discovery rates keep their promises."""

from __future__ import annotations

import doctest
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.scores import calibration as module
from model.scores.calibration import (
    COMMON_ALPHAS,
    Calibration,
    CalibrationError,
    Floats,
    benjamini_hochberg,
    calibration_of,
    too_small_for,
)
from tests.unit.samples import assert_one_line

floats = st.floats(-(2.0**100), 2.0**100, width=32)
tables = st.lists(floats, min_size=1, max_size=60) | st.lists(
    st.integers(-2, 3).map(float), min_size=1, max_size=60
)
"""Scores of clean images; the second kind has many ties."""


def array(values: Any) -> Floats:
    return np.asarray(values, np.float32)


def of(scores: Any) -> Calibration:
    """A calibration with one score, "mse"."""
    return calibration_of({"mse": array(scores)}, data_set="d", date="2026-01-01")


def around(values: Floats) -> Floats:
    """These values, and those next to them."""
    infinity = array(np.inf)
    near = [np.nextafter(values, -infinity), values, np.nextafter(values, infinity)]
    return np.concatenate(near).astype(np.float32)


def test_its_examples_are_true() -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 6
    assert result.failed == 0


# p-values


@settings(deadline=None)
@given(tables, st.lists(floats, min_size=1, max_size=10))
def test_a_p_value_counts_the_clean_images_that_are_as_strange(
    clean: list[float], others: list[float]
) -> None:
    scores = np.concatenate([around(array(clean)), array(others)])
    p = of(clean).p_values("mse", scores)
    n = len(clean)
    counted = [(1 + sum(c >= score for c in array(clean))) / (n + 1) for score in scores]
    assert p.tolist() == counted
    assert p.min() >= 1 / (n + 1)
    assert p.max() <= 1
    order = np.argsort(scores)
    assert (np.diff(p[order]) <= 0).all()


def test_no_image_is_stranger_than_the_calibration_can_say() -> None:
    calibration = of(np.arange(9))
    assert calibration.p_values("mse", array([1e30, 8, -1e30])).tolist() == [0.1, 0.2, 1]


@st.composite
def rates(draw: st.DrawFn, n: int) -> float:
    """Alphas anywhere, and where p-values are, and right beside those."""
    if draw(st.booleans()):
        return draw(st.floats(0, 1, exclude_min=True, exclude_max=True))
    place = draw(st.integers(1, n)) / (n + 1)
    return float(draw(st.sampled_from([np.nextafter(place, 0), place, np.nextafter(place, 1)])))


@settings(max_examples=300, deadline=None)
@given(tables, st.data())
def test_an_anomaly_is_what_lies_above_the_threshold(
    clean: list[float], data: st.DataObject
) -> None:
    """p ≤ alpha exactly if score > threshold, whatever the ties and however alpha is rounded."""
    calibration = of(clean)
    alpha = data.draw(rates(len(clean)))
    scores = np.concatenate([around(array(clean)), array([-2e30, 2e30, -np.inf, np.inf])])
    is_anomaly = calibration.p_values("mse", scores) <= alpha
    threshold = calibration.threshold("mse", alpha)
    assert (threshold is None) == (alpha < 1 / (len(clean) + 1))
    above = np.zeros(len(scores), bool) if threshold is None else scores > threshold
    assert is_anomaly.tolist() == above.tolist()


@pytest.mark.parametrize("n", [7, 10, 54, 99, 100])
def test_rounding_does_not_move_the_threshold(n: int) -> None:
    """0.29 · 100 is 28.999999999999996; and the number before 0.07, times 100, is 7."""
    calibration = of(np.arange(n))
    for count in range(1, n + 1):
        place = count / (n + 1)
        assert calibration.threshold("mse", place) == n - count
        assert calibration.threshold("mse", float(np.nextafter(place, 1))) == n - count
        below = calibration.threshold("mse", float(np.nextafter(place, 0)))
        assert below == (None if count == 1 else n - count + 1)


def test_each_score_has_its_own_table() -> None:
    scores = {"a": array([1, 2, 3]), "b": array([10, 20, 30])}
    calibration = calibration_of(scores, data_set="d", date="2026-01-01")
    assert calibration.n == 3
    assert calibration.threshold("a", 0.5) == 2
    assert calibration.threshold("b", 0.5) == 20
    assert calibration.p_values("b", array([4])).tolist() == [1]
    with pytest.raises(KeyError):
        calibration.p_values("c", array([4]))


REPEATS = 2_000


def false_alarms(scores: NDArray[np.float64], n: int, alpha: float) -> float:
    """Share of images with p ≤ alpha; a row of `scores` is n to calibrate with, and the others."""
    alarms = [(of(row[:n]).p_values("mse", array(row[n:])) <= alpha) for row in scores]
    return float(np.mean(alarms))


@pytest.mark.parametrize(("n", "alpha"), [(99, 0.05), (99, 0.01), (19, 0.05), (50, 0.3)])
def test_alpha_is_the_false_alarm_rate_on_clean_images(n: int, alpha: float) -> None:
    """Over calibrations and images: never more than alpha, and hardly less."""
    draws = np.random.default_rng(0).standard_cauchy((REPEATS, n + 20))
    expected = np.floor(alpha * (n + 1) + 1e-9) / (n + 1)
    assert alpha - 1 / (n + 1) < expected <= alpha
    deviation = np.sqrt(alpha * (1 - alpha) * (1 / n + 1 / 20) / REPEATS)
    assert false_alarms(draws, n, alpha) == pytest.approx(expected, abs=4 * deviation)


def test_ties_make_false_alarms_rarer_and_never_more_frequent() -> None:
    draws = np.random.default_rng(0).poisson(3.0, (REPEATS, 119)).astype(float)
    rate = false_alarms(draws, 99, 0.05)
    assert 0.005 < rate < 0.04


@pytest.mark.parametrize("alpha", [1e-9, 0.001, 0.0099])
def test_below_what_the_calibration_can_say_nothing_is_an_anomaly(alpha: float) -> None:
    calibration = of(np.arange(99))
    assert calibration.threshold("mse", alpha) is None
    assert not (calibration.p_values("mse", array([1e30])) <= alpha).any()


# What can calibrate


def test_scores_are_sorted_and_the_callers_left_alone() -> None:
    given_scores = np.array([3.0, 1.0, 2.0])
    calibration = calibration_of({"mse": given_scores}, data_set="mine", date="2026-01-02")
    assert calibration.scores["mse"].tolist() == [1, 2, 3]
    assert calibration.scores["mse"].dtype == np.float32
    assert given_scores.tolist() == [3, 1, 2]
    assert (calibration.data_set, calibration.date) == ("mine", "2026-01-02")
    with pytest.raises(FrozenInstanceError):
        calibration.date = "2027-01-01"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({}, ["{}"]),
        ({"mse": []}, ["'mse': 0"]),
        ({"mse": [], "kl": []}, ["'kl': 0"]),
        ({"mse": [1], "kl": []}, ["'kl': 0"]),
        ({"mse": [1], "kl": [1, 2]}, ["'mse': 1", "'kl': 2"]),
        ({"kl": [1, 2], "mse": [1, np.nan]}, ["'mse'", "NaN"]),
        ({"mse": [np.inf, 1]}, ["'mse'", "infinity"]),
        ({"mse": [1, -np.inf]}, ["'mse'", "infinity"]),
    ],
    ids=str,
)
def test_unusable_scores_are_reported(scores: Mapping[str, Any], words: list[str]) -> None:
    arrays = {name: array(values) for name, values in scores.items()}
    for make in (calibration_of, lambda scores, **facts: Calibration(scores=scores, **facts)):
        with pytest.raises(CalibrationError) as raised:
            make(arrays, data_set="d", date="2026-01-01")
        assert_one_line(raised.value, *words)


def test_a_table_that_is_not_sorted_is_refused() -> None:
    """Its counts would be wrong."""
    tables = {"kl": array([1, 1, 2]), "mse": array([1, 3, 2])}
    with pytest.raises(CalibrationError) as raised:
        Calibration(scores=tables, data_set="d", date="2026-01-01")
    assert_one_line(raised.value, "'mse'", "sorted")


@pytest.mark.parametrize("n", [1, 18, 19, 20, 98, 99, 100, 10_000])
def test_a_calibration_that_is_too_small_says_so(n: int) -> None:
    never = [alpha for alpha in COMMON_ALPHAS if of(np.arange(n)).threshold("mse", alpha) is None]
    assert too_small_for(n) == never
    assert (0.05 in never) == (n < 19)
    assert (0.01 in never) == (n < 99)


# Many images at once


def by_hand(p: NDArray[np.float64], rate: float) -> float:
    """Benjamini and Hochberg 1995: the largest k with k p-values at most k · rate / m."""
    m = len(p)
    for k in range(m, 0, -1):
        if sum(value <= rate * k / m for value in p) >= k:
            return rate * k / m
    return rate / m


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0, 1) | st.integers(1, 20).map(lambda k: k / 20), min_size=1, max_size=25),
    st.floats(0.001, 0.999) | st.sampled_from([0.05, 0.1, 0.2, 0.5]),
)
def test_benjamini_hochberg_is_as_by_hand(p_values: list[float], rate: float) -> None:
    p = np.array(p_values)
    before = p.copy()
    cut = benjamini_hochberg(p, rate)
    assert cut == by_hand(p, rate)
    found = int((p <= cut).sum())
    assert found == 0 or found >= round(cut * len(p) / rate)
    assert 0 < cut <= np.nextafter(rate, 1)
    assert np.array_equal(p, before)


def test_where_there_is_none_the_cut_lies_below_all() -> None:
    p = np.array([0.3, 0.9, 0.06, 0.5])
    cut = benjamini_hochberg(p, 0.2)
    assert cut == 0.05
    assert not (p <= cut).any()


def test_of_one_image_it_is_alpha_itself() -> None:
    assert benjamini_hochberg(np.array([0.04]), 0.05) == 0.05
    assert benjamini_hochberg(np.array([0.06]), 0.05) == 0.05


def test_few_of_the_alarms_are_false_with_one_calibration_for_all_images() -> None:
    """The p-values of a request share their calibration set, and so are not independent."""
    generator = np.random.default_rng(0)
    strange = np.arange(40) < 10
    false_shares, found = [], []
    for _ in range(1_500):
        calibration = of(generator.standard_normal(200))
        scores = generator.standard_normal(40) + 3.5 * strange
        p = calibration.p_values("mse", scores.astype(np.float32))
        alarms = p <= benjamini_hochberg(p, 0.2)
        false_shares.append((alarms & ~strange).sum() / max(1, alarms.sum()))
        found.append((alarms & strange).sum() / strange.sum())
    assert np.mean(false_shares) == pytest.approx(0.2 * 30 / 40, abs=0.02)
    assert np.mean(found) > 0.8
