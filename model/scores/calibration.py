"""Scores to p-values: split conformal calibration. Needs numpy only.

Source: Bates, Candès, Lei, Romano and Sesia 2023, "Testing for outliers with
conformal p-values".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Probabilities = NDArray[np.float64]

COMMON_ALPHAS: Final = (0.05, 0.01)
"""Usual false-alarm rates; a calibration that is too small for one of them says so."""

DEFAULT_DRAWS: Final = 32
"""Draws per image of calibrated sampled scores: with another number, their values differ."""

DTYPES: Final = ("float32", "bfloat16", "float16")
"""Types of a network's matrix products; the first is that of its stored weights."""


class CalibrationError(ValueError):
    """The scores cannot calibrate anything. The message names the value and the limit."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Scores of n clean images that the network was not trained on, for p-values.

    If a new clean image is exchangeable with these, then P(p-value ≤ α) ≤ α, whatever the network
    and the score. The smallest p-value is 1 / (n + 1). See `folds` for calibrations without that
    guarantee.
    """

    scores: Mapping[str, Floats]
    """One table for each score, (n,), in ascending order."""
    data_set: str
    date: str
    """ISO 8601."""
    folds: int = 0
    """0 if all scores are the network's own. Otherwise the images were divided into this number of
    folds, and each has its score from a network that was trained in the same way on the other
    folds. The bundle's network is the first of these. P(p-value ≤ α) is then near α if the training
    is stable, that is if it hardly matters to the scores of new images which fold was left out, but
    no bound holds for every training. If each new image were scored by all these networks, 2 α
    would bound it, up to a term that vanishes with n (Vovk 2015, "Cross-conformal predictors"; Vovk
    and Wang 2020, "Combining p-values via averaging"; Barber, Candès, Ramdas and Tibshirani 2021,
    "Predictive inference with the jackknife+", theorem 4)."""
    other_dtypes: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)
    """The same for products in other types than float32, whose scores differ a little."""

    def __post_init__(self) -> None:
        for scores in (self.scores, *self.other_dtypes.values()):
            self._check(scores)

    def _check(self, scores: Mapping[str, Floats]) -> None:
        sizes = {name: len(table) for name, table in scores.items()}
        if not sizes or 0 in sizes.values() or len(set(sizes.values())) != 1:
            raise CalibrationError(
                f"calibration scores have sizes {sizes}, expected one size from 1 for all"
            )
        for name, table in scores.items():
            if not np.isfinite(table).all():
                raise CalibrationError(f"calibration scores of {name!r} hold NaN or infinity")
            if (np.diff(table) < 0).any():
                raise CalibrationError(f"calibration scores of {name!r} are not sorted")

    @cached_property
    def n(self) -> int:
        """The number of clean images."""
        return len(next(iter(self.scores.values())))

    def of_dtype(self, dtype: str) -> Calibration | None:
        """The calibration of scores computed in `dtype`; None if there is none."""
        if dtype == DTYPES[0]:
            return self
        scores = self.other_dtypes.get(dtype)
        return None if scores is None else replace(self, scores=scores, other_dtypes={})

    def p_values(self, name: str, scores: Floats) -> Probabilities:
        """(1 + number of calibration scores ≥ score) / (n + 1), (N,) to (N,).

        Raises `KeyError` for a score without a table.
        """
        table = self.scores[name]
        at_least = self.n - np.searchsorted(table, scores, side="left")
        p: Probabilities = (1 + at_least) / (self.n + 1)
        return p

    def threshold(self, name: str, alpha: float) -> float | None:
        """The score above which the p-value is ≤ alpha; None if n is too small for any to be.

        >>> clean = np.arange(99, dtype=np.float32)
        >>> of_99 = Calibration(scores={"mse": clean}, data_set="counted", date="2026-01-01")
        >>> of_99.threshold("mse", 0.05)
        94.0
        >>> of_99.p_values("mse", np.float32([94, 94.5])).tolist()
        [0.06, 0.05]
        """
        # How many calibration scores may be ≥ the image's. α (n + 1) may be rounded to just below a
        # whole number, so the comparison with alpha decides.
        allowed = math.floor(alpha * (self.n + 1)) - 1
        while (allowed + 2) / (self.n + 1) <= alpha:
            allowed += 1
        while allowed >= 0 and (allowed + 1) / (self.n + 1) > alpha:
            allowed -= 1
        if allowed < 0:
            return None
        return float(self.scores[name][self.n - 1 - allowed])


def calibration_of(
    scores: Mapping[str, Floats],
    *,
    data_set: str,
    date: str,
    folds: int = 0,
    other_dtypes: Mapping[str, Mapping[str, Floats]] | None = None,
) -> Calibration:
    """A calibration of clean images' scores, (n,) by name, in any order.

    Raises `CalibrationError`.
    """

    def tables(unsorted: Mapping[str, Floats]) -> dict[str, Floats]:
        return {name: np.sort(np.asarray(v, np.float32)) for name, v in unsorted.items()}

    others = {dtype: tables(scores) for dtype, scores in (other_dtypes or {}).items()}
    return Calibration(
        scores=tables(scores), data_set=data_set, date=date, folds=folds, other_dtypes=others
    )


def too_small_for(n: int) -> list[float]:
    """The `COMMON_ALPHAS` that no p-value of `n` clean images can reach: n < 1/α − 1.

    >>> too_small_for(50)
    [0.01]
    """
    return [alpha for alpha in COMMON_ALPHAS if 1 / (n + 1) > alpha]


def benjamini_hochberg(p_values: Probabilities, rate: float) -> float:
    """The threshold on these p-values, (m,), that bounds the false discovery rate by `rate`.

    The largest i · rate / m such that at least i of the m p-values are ≤ it; if there is none, the
    smallest bound, rate / m, which no p-value reaches. Source: Benjamini and Hochberg 1995. The
    guarantee holds for conformal p-values that share a calibration set (Bates et al. 2023,
    theorem 2).

    >>> benjamini_hochberg(np.array([0.25, 0.5, 0.9, 0.5]), 0.75)
    0.5625
    """
    m = len(p_values)
    bounds = rate * np.arange(1, m + 1) / m
    within = np.flatnonzero(np.sort(p_values) <= bounds)
    return float(bounds[within[-1] if len(within) else 0])
