"""The figures of an evaluation, computed from what was observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.evaluation.detection import auroc, auroc_difference, fpr_at_95_tpr
from model.evaluation.figures import (
    Anomalies,
    CalibrationFacts,
    Detection,
    Evaluation,
    ExchangeableRate,
    FalseAlarmRate,
    FalseAlarms,
)
from model.evaluation.observations import Observations, Observed
from model.scores.calibration import COMMON_ALPHAS, Calibration, Floats
from model.training.goodness_of_fit import ACTIVE_VARIANCE, evaluate_fit

HALVINGS: Final = 200
"""Random halvings of the calibration set: enough for two digits of the standard deviation."""


def evaluate(observations: Observations, *, date: str, notes: Iterable[str] = ()) -> Evaluation:
    """Compute all figures from the observations. `date` is ISO 8601."""
    bundle = observations.engine.bundle
    clean = observations.clean
    flat = torch.from_numpy(clean.images.reshape(len(clean.images), -1))
    fit = evaluate_fit(bundle.network(), flat)
    variance, calibration = bundle.pixel_variance, bundle.calibration
    mean_variance = observations.encoding.mu.astype(np.float64).var(axis=0)  # (D,)
    return Evaluation(
        bundle=bundle.name,
        version=bundle.version,
        date=date,
        clean=clean.facts,
        notes=tuple(notes),
        fit=fit,
        negative_elbo=variance and fit.negative_elbo(bundle.config.pixels, variance),
        latent_size=bundle.config.latent_size,
        active_units=int((mean_variance > ACTIVE_VARIANCE).sum()),
        false_alarms=None if calibration is None else false_alarms(calibration, clean.scores),
        anomalies=tuple(
            _anomalies(observations, anomalies) for anomalies in observations.anomalies
        ),
        has_mistakes=True,
        has_maps=True,
    )


def _anomalies(observations: Observations, anomalies: Observed) -> Anomalies:
    p_values = observations.p_values(anomalies)
    return Anomalies(
        images=anomalies.facts,
        detections=tuple(_detections(observations, anomalies)),
        part_of=anomalies.part_of,
        derived=anomalies.derived,
        flagged=None if p_values is None else float((p_values <= COMMON_ALPHAS[0]).mean()),
        localization=anomalies.localization,
    )


def _detections(observations: Observations, anomalies: Observed) -> Iterator[Detection]:
    clean = observations.clean
    for name, scores in clean.scores.items():
        yield Detection(
            score=name,
            auroc=auroc(scores, anomalies.scores[name]),
            fpr_at_95_tpr=fpr_at_95_tpr(scores, anomalies.scores[name]),
            is_baseline=False,
            reversed=False,
        )
    for name, normal in clean.baselines.items():
        anomalous = anomalies.baselines[name]
        area = auroc(normal, anomalous)
        if is_reversed := area.value < 0.5:
            normal, anomalous = -normal, -anomalous
        yield Detection(
            score=name,
            auroc=auroc(normal, anomalous) if is_reversed else area,
            fpr_at_95_tpr=fpr_at_95_tpr(normal, anomalous),
            is_baseline=True,
            reversed=is_reversed,
            advantage=auroc_difference((clean.default, normal), (anomalies.default, anomalous)),
        )


def false_alarms(calibration: Calibration, clean: dict[str, Floats]) -> FalseAlarms:
    """False-alarm rates from the scores of `clean` images by name, (N,) each, the default first."""
    rates = []
    for name in clean:
        if name not in calibration.scores:
            continue
        p_values = calibration.p_values(name, clean[name])
        for alpha in COMMON_ALPHAS:
            rate = float((p_values <= alpha).mean())
            rates.append(FalseAlarmRate(score=name, alpha=alpha, rate=rate))
    return FalseAlarms(
        calibration=CalibrationFacts.of(calibration),
        rates=tuple(rates),
        halvings=HALVINGS,
        exchangeable=exchangeable_rates(calibration, next(iter(clean))),
    )


def exchangeable_rates(calibration: Calibration, name: str) -> tuple[ExchangeableRate, ...]:
    """False-alarm rates of score `name` on half of the calibration set, calibrated on the other.

    Means and standard deviations over `HALVINGS` random halvings; empty for fewer than two images.
    """
    table = calibration.scores.get(name, np.empty(0, np.float32))
    if len(table) < 2:
        return ()
    rates = np.empty((HALVINGS, len(COMMON_ALPHAS)))
    for seed, row in enumerate(rates):
        first, second = _halves(len(table), seed)
        half = Calibration(
            scores={name: table[first]}, data_set=calibration.data_set, date=calibration.date
        )
        p_values = half.p_values(name, table[second])
        row[:] = [(p_values <= alpha).mean() for alpha in COMMON_ALPHAS]
    return tuple(
        ExchangeableRate(alpha=alpha, mean=float(column.mean()), std=float(column.std(ddof=1)))
        for alpha, column in zip(COMMON_ALPHAS, rates.T, strict=True)
    )


def is_calibration_set(calibration: Calibration, clean: dict[str, Floats]) -> bool:
    """Whether these are the scores that the calibration was made from."""
    name, values = next(iter(clean.items()))
    table = calibration.scores[name]
    return len(table) == len(values) and np.allclose(table, np.sort(values), rtol=1e-4)


def _halves(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted indices of a random half, rounded down, and of the rest."""
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])
