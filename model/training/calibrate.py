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
from model.scores.calibration import DEFAULT_DRAWS, DTYPES, Calibration, Floats, calibration_of
from model.scores.detected import DETECTED_SCORES, DetectorScores

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
    detected = detected_scores(bundle, images)
    return {
        dtype: all_scores(Engine(bundle, device="cpu", dtype=dtype), images, detected=detected)
        for dtype in DTYPES
    }


def score_in_parts(engine: Engine, images: NDArray[np.uint8], name: str) -> Floats:
    """The score `name` of uint8 `images`, (N, C, H, W), by `Engine.score`: (N,)."""
    starts = range(0, len(images), CHUNK_IMAGES)
    parts = [engine.score(images[start : start + CHUNK_IMAGES], name).score for start in starts]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


@torch.inference_mode()
def detected_scores(bundle: Bundle, images: NDArray[np.uint8]) -> dict[str, Floats]:
    """The scores of uint8 `images`, (N, C, H, W), by a bundle's detector: (N,) by name.

    All of them from one pass. There are none for a bundle without a detector.
    """
    if bundle.detector is None:
        return {}
    detector = DetectorScores(bundle.detector.module(), choose_detector(bundle))
    columns = [np.empty((0, len(DETECTED_SCORES)), np.float32)]
    for start in range(0, len(images), DETECTOR_BATCH):
        part = torch.from_numpy(images[start : start + DETECTOR_BATCH])
        pixels = part.float().div(255).reshape(len(part), -1)
        columns.append(detector.scores(detector.find(pixels)).numpy())
    return dict(zip(DETECTED_SCORES, np.concatenate(columns).T.copy(), strict=True))


def all_scores(
    engine: Engine,
    images: NDArray[np.uint8],
    seed: int = 0,
    *,
    detected: Mapping[str, Floats] | None = None,
) -> dict[str, Floats]:
    """Every score of uint8 `images`, (N, C, H, W): (N,) by name.

    Sampled scores average over `DEFAULT_DRAWS` draws per image, seeded by `seed`. `detected` are
    the `detected_scores` of these images, if they are known.
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
    found |= detected_scores(engine.bundle, images) if detected is None else detected
    return {name: found[name] for name in engine.scores}
