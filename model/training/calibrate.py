"""Calibration of a bundle on clean images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.engine.engine import Engine
from model.scores.calibration import DEFAULT_DRAWS, DTYPES, Floats, calibration_of

CHUNK_IMAGES = 128
"""Images in one pass, as the service has them."""


def calibrated(bundle: Bundle, images: NDArray[np.uint8], *, data_set: str, date: str) -> Bundle:
    """`bundle` with a calibration on `images`, (N, C, H, W), that it was not trained on.

    The weights stay as they are. There is a table for each score, and for each type that the
    network may compute in. Raises `CalibrationError` for no images.
    """
    scores = {
        dtype: all_scores(Engine(bundle, device="cpu", dtype=dtype), images) for dtype in DTYPES
    }
    calibration = calibration_of(
        scores.pop(DTYPES[0]), data_set=data_set, date=date, other_dtypes=scores
    )
    return replace(bundle, calibration=calibration)


def all_scores(engine: Engine, images: NDArray[np.uint8], seed: int = 0) -> dict[str, Floats]:
    """Every score of every image, by name, (N,) each; draws are `DEFAULT_DRAWS`, from `seed`."""
    found: dict[str, list[Floats]] = {name: [] for name in engine.scores}
    generator = np.random.default_rng(seed)
    for start in range(0, len(images), CHUNK_IMAGES):
        part = images[start : start + CHUNK_IMAGES]
        if engine.sampled_scores:
            shape = (len(part), DEFAULT_DRAWS, engine.bundle.config.latent_size)
            noise = generator.standard_normal(shape, dtype=np.float32)
            draws = engine.draw(engine.draw_rows(part, noise))
        for name, parts in found.items():
            drawn = name in engine.sampled_scores
            parts.append(
                engine.sampled_score(name, draws, shape)
                if drawn
                else engine.score(part, name).score
            )
    return {
        name: np.concatenate(parts) if parts else np.empty(0, np.float32)
        for name, parts in found.items()
    }
