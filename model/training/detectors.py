"""Detectors for trained networks: one for each, fitted to the images it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.features.detector import Detector, DetectorConfig, Findings, StoredDetector
from model.images.copies import Indices
from model.training.backbone_weights import BackboneWeights
from model.training.fit_detector import (
    STEPS,
    Distances,
    ImageFeatures,
    distances,
    extract,
    findings,
    fit_detector,
    set_combined_scale,
    set_map_scale,
    set_place_scales,
)
from model.training.split import Split
from model.training.train import Trained

MAX_FITTED: Final = 2_000
"""Images that a detector is fitted to at most. Their features take 90 KB each."""

MAX_UNSEEN: Final = 500
"""Images that set its scales, at most."""


def with_detectors(
    networks: Sequence[Trained],
    images: NDArray[np.uint8],
    backbone: BackboneWeights,
    *,
    on_images: Callable[[int, int], None] = lambda *_: None,
    on_step: Callable[[int, int, int], None] = lambda *_: None,
) -> list[Trained]:
    """Fit a detector for each of the `networks`, which were trained on uint8 `images`,
    (N, C, H, W).

    A detector is fitted to the images that its network was trained on. Several networks hold out
    different images, and each of these is seen by the detector that was not fitted to it. All of
    them set the scale of maps and of `combined`, which is one for all detectors; those that the
    other networks hold out set the scale of each place, so that a detector's own ones can calibrate
    it. If there is one network, the images that chose its weights set the scales of places and of
    `combined`, and those held out that of maps.

    No detector is trained for more steps than its network may take. `on_images` is called with the
    number of images whose features are computed, and the number of all; `on_step` with the number
    of the network, the step, and the number of steps. Raises `BackboneError` as `extract` does.
    """
    config = DetectorConfig(image_shape=networks[0].network.config.image_shape)
    used = [_used(fold.split) for fold in networks]
    needed = np.unique(np.concatenate([indices for parts in used for indices in parts]))
    features = extract(config, backbone.tensors, images[needed], on_images)

    def take(indices: Indices) -> ImageFeatures:
        return features.take(np.searchsorted(needed, indices))

    detectors = [
        fit_detector(
            config,
            backbone.tensors,
            take(trained),
            take(unseen),
            seed=fold.options.seed,
            steps=min(STEPS, fold.options.steps or STEPS),
            on_step=partial(on_step, number),
        )
        for number, (fold, (trained, unseen, _)) in enumerate(zip(networks, used, strict=True))
    ]
    if len(networks) > 1:
        far = [
            distances(detector, take(held_out))
            for detector, (_, _, held_out) in zip(detectors, used, strict=True)
        ]
        for number, detector in enumerate(detectors):
            others = far[:number] + far[number + 1 :]
            set_place_scales(detector, Distances(*map(torch.cat, zip(*others, strict=True))))
    found = [
        findings(detector, take(held_out))
        for detector, (_, _, held_out) in zip(detectors, used, strict=True)
    ]
    clean = Findings(*(torch.cat(values) for values in zip(*found, strict=True)))
    for detector in detectors:
        set_map_scale(detector, clean)
        if len(networks) > 1:
            set_combined_scale(detector, clean.parts)
    return [
        replace(fold, detector=_stored(detector))
        for fold, detector in zip(networks, detectors, strict=True)
    ]


def _used(split: Split) -> tuple[Indices, Indices, Indices]:
    """The images that a detector is fitted to, those that set the scales of its places, and others
    held out."""
    limits = MAX_FITTED, MAX_UNSEEN, MAX_UNSEEN
    parts = split.train, split.validation, split.held_out
    trained, unseen, held_out = map(thinned, parts, limits)
    return trained, unseen, held_out


def thinned(indices: Indices, limit: int) -> Indices:
    """At most `limit` of the indices, evenly spaced."""
    chosen = np.linspace(0, len(indices) - 1, min(limit, len(indices))).round().astype(np.int64)
    return indices[chosen]


def _stored(detector: Detector) -> StoredDetector:
    tensors = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    return StoredDetector(config=detector.config, tensors=tensors)
