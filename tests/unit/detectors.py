"""Bundles with a detector, without any training data, and photographs for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.bundle import Bundle
from model.engine.engine import Engine
from model.features.backbone import Backbone
from model.features.detector import DetectorConfig, StoredDetector
from model.scores.calibration import calibration_of
from model.training.calibrate import all_scores
from model.training.chosen import suitable_config
from model.training.fit_detector import extract, fit_detector
from model.training.statistics import score_statistics
from tests.unit.samples import tiny_bundle

Images = NDArray[np.uint8]

SIDES = (32, 96)
"""Height and width of the images. Flat, so that the detector has few places and is soon fitted."""

TRAINED = 16
UNSEEN = 10
"""Images that the detector is fitted to, and that give it its scale."""

DEFECT = (slice(8, 20), slice(72, 88))
"""Rows and columns of the defect in the images of `defective`."""


def clean(n: int, channels: int = 1, seed: int = 0) -> Images:
    """Soft stripes with some noise, (n, channels, H, W)."""
    noise = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SIDES[0], : SIDES[1]]
    phase, tone = noise.uniform(0, 6, (n, channels, 1, 1)), noise.uniform(90, 150, (n, 1, 1, 1))
    stripes = tone + 20 * np.sin(columns / 3 + rows / 20 + phase)
    images: Images = (stripes + noise.normal(0, 4, stripes.shape)).clip(0, 255).astype(np.uint8)
    return images


def defective(n: int, channels: int = 1, seed: int = 1) -> Images:
    """The same, with a rough patch at `DEFECT`."""
    images = clean(n, channels, seed)
    patch = images[..., *DEFECT]
    rough = np.random.default_rng(seed).integers(-70, 71, (n, 1, *patch.shape[2:]))
    patch[:] = (patch + rough).clip(0, 255)
    return images


@cache
def detected_bundle(channels: int = 1) -> Bundle:
    """A bundle with a detector, calibrated; all networks have random weights. Made
    once, in a few seconds."""
    config = suitable_config((channels, *SIDES))
    plain = tiny_bundle(config=config, name="detected", pixel_variance=0.25)
    trained, unseen = clean(TRAINED, channels, 2), clean(UNSEEN, channels, 3)
    flat = [torch.from_numpy(images).flatten(1) for images in (trained, unseen)]
    plain = replace(plain, statistics=score_statistics(plain.network(), *flat))
    backbone = _random_backbone()
    shape = DetectorConfig(image_shape=config.image_shape)
    features = extract(shape, backbone, trained), extract(shape, backbone, unseen)
    detector = fit_detector(shape, backbone, *features, steps=20)
    stored = StoredDetector(config=shape, tensors=detector.state_dict())
    bundle = replace(plain, detector=stored)
    scores = all_scores(Engine(bundle, device="cpu"), clean(UNSEEN, channels, 4))
    calibration = calibration_of(scores, data_set="stripes", date="2026-01-02")
    return replace(bundle, calibration=calibration)


def _random_backbone() -> Mapping[str, Tensor]:
    """Weights with which all features vary as the images do; PyTorch's own let them fade away."""
    backbone = Backbone()
    generator = torch.Generator().manual_seed(0)
    for tensor in backbone.parameters():
        if tensor.ndim > 1:
            torch.nn.init.kaiming_normal_(tensor, generator=generator)
        else:
            torch.nn.init.zeros_(tensor)
    return backbone.state_dict()
