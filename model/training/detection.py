"""How well scores tell anomalies from clean images: two figures, each with its 95 % interval."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from model.training.evaluation import Estimate

Values = NDArray[np.floating[Any]]
"""A score of each image, (N,); larger is stranger."""

MISSED_PERCENT: Final = 5
"""Of the anomalies, at a true-positive rate of 95 %."""

TWO_SIDED_Z: Final = NormalDist().inv_cdf(0.975)

TAIL: Final = 0.025
"""Probability outside a 95 % interval, on each side."""

RESAMPLES: Final = 2_000
"""Of the bootstrap. They cost next to nothing here: see `fpr_at_95_tpr`."""


def auroc(clean: Values, anomalies: Values) -> Estimate:
    """P(anomaly's score > clean image's), ties count half.

    The interval is DeLong's (DeLong, DeLong and Clarke-Pearson 1988), by midranks as Sun and Xu
    2014 compute it, laid out on the log-odds so that it stays between 0 and 1. Where all anomalies
    lie on one side of all clean images its variance is 0, as if that were certain. Then the end
    of the interval is θ with θᵏ = 0.025, for k = the size of the smaller set: so likely are k
    separate pairs all in order, if the AUROC is θ (Clopper and Pearson 1934). A set of a single
    image has no variance, and the interval says nothing.
    """
    m, n = len(anomalies), len(clean)
    strange = np.repeat([0, 1], [n, m])
    value = float(roc_auc_score(strange, np.concatenate([clean, anomalies])))
    if value in (0, 1):
        end = TAIL ** (1 / min(m, n))
        low, high = (end, 1.0) if value else (0.0, 1 - end)
        return Estimate(value=value, low=low, high=high)
    if min(m, n) < 2:
        return Estimate(value=value, low=0.0, high=1.0)
    together = rankdata(np.concatenate([anomalies, clean]))
    below = (together[:m] - rankdata(anomalies)) / n  # (m,), share of clean images below
    above = 1 - (together[m:] - rankdata(clean)) / m  # (n,), share of anomalies above
    deviation = math.sqrt(below.var(ddof=1) / m + above.var(ddof=1) / n)
    odds = math.log(value / (1 - value))
    half = TWO_SIDED_Z * deviation / (value * (1 - value))
    return Estimate(value=value, low=_logistic(odds - half), high=_logistic(odds + half))


def fpr_at_95_tpr(clean: Values, anomalies: Values, *, seed: int = 0) -> Estimate:
    """Share of clean images that score at least what 95 % of the anomalies reach.

    The threshold is the largest that 95 % of the anomalies reach or more. The interval is the
    percentile bootstrap's over both sets, without drawing their images: of m images drawn with
    replacement, the k-th smallest is the one at place ⌊m·U⌋ with U ~ Beta(k, m − k + 1), as the
    k-th of m uniform numbers is; and how many of n drawn clean images reach a threshold is
    binomial. A bootstrap of no false alarms has none either: then the upper end is Clopper and
    Pearson's for none of n; and the lower one for n of n.
    """
    m, n = len(anomalies), len(clean)
    ranked, ranked_clean = np.sort(anomalies), np.sort(clean)
    missed = MISSED_PERCENT * m // 100
    value = _share_from(ranked_clean, ranked[missed])
    generator = np.random.default_rng(seed)
    uniform = generator.beta(missed + 1, m - missed, RESAMPLES)
    places = np.minimum((m * uniform).astype(np.int64), m - 1)
    rates = generator.binomial(n, _share_from(ranked_clean, ranked[places])) / n
    low, high = np.quantile(rates, [TAIL, 1 - TAIL])
    end = TAIL ** (1 / n)
    if value == 0:
        high = max(high, 1 - end)
    elif value == 1:
        low = min(low, end)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _share_from(ranked: Values, threshold: Any) -> Any:
    """Share of `ranked` values, smallest first, that are ≥ each threshold."""
    return 1 - np.searchsorted(ranked, threshold, side="left") / len(ranked)


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
