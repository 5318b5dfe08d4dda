"""Evaluation of a bundle: images in, scores and figures out."""

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
from model.training.fit import evaluate_fit

LEAST_IMAGES: Final = 4
"""Of the clean ones: half of them fit the PCA, and two is the least that has a variance."""

HALVINGS: Final = 200
"""Of the calibration's images: enough for two digits of the standard deviation."""

ACTIVE_VARIANCE: Final = 0.01
"""Of a latent dimension's mean, from which Burda et al. 2016 call it active."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """An image set, and what the network and its rivals say of it."""

    facts: SetFacts
    images: NDArray[np.uint8]  # (N, C, H, W)
    scores: dict[str, Floats]  # (N,) each, the default first
    rivals: dict[str, Values]  # (N,) each, or of a part of the images


@dataclass(frozen=True, kw_only=True)
class Observations:
    """All that figures and plots are made of."""

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
    """Score all sets, and the clean images upside down and mirrored.

    `training` fits the PCA; without it, half of the clean images do, and it is compared on the
    other half. `on_set` is told the name of the set that comes next. Raises `DataError` for too
    few clean images.
    """
    if len(clean.images) < LEAST_IMAGES:
        raise DataError(
            f"{clean.name} holds {len(clean.images)} images, an evaluation takes {LEAST_IMAGES} "
            "or more"
        )
    on_set("PCA")
    fit_on, rest = _halves(len(clean.images), seed=0)
    pca = PcaError(clean.images[fit_on] if training is None else training)

    def seen(facts: SetFacts, images: NDArray[np.uint8], of_pca: NDArray[np.uint8]) -> Observed:
        on_set(facts.name)
        rivals = trivial_scores(images) | {pca.name: pca(of_pca)}
        return Observed(
            facts=facts, images=images, scores=all_scores(engine, images), rivals=rivals
        )

    unfitted = clean.images[rest] if training is None else clean.images
    return Observations(
        engine=engine,
        clean=seen(_facts(clean), clean.images, unfitted),
        anomalies=tuple(
            seen(facts, part, part) for facts, part in _all_anomalies(clean, anomalies)
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
    """`test`, then `test (2)`: two folders may have one name."""
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
    """The figures of what was observed."""
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
            Anomalies(images=found.facts, detections=tuple(_detections(clean, found)))
            for found in observations.anomalies
        ),
    )


def _detections(clean: Observed, found: Observed) -> Iterator[Detection]:
    for name, values in clean.scores.items():
        yield Detection(
            score=name,
            auroc=auroc(values, found.scores[name]),
            fpr_at_95_tpr=fpr_at_95_tpr(values, found.scores[name]),
            is_rival=False,
            reversed=False,
        )
    for name, normal in clean.rivals.items():
        strange = found.rivals[name]
        area = auroc(normal, strange)
        if turned := area.value < 0.5:
            normal, strange = -normal, -strange
        yield Detection(
            score=name,
            auroc=auroc(normal, strange) if turned else area,
            fpr_at_95_tpr=fpr_at_95_tpr(normal, strange),
            is_rival=True,
            reversed=turned,
        )


def false_alarms(calibration: Calibration, clean: dict[str, Floats]) -> FalseAlarms:
    """Of the scores of clean images, (N,) each, the default first."""
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
    """Of random halves of the calibration's own images: one calibrates, the other is measured."""
    table = calibration.scores.get(name, np.empty(0, np.float32))
    if len(table) < 2:
        return ()
    rates = np.empty((HALVINGS, len(COMMON_ALPHAS)))
    for seed, found in enumerate(rates):
        first, second = _halves(len(table), seed)
        half = Calibration(
            scores={name: table[first]}, data_set=calibration.data_set, date=calibration.date
        )
        p_values = half.p_values(name, table[second])
        found[:] = [(p_values <= alpha).mean() for alpha in COMMON_ALPHAS]
    return tuple(
        ExchangeableRate(alpha=alpha, mean=float(column.mean()), std=float(column.std(ddof=1)))
        for alpha, column in zip(COMMON_ALPHAS, rates.T, strict=True)
    )


def is_calibration_set(calibration: Calibration, clean: dict[str, Floats]) -> bool:
    """Whether the calibration was made of these very scores."""
    name, values = next(iter(clean.items()))
    table = calibration.scores[name]
    return len(table) == len(values) and np.allclose(table, np.sort(values), rtol=1e-4)


def _halves(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of a random half, rounded down, and of the rest; sorted."""
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])
