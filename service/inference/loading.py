"""Loads a bundle and checks that its network works, at the start and for reloads."""

from __future__ import annotations

import logging

from model.bundle.bundle import find_bundle, load_bundle
from model.bundle.checks import BundleError
from model.engine.engine import Engine
from service.settings import Settings

log = logging.getLogger("service")


def load_engine(settings: Settings) -> Engine:
    """Load and warm up the bundle that the settings name, and check its scores of a known image.

    Raises `BundleError` or `DeviceError`, each with a one-line message.
    """
    engine = Engine(
        load_bundle(find_bundle(settings.bundle)),
        device=settings.device,
        threads=settings.inference_threads,
        dtype=settings.dtype,
    )
    engine.warm_up(settings.max_batch_images or engine.best_batch)
    scores = engine.score(engine.probe, "mse")
    if not engine.is_right(scores):
        raise BundleError(
            f"bundle {settings.bundle!r} cannot be used: its known image has mse "
            f"{scores.mse[0]:.6g} and KL {scores.kl[0]:.6g} here, which differs from the bundle's "
            "record"
        )
    calibration = engine.calibration
    if calibration is not None and settings.alpha < (min_p_value := 1 / (calibration.n + 1)):
        log.warning(
            "alpha is %g < %.2g, the smallest p-value that a calibration with %d images can give: "
            "no image will be an anomaly; raise alpha (VAE_ALPHA) or calibrate with more images",
            *(settings.alpha, min_p_value, calibration.n),
        )
    return engine
