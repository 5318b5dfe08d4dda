"""Calibration of a bundle on clean images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import Bundle
from model.calibration import DEFAULT_DRAWS, Floats, calibration_of
from model.engine import Engine
from model.scoring import DRAWN_SCORES, draw_log_likelihoods, offered_scores

CHUNK_IMAGES = 512
"""Images in one pass."""


def calibrated(bundle: Bundle, images: NDArray[np.uint8], *, data_set: str, date: str) -> Bundle:
    """`bundle` with a calibration on `images`, (N, C, H, W), that it was not trained on.

    The weights stay as they are. Raises `CalibrationError` for no images.
    """
    scores = all_scores(Engine(bundle, device="cpu"), images)
    return replace(bundle, calibration=calibration_of(scores, data_set=data_set, date=date))


@torch.inference_mode()
def all_scores(engine: Engine, images: NDArray[np.uint8], seed: int = 0) -> dict[str, Floats]:
    """Every score of every image, by name, (N,) each; draws are `DEFAULT_DRAWS`, from `seed`.

    The same as `Engine.score` and `Engine.draw` give one by one, in one pass through the encoder.
    """
    bundle = engine.bundle
    network, variance = bundle.network(), bundle.pixel_variance
    plain = offered_scores(bundle.statistics, variance)
    found: dict[str, list[Floats]] = {name: [] for name in engine.scores}
    generator = np.random.default_rng(seed)
    for start in range(0, len(images), CHUNK_IMAGES):
        part = images[start : start + CHUNK_IMAGES]
        pixels = torch.from_numpy(part.reshape(len(part), -1)).float() / 255
        output = network(pixels)
        for name, score in plain.items():
            found[name].append(score(pixels, output).numpy())
        if variance is None:
            continue
        shape = (len(part), DEFAULT_DRAWS, bundle.config.latent_size)
        noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        draws = []
        for of_all in noise.unbind(dim=1):  # (N, D)
            z = output.posterior.sample(of_all)
            decoded = network.decode(z)
            draws.append(draw_log_likelihoods(pixels, output.posterior, z, decoded, variance))
        # (N, K) each
        likelihoods, weights = (
            torch.stack(values, dim=1).numpy() for values in zip(*draws, strict=True)
        )
        for name in engine.drawn_scores:
            found[name].append(DRAWN_SCORES[name](likelihoods, weights))
    return {
        name: np.concatenate(parts) if parts else np.empty(0, np.float32)
        for name, parts in found.items()
    }
