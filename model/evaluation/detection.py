"""How well a score separates anomalies from clean images: AUROC and FPR, with 95 % intervals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from model.evaluation.figures import Estimate

Values = NDArray[np.floating[Any]]
"""A score for each image, (N,). Larger is more anomalous."""

MISSED_PERCENT: Final = 5
"""Percentage of anomalies missed at a true-positive rate of 95 %."""

TWO_SIDED_Z: Final = NormalDist().inv_cdf(0.975)

TAIL: Final = 0.025
"""Probability on each side of a 95 % interval."""

RESAMPLES: Final = 2_000
"""Bootstrap resamples. They cost next to nothing here: see `fpr_at_95_tpr`."""


def auroc(clean: Values, anomalies: Values) -> Estimate:
    """P(an anomaly's score > a clean image's score), counting ties as half.

    The interval is DeLong's (DeLong, DeLong and Clarke-Pearson 1988), computed from midranks (Sun
    and Xu 2014) on the log-odds scale, so that it stays between 0 and 1.

    If the sets do not overlap, DeLong's variance is 0, as if that were certain. The interval then
    ends at the θ with θᵏ = 0.025, where k is the size of the smaller set: with an AUROC of θ, k
    separate pairs are all in order with probability θᵏ (Clopper and Pearson 1934). A set of one
    image has no variance, and its interval is 0 to 1.
    """
    m, n = len(anomalies), len(clean)
    is_anomalous = np.repeat([0, 1], [n, m])
    value = float(roc_auc_score(is_anomalous, np.concatenate([clean, anomalies])))
    if value in (0, 1):
        end = TAIL ** (1 / min(m, n))
        low, high = (end, 1.0) if value else (0.0, 1 - end)
        return Estimate(value=value, low=low, high=high)
    if min(m, n) < 2:
        return Estimate(value=value, low=0.0, high=1.0)
    below, above = _shares_in_order(clean, anomalies)
    deviation = math.sqrt(below.var(ddof=1) / m + above.var(ddof=1) / n)
    odds = math.log(value / (1 - value))
    half = TWO_SIDED_Z * deviation / (value * (1 - value))
    return Estimate(value=value, low=_logistic(odds - half), high=_logistic(odds + half))


def auroc_difference(clean: tuple[Values, Values], anomalies: tuple[Values, Values]) -> Estimate:
    """AUROC of a first score less that of a second one, for scores of the same images.

    `clean` and `anomalies` hold both scores, (N,) and (M,). Scores of the same images are
    correlated, so the interval is of the paired difference, and narrower than that of two separate
    AUROCs: DeLong's (DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more
    correlated receiver operating characteristic curves"). For a set of one image it is −1 to 1.

    If neither score has any variance but they differ, as if that were certain, the interval is as
    wide as that of `auroc` for sets that do not overlap.
    """
    (below, above), (other_below, other_above) = (
        _shares_in_order(*pair) for pair in zip(clean, anomalies, strict=True)
    )
    value = float(below.mean() - other_below.mean())
    m, n = len(below), len(above)
    if min(m, n) < 2:
        return Estimate(value=value, low=-1.0, high=1.0)
    variance = (below - other_below).var(ddof=1) / m + (above - other_above).var(ddof=1) / n
    half = TWO_SIDED_Z * math.sqrt(variance)
    if not half and value:
        half = 1 - TAIL ** (1 / min(m, n))
    return Estimate(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))


def _shares_in_order(clean: Values, anomalies: Values) -> tuple[Values, Values]:
    """The share of clean images below each anomaly, and of anomalies above each clean image.

    (M,) and (N,), of which ties count as half. The mean of either is the AUROC.
    """
    m, n = len(anomalies), len(clean)
    joint_ranks = rankdata(np.concatenate([anomalies, clean]))
    below = (joint_ranks[:m] - rankdata(anomalies)) / n  # (m,)
    above = 1 - (joint_ranks[m:] - rankdata(clean)) / m  # (n,)
    return below, above


def fpr_at_95_tpr(clean: Values, anomalies: Values, *, seed: int = 0) -> Estimate:
    """Share of clean images at or above the threshold that detects 95 % of the anomalies.

    The threshold is the largest that at least 95 % of the anomalies reach.

    The interval is a percentile bootstrap over both sets that draws no images. Of m images drawn
    with replacement, the k-th smallest is the one at index ⌊m·U⌋ with U ~ Beta(k, m − k + 1), like
    the k-th smallest of m uniform numbers. The number of n drawn clean images that reach a
    threshold is binomial. Without any false alarm, no resample has one either; the upper end is
    then Clopper and Pearson's for 0 of n, and correspondingly the lower end for n of n.
    """
    m, n = len(anomalies), len(clean)
    ranked, ranked_clean = np.sort(anomalies), np.sort(clean)
    missed = MISSED_PERCENT * m // 100
    value = _share_from(ranked_clean, ranked[missed])
    generator = np.random.default_rng(seed)
    uniform = generator.beta(missed + 1, m - missed, RESAMPLES)
    indices = np.minimum((m * uniform).astype(np.int64), m - 1)
    rates = generator.binomial(n, _share_from(ranked_clean, ranked[indices])) / n
    low, high = np.quantile(rates, [TAIL, 1 - TAIL])
    end = TAIL ** (1 / n)
    if value == 0:
        high = max(high, 1 - end)
    elif value == 1:
        low = min(low, end)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _share_from(ranked: Values, threshold: Any) -> Any:
    """Share of `ranked` values, sorted ascending, that are ≥ each threshold."""
    return 1 - np.searchsorted(ranked, threshold, side="left") / len(ranked)


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
