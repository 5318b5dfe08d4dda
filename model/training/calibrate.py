"""Calibration of a bundle on clean images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.engine.cpu import DETECTOR_BATCH
from model.engine.engine import Engine
from model.engine.forward import choose_detector
from model.features.detector import PARTS
from model.scores.calibration import DEFAULT_DRAWS, DTYPES, Calibration, Floats, calibration_of
from model.scores.detected import COMBINED

CHUNK_IMAGES = 128
"""Images per pass, as in the service."""


def calibrated(bundle: Bundle, images: NDArray[np.uint8], *, data_set: str, date: str) -> Bundle:
    """Return `bundle` calibrated on uint8 `images`, (N, C, H, W), that it was not trained on.

    The weights do not change. The calibration has a table for each score in each dtype that the
    network can compute in. Raises `CalibrationError` if there are no images.
    """
    calibration = calibration_by_dtype(
        scores_by_dtype(bundle, images), data_set=data_set, date=date
    )
    return replace(bundle, calibration=calibration)


def calibration_by_dtype(
    scores: Mapping[str, Mapping[str, Floats]], *, data_set: str, date: str, folds: int = 0
) -> Calibration:
    """A calibration of clean images' scores, (n,) by name, by dtype. Raises `CalibrationError`."""
    first, *others = DTYPES
    return calibration_of(
        scores[first],
        data_set=data_set,
        date=date,
        folds=folds,
        other_dtypes={dtype: scores[dtype] for dtype in others},
    )


def scores_by_dtype(bundle: Bundle, images: NDArray[np.uint8]) -> dict[str, dict[str, Floats]]:
    """Every score of uint8 `images`, (N, C, H, W), in each of `DTYPES`: (N,) by name.

    A detector computes in float32 whatever the type, so it runs once.
    """
    parts = None if bundle.detector is None else detector_parts(bundle, images)
    return {
        dtype: all_scores(Engine(bundle, device="cpu", dtype=dtype), images, parts=parts)
        for dtype in DTYPES
    }


def score_in_parts(engine: Engine, images: NDArray[np.uint8], name: str) -> Floats:
    """The score `name` of uint8 `images`, (N, C, H, W), by `Engine.score`: (N,)."""
    starts = range(0, len(images), CHUNK_IMAGES)
    parts = [engine.score(images[start : start + CHUNK_IMAGES], name).score for start in starts]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


@torch.inference_mode()
def detector_parts(bundle: Bundle, images: NDArray[np.uint8]) -> Floats:
    """The parts that a bundle's detector finds in uint8 `images`, (N, C, H, W): (N, 3)."""
    assert bundle.detector is not None  # noqa: S101 - for mypy: callers have checked
    detector = bundle.detector.module()
    run = choose_detector(bundle) or detector
    parts = [np.empty((0, len(PARTS)), np.float32)]
    for start in range(0, len(images), DETECTOR_BATCH):
        part = torch.from_numpy(images[start : start + DETECTOR_BATCH])
        columns = run(part.float().div(255).reshape(len(part), -1))
        parts.append(detector.split(columns).parts.numpy())
    return np.concatenate(parts)


def all_scores(
    engine: Engine, images: NDArray[np.uint8], seed: int = 0, *, parts: Floats | None = None
) -> dict[str, Floats]:
    """Every score of uint8 `images`, (N, C, H, W): (N,) by name.

    Sampled scores average over `DEFAULT_DRAWS` draws per image, seeded by `seed`. `parts` are what
    `detector_parts` found, if that is known.
    """
    own = [name for name in engine.scores if name not in engine.scaled_maps]
    scores: dict[str, list[Floats]] = {name: [] for name in own}
    generator = np.random.default_rng(seed)
    for start in range(0, len(images), CHUNK_IMAGES):
        part = images[start : start + CHUNK_IMAGES]
        if engine.sampled_scores:
            shape = (len(part), DEFAULT_DRAWS, engine.bundle.config.latent_size)
            noise = generator.standard_normal(shape, dtype=np.float32)
            draws = engine.draw(engine.draw_rows(part, noise))
        for name, values in scores.items():
            values.append(
                engine.sampled_score(name, draws, shape)
                if name in engine.sampled_scores
                else engine.score(part, name).score
            )
    found = {
        name: np.concatenate(values) if values else np.empty(0, np.float32)
        for name, values in scores.items()
    }
    if engine.bundle.detector is not None:
        if parts is None:
            parts = detector_parts(engine.bundle, images)
        module = engine.bundle.detector.module()
        combined = module.combined(torch.from_numpy(parts))
        found |= {COMBINED: combined.numpy(), **dict(zip(PARTS, parts.T, strict=True))}
    return {name: found[name] for name in engine.scores}
