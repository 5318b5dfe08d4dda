"""From a bundle's directory to a network that may answer, at the start and again later."""

from __future__ import annotations

import logging

from model.bundle.bundle import BundleError, find_bundle, load_bundle
from model.engine.engine import Engine
from service.settings import Settings

log = logging.getLogger("service")


def load_engine(settings: Settings) -> Engine:
    """The bundle that the settings name: read, checked, warmed up, and right about a known image.

    Raises `BundleError` or `DeviceError`, each with a message of one line.
    """
    engine = Engine(
        load_bundle(find_bundle(settings.bundle)),
        device=settings.device,
        threads=settings.inference_threads,
        dtype=settings.dtype,
    )
    engine.warm_up(settings.max_batch_images or engine.best_batch)
    found = engine.score(engine.probe, "mse")
    if not engine.is_right(found):
        raise BundleError(
            f"bundle {settings.bundle!r} cannot be used: of its known image the mse is "
            f"{found.mse[0]:.6g} and the KL {found.kl[0]:.6g} here, which is not what it records"
        )
    calibration = engine.calibration
    if calibration is not None and settings.alpha < (least := 1 / (calibration.n + 1)):
        log.warning(
            "alpha is %g, and the bundle's calibration of %d images knows no p-value below %.2g: "
            "no image will be an anomaly",
            *(settings.alpha, calibration.n, least),
        )
    return engine
