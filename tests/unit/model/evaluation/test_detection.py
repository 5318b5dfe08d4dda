"""The paired difference of two AUROCs."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from model.evaluation.detection import Values, auroc, auroc_difference


def pair(seed: int, n: int, shift: float, correlation: float) -> tuple[Values, Values]:
    """Two correlated scores of the same `n` images; the anomalies' are shifted by `shift`."""
    common, first, second = np.random.default_rng(seed).standard_normal((3, n))
    shared, own = shift + correlation**0.5 * common, (1 - correlation) ** 0.5
    return shared + own * first, shared + own * second


def test_it_is_the_difference_and_turns_with_the_order() -> None:
    clean, strange = pair(0, 60, 0, 0.5), pair(1, 40, 1, 0.5)
    found = auroc_difference(clean, strange)
    areas = [auroc(*scores).value for scores in zip(clean, strange, strict=True)]
    assert found.value == pytest.approx(areas[0] - areas[1])
    turned = auroc_difference(clean[::-1], strange[::-1])
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_its_interval_is_about_that_of_drawing_images() -> None:
    clean, strange = pair(0, 150, 0, 0.7), pair(1, 120, 1, 0.7)
    found = auroc_difference(clean, strange)
    generator = np.random.default_rng(2)
    drawn = []
    for _ in range(600):
        i, j = generator.integers(0, 150, 150), generator.integers(0, 120, 120)
        areas = [(b[j][:, None] > a[i]).mean() for a, b in zip(clean, strange, strict=True)]
        drawn.append(areas[0] - areas[1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


def test_it_uses_that_the_images_are_the_same() -> None:
    """Correlated scores differ by chance less than those of separate images."""
    clean, strange = pair(0, 100, 0, 0.95), pair(1, 100, 1, 0.95)
    paired = auroc_difference(clean, strange)
    first = auroc(clean[0], strange[0])
    assert paired.high - paired.low < (first.high - first.low) / 2


def test_its_interval_holds_the_truth_19_times_in_20() -> None:
    """One score is better: it has the same signal and less noise."""
    truth = NormalDist().cdf(1 / 2**0.5) - NormalDist().cdf(0.5 / 2**0.5)
    covered = 0
    for seed in range(300):
        clean, strange = pair(seed, 50, 0, 0.5), pair(1_000 + seed, 40, 0, 0.5)
        found = auroc_difference(clean, (strange[0] + 1, strange[1] + 0.5))
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 300 <= 0.985


def test_few_images_are_never_certain() -> None:
    alike = np.zeros(9), np.zeros(4)
    apart = np.arange(9.0), np.arange(4.0) + 20
    found = auroc_difference((apart[0], alike[0]), (apart[1], alike[1]))
    assert found.value == 0.5
    assert 1 - (found.value - found.low) == pytest.approx(0.025 ** (1 / 4))
    same = auroc_difference((apart[0], apart[0]), (apart[1], apart[1]))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    one = auroc_difference((apart[0], alike[0]), (apart[1][:1], alike[1][:1]))
    assert (one.low, one.high) == (-1, 1)
