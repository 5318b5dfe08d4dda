"""Calibration of a bundle on clean images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.engine.engine import Engine
from model.scores.calibration import DEFAULT_DRAWS, DTYPES, Calibration, Floats, calibration_of

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
    """Every score of uint8 `images`, (N, C, H, W), in each of `DTYPES`: (N,) by name."""
    return {
        dtype: all_scores(Engine(bundle, device="cpu", dtype=dtype), images) for dtype in DTYPES
    }


def all_scores(engine: Engine, images: NDArray[np.uint8], seed: int = 0) -> dict[str, Floats]:
    """Every score of uint8 `images`, (N, C, H, W): (N,) by name.

    Sampled scores average over `DEFAULT_DRAWS` draws per image, seeded by `seed`.
    """
    scores: dict[str, list[Floats]] = {name: [] for name in engine.scores}
    generator = np.random.default_rng(seed)
    for start in range(0, len(images), CHUNK_IMAGES):
        part = images[start : start + CHUNK_IMAGES]
        if engine.sampled_scores:
            shape = (len(part), DEFAULT_DRAWS, engine.bundle.config.latent_size)
            noise = generator.standard_normal(shape, dtype=np.float32)
            draws = engine.draw(engine.draw_rows(part, noise))
        for name, parts in scores.items():
            parts.append(
                engine.sampled_score(name, draws, shape)
                if name in engine.sampled_scores
                else engine.score(part, name).score
            )
    return {
        name: np.concatenate(parts) if parts else np.empty(0, np.float32)
        for name, parts in scores.items()
    }
