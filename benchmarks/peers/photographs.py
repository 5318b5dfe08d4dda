"""The photographs that every server is measured with, and the networks that score them.

Both are made here. How fast a network is does not depend on what it has learned, so training lasts
for a moment.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peers.common import whole_image

if TYPE_CHECKING:
    from model.training.backbone_weights import BackboneWeights

PNG_256: Final = "PNG, 256×256"
JPEG_1: Final = "JPEG, 1 megapixel"
JPEG_12: Final = "JPEG, 12 megapixels"

FILES: Final = {
    PNG_256: ("PNG", 256, 256),
    JPEG_1: ("JPEG", 864, 1152),
    JPEG_12: ("JPEG", 3000, 4000),
}
"""Format, height and width of the photographs, the smallest first. All are in colour."""

QUALITY: Final = 93
"""Of JPEG files."""

CONTRAST: Final = 16.0
"""Grey levels by which a scene varies at each scale: photographs vary about alike at all scales."""

SHARPNESS: Final = 16
"""Pixels below which a scale has less contrast, as large photographs are not sharp to a pixel."""

NOISE: Final = 4.0
"""Grey levels of sensor noise. The file of 12 megapixels then has 3 MB, as a phone's might."""

CONV: Final = "conv"
FEATURES: Final = "features"

NETWORKS: Final = {CONV: (64, 1), FEATURES: (256, 4)}
"""By the `--arch` of `vae train`: the side of the images, and by how much the network, other than
the detector, scales them down. As that command chooses for square photographs."""

PICTURES: Final = 48
"""To train on, and to calibrate on."""

STEPS: Final = 30
"""Of training, for the network and for the detector."""


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """An image file."""

    name: str
    media_type: str
    data: bytes


def scene(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture whose detail and noise are like a photograph's: clouds, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    light = np.full((3, 1, 1), 128, np.float32)
    for octave in reversed(range(max(height, width).bit_length())):
        scale = 1 << octave
        size = -(-width // scale), -(-height // scale)
        channels = [Image.fromarray(c).resize(size, Image.Resampling.BICUBIC) for c in light]
        light = np.stack([np.asarray(channel) for channel in channels])
        if octave:
            contrast = CONTRAST * min(1.0, scale / SHARPNESS)
            tint = rng.uniform(0.6, 1.4, (3, 1, 1)).astype(np.float32)
            light += contrast * tint * rng.standard_normal(light.shape[1:], np.float32)
    light += NOISE * rng.standard_normal(light.shape, np.float32)
    pixels: NDArray[np.uint8] = light.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(pixels)


@cache
def photographs() -> tuple[Photograph, ...]:
    """Those of `FILES`."""
    return tuple(
        Photograph(name=name, media_type=f"image/{kind.lower()}", data=_file(kind, height, width))
        for name, (kind, height, width) in FILES.items()
    )


def _file(kind: str, height: int, width: int) -> bytes:
    file = BytesIO()
    Image.fromarray(scene(0, height, width)).save(file, kind, quality=QUALITY)
    return file.getvalue()


def make_network(name: str, parent: Path) -> Path:
    """Train one of `NETWORKS` for some seconds. Returns its bundle's directory, below `parent`.

    A detector gets a backbone of random weights if those of the extra `photographs` are not
    installed. A line on stderr says why, if the bundle has no graphs for ONNX Runtime.
    """
    from model.images.preprocessing import SCALED
    from model.training.calibrate import calibrated
    from model.training.chosen import suitable_config
    from model.training.cross_fit import as_bundle
    from model.training.detectors import with_detectors
    from model.training.onnx_export import with_graphs
    from model.training.split import split_indices
    from model.training.train import TrainOptions, train

    side, downscale = NETWORKS[name]
    pictures = np.stack([scene(1 + number, side, side) for number in range(PICTURES)])
    images = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    config = suitable_config((3, side, side), architecture="conv", downscale=downscale)
    split = split_indices(PICTURES, 0)
    trained = train(config, images, TrainOptions(steps=STEPS), split)
    provenance: dict[str, object] = {"data_set": "generated pictures"}
    if name == FEATURES:
        backbone = _backbone()
        provenance["backbone"] = dict(backbone.origin)
        (trained,) = with_detectors([trained], images, backbone)
    bundle = as_bundle(trained, name, preprocessing=SCALED, provenance=provenance)
    bundle = with_graphs(bundle, lambda line: print(line, file=sys.stderr, flush=True))
    bundle = calibrated(
        bundle, images[split.held_out], data_set="generated pictures", date="2026-01-01"
    )
    bundle.save(parent / name, "Made to measure speed. Its scores mean nothing.\n")
    return parent / name


def _backbone() -> BackboneWeights:
    import torch

    from model.features.backbone import Backbone
    from model.training.backbone_weights import BackboneWeights, is_installed, usual_backbone

    if is_installed():
        return usual_backbone()
    torch.manual_seed(0)
    weights = Backbone().state_dict()
    for name, tensor in weights.items():
        if name.endswith(".weight"):  # PyTorch's own initial values let the signal fade away
            torch.nn.init.kaiming_normal_(tensor)
    return BackboneWeights(tensors=weights, origin={"name": "random weights"})


@cache
def expected_scores(directory: Path, score: str, *, scales_jpeg: bool) -> tuple[float, ...]:
    """The right score of each of `photographs`, by the network in a directory.

    Of a network without a detector by the `score`, and else by the default one.
    """
    from model.bundle.bundle import load_bundle
    from model.engine.engine import Engine
    from model.images.preprocessing import image_to_array, open_image

    bundle = load_bundle(directory)
    engine = Engine(bundle, device="cpu", threads=1)
    shape = bundle.config.image_shape
    scores = []
    for photograph in photographs():
        if scales_jpeg:
            height, width = FILES[photograph.name][1:]
            image = open_image(photograph.data, max_pixels=height * width)
            pixels = image_to_array(image, shape, preprocessing=bundle.preprocessing)
        else:
            pixels = whole_image(Image.open(BytesIO(photograph.data)), shape)
        row = pixels.reshape(1, -1)
        scores.append(float(engine.score(row, None if bundle.detector else score).score[0]))
    return tuple(scores)
