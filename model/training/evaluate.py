"""Evaluation of a bundle: score image sets, then compute the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.engine.engine import Engine
from model.results import Encoding
from model.scores.calibration import COMMON_ALPHAS, Calibration, Floats
from model.training.baselines import PcaError, Values, trivial_scores
from model.training.calibrate import CHUNK_IMAGES, all_scores
from model.training.data import DataError, ImageSet
from model.training.detection import auroc, fpr_at_95_tpr
from model.training.evaluation import (
    Anomalies,
    CalibrationFacts,
    Detection,
    Evaluation,
    ExchangeableRate,
    FalseAlarmRate,
    FalseAlarms,
    SetFacts,
)
from model.training.goodness_of_fit import evaluate_fit

MIN_CLEAN_IMAGES: Final = 4
"""Half of the clean images may have to fit the PCA, and a variance needs at least two."""

HALVINGS: Final = 200
"""Random halvings of the calibration set: enough for two digits of the standard deviation."""

ACTIVE_VARIANCE: Final = 0.01
"""A latent dimension is active if the variance of its mean is above this (Burda et al. 2016)."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """An image set with its scores, by the network and by the baselines."""

    facts: SetFacts
    images: NDArray[np.uint8]  # (N, C, H, W)
    scores: dict[str, Floats]  # (N,) each, the default first
    baselines: dict[str, Values]  # (N,) each, or (M,) where M of the N images are scored


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Everything that the figures and plots are computed from."""

    engine: Engine
    clean: Observed
    anomalies: tuple[Observed, ...]
    encoding: Encoding  # (N, D), of the clean images
    labels: NDArray[np.uint8] | None  # (N,), of the clean images


def observe(
    engine: Engine,
    clean: ImageSet,
    anomalies: Sequence[ImageSet],
    *,
    training: NDArray[np.uint8] | None,
    labels: NDArray[np.uint8] | None = None,
    on_set: Callable[[str], None] = lambda _: None,
) -> Observations:
    """Score all image sets, and the clean images upside down and mirrored.

    The PCA is fitted to the `training` images, uint8 (N, C, H, W). Without them it is fitted to a
    random half of the clean images, and only the other half gets its scores. `on_set` is called
    with the name of each set before it is scored. Raises `DataError` for fewer than
    `MIN_CLEAN_IMAGES` clean images.
    """
    if len(clean.images) < MIN_CLEAN_IMAGES:
        raise DataError(
            f"{clean.name} holds {len(clean.images)} images, but an evaluation needs at least "
            f"{MIN_CLEAN_IMAGES}"
        )
    on_set("PCA")
    fit_on, rest = _halves(len(clean.images), seed=0)
    pca = PcaError(clean.images[fit_on] if training is None else training)

    def score(facts: SetFacts, images: NDArray[np.uint8], for_pca: NDArray[np.uint8]) -> Observed:
        on_set(facts.name)
        baselines = trivial_scores(images) | {pca.name: pca(for_pca)}
        return Observed(
            facts=facts, images=images, scores=all_scores(engine, images), baselines=baselines
        )

    unfitted = clean.images[rest] if training is None else clean.images
    return Observations(
        engine=engine,
        clean=score(_facts(clean), clean.images, unfitted),
        anomalies=tuple(
            score(facts, images, images) for facts, images in _all_anomalies(clean, anomalies)
        ),
        encoding=_encoding(engine, clean.images),
        labels=labels,
    )


def _all_anomalies(
    clean: ImageSet, anomalies: Sequence[ImageSet]
) -> Iterator[tuple[SetFacts, NDArray[np.uint8]]]:
    names: set[str] = set()
    for images in anomalies:
        facts = _facts(images, name=_unique(images.name, names))
        yield facts, images.images
    flips = {"upside down": clean.images[:, :, ::-1], "mirrored": clean.images[:, :, :, ::-1]}
    for name, flipped in flips.items():
        n = len(flipped)
        facts = SetFacts(name=_unique(name, names), n=n, files={}, skipped=0)
        yield facts, np.ascontiguousarray(flipped)


def _facts(data: ImageSet, name: str = "") -> SetFacts:
    return SetFacts(
        name=name or data.name,
        n=len(data.images),
        files=dict(data.files),
        skipped=len(data.skipped),
    )


def _unique(name: str, taken: set[str]) -> str:
    """Return `test`, then `test (2)` …, because folders may share a name; adds it to `taken`."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name} ({number})"
    taken.add(unique)
    return unique


def _encoding(engine: Engine, images: NDArray[np.uint8]) -> Encoding:
    starts = range(0, len(images), CHUNK_IMAGES)
    parts = [engine.encode(images[i : i + CHUNK_IMAGES]) for i in starts]
    return Encoding(*map(np.concatenate, zip(*parts, strict=True)))


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
            Anomalies(images=anomalies.facts, detections=tuple(_detections(clean, anomalies)))
            for anomalies in observations.anomalies
        ),
    )


def _detections(clean: Observed, anomalies: Observed) -> Iterator[Detection]:
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
