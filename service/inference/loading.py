"""Loads a bundle and checks that its network works, at the start and for reloads."""

from __future__ import annotations

import logging
from typing import Final

from model.bundle.bundle import find_bundle, load_bundle
from model.bundle.checks import BundleError
from model.engine.engine import Engine
from service.settings import Settings

log = logging.getLogger("service")

MAX_REASON: Final = 300
"""Characters of an error's own message. ONNX Runtime quotes paths and shapes at length."""


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
    try:
        engine.warm_up(settings.max_batch_images or engine.best_batch)
        _check_known_scores(engine)
    except Exception as error:  # those of ONNX Runtime derive from Exception directly
        reason = " ".join(str(error).split())[:MAX_REASON]
        if not isinstance(error, BundleError):
            log.debug("a forward pass failed", exc_info=True)
            reason = f"a forward pass failed: {type(error).__name__}: {reason}"
        raise BundleError(f"bundle {settings.bundle!r} cannot be used: {reason}") from error
    calibration = engine.calibration
    if calibration is not None and settings.alpha < (min_p_value := 1 / (calibration.n + 1)):
        log.warning(
            "alpha is %g < %.2g, the smallest p-value that a calibration with %d images can give: "
            "no image will be an anomaly; raise alpha (VAE_ALPHA) or calibrate with more images",
            *(settings.alpha, min_p_value, calibration.n),
        )
    return engine


def _check_known_scores(engine: Engine) -> None:
    """Raise `BundleError` unless the known image gets its known scores.

    Each score of a detector is checked, as `combined` is only the largest of its parts.
    """
    for name in engine.scaled_maps or engine.scores[:1]:
        scores = engine.score(engine.probe, name)
        if not engine.is_right(scores, name):
            raise BundleError(
                f"its known image has {name} {scores.score[0]:.6g}, mse {scores.mse[0]:.6g} and KL "
                f"{scores.kl[0]:.6g} here, which differs from the bundle's record"
            )
