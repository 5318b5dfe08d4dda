"""Fitting a detector to normal images: its VAE by gradient descent, all else in closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.features.backbone import FEATURES, BackboneError
from model.features.detector import BLOCK, Detector, DetectorConfig, Findings
from model.images.copies import Indices
from model.training.mixture import precision_roots, shrunk_covariance
from model.training.statistics import tail

CHUNK: Final = 16
"""Images at a time through the backbone: more take memory and no less time."""

STEPS: Final = 1500
BATCH: Final = 512
"""Places in a step."""

LEARNING_RATE: Final = 2e-3
"""Peak of the one-cycle schedule."""

MAX_DEVIATION: Final = 10.0
"""Standardized features are clamped to ± this in training: one odd place must not dominate."""

PRIOR_IMAGES: Final = 8
"""Weight of all places' common variance, in images, beside a place's own: the variance of few
images is unreliable."""

FULL_COLOUR: Final = 0.999
"""Quantile of clean places that is 1 on a map."""

TAIL: Final = 0.99
"""Quantile whose distance from the median gives the scale of a part of `combined`."""

RIDGE: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """What a detector's backbone and filters make of images, which needs no fitting."""

    features: NDArray[np.float16]  # (N, h, w, F)
    bands: NDArray[np.float32]  # (N, cells, BANDS)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, indices: Indices) -> ImageFeatures:
        """Those of some images."""
        return ImageFeatures(features=self.features[indices], bands=self.bands[indices])


@torch.inference_mode()
def extract(
    config: DetectorConfig,
    backbone: Mapping[str, Tensor],
    images: NDArray[np.uint8],
    on_images: Callable[[int, int], None] = lambda *_: None,
) -> ImageFeatures:
    """Features and bands of uint8 `images`, (N, C, H, W).

    `on_images` is called with how many are done, and how many there are. Raises `BackboneError` for
    features that float16 does not hold.
    """
    detector = _new(config, backbone)
    # torch's stubs lack this form of `to`.
    torch.nn.Module.to(detector.backbone, memory_format=torch.channels_last)  # type: ignore[call-overload]
    h, w = config.grid
    features = np.empty((len(images), h, w, FEATURES), np.float16)
    bands = []
    for start in range(0, len(images), CHUNK):
        part = torch.from_numpy(images[start : start + CHUNK])
        pixels = part.float().div(255).reshape(len(part), -1)
        features[start : start + len(part)] = _half(detector.features(pixels)).numpy()
        bands.append(detector.bands(pixels).numpy())
        on_images(start + len(part), len(images))
    return ImageFeatures(features=features, bands=np.concatenate(bands))


def _half(features: Tensor) -> Tensor:
    """Features in half precision. Raises `BackboneError` where that cannot be."""
    half = features.half()
    if not half.isfinite().all():
        largest = float(features.abs().max())  # NaN if there is one
        raise BackboneError(
            f"the backbone's features reach {largest:.3g}, but the largest that a detector takes "
            f"is {torch.finfo(torch.float16).max:,.0f}: other weights are needed"
        )
    return half


def fit_detector(
    config: DetectorConfig,
    backbone: Mapping[str, Tensor],
    trained: ImageFeatures,
    unseen: ImageFeatures,
    *,
    seed: int = 0,
    steps: int = STEPS,
    on_step: Callable[[int, int], None] = lambda *_: None,
) -> Detector:
    """A detector fitted to the images `trained`, on the scale of the images `unseen`.

    `set_place_scales`, then `set_map_scale` and `set_combined_scale`, replace that scale by one of
    more images.
    """
    detector = _new(config, backbone)
    places = torch.from_numpy(trained.features).float()  # (N, h, w, F)
    detector.feature_mean.copy_(places.mean(dim=0))
    detector.feature_std.copy_(_spread(places, dim=(0, 1, 2)))
    places.sub_(detector.feature_mean).div_(detector.feature_std)
    _fit_vae(detector, places, seed, steps, on_step)
    detector.eval().requires_grad_(requires_grad=False)
    with torch.inference_mode():
        _fit_residuals(detector, places)
        _fit_pooled(detector, places)
        _fit_texture(detector, torch.from_numpy(trained.bands))
        set_place_scales(detector, distances(detector, unseen))
        found = findings(detector, unseen)
        set_map_scale(detector, found)
        set_combined_scale(detector, found.parts)
    return detector


def _new(config: DetectorConfig, backbone: Mapping[str, Tensor]) -> Detector:
    detector = Detector(config)
    detector.backbone.load_state_dict(dict(backbone))
    detector.backbone.requires_grad_(requires_grad=False)
    detector.map_scale[:, 1] = 1
    detector.combined_scale[:, 1] = 1
    return detector.eval()


def _fit_residuals(detector: Detector, places: Tensor) -> None:
    """The mean of each place's residuals, and the covariance of each block's."""
    residual = torch.cat([detector.residuals(part)[0] for part in torch.split(places, CHUNK)])
    detector.residual_mean.copy_(residual.mean(dim=0))
    offset = residual.sub_(detector.residual_mean).numpy()
    _, h, w, _ = offset.shape
    roots = [
        _root(offset[:, top : top + BLOCK, left : left + BLOCK].reshape(-1, FEATURES))
        for top in range(0, h, BLOCK)
        for left in range(0, w, BLOCK)
    ]
    detector.residual_roots.copy_(torch.from_numpy(np.stack(roots)))


def _fit_pooled(detector: Detector, places: Tensor) -> None:
    pooled = places.mean(dim=(1, 2)).numpy()
    detector.pooled_mean.copy_(torch.from_numpy(pooled.mean(axis=0)))
    detector.pooled_root.copy_(torch.from_numpy(_root(pooled - pooled.mean(axis=0))))


def _fit_texture(detector: Detector, bands: Tensor) -> None:
    detector.texture_mean.copy_(bands.mean(dim=0))
    cells = (bands - detector.texture_mean).transpose(0, 1).numpy()  # (cells, N, BANDS)
    detector.texture_roots.copy_(torch.from_numpy(np.stack([_root(cell) for cell in cells])))


def _root(offsets: NDArray[np.float32]) -> NDArray[np.float64]:
    """R with R Rᵀ the inverse covariance of `offsets`, (n, F), shrunk as they are few."""
    covariance = shrunk_covariance(offsets.astype(np.float64))
    mean = float(np.trace(covariance)) / len(covariance)
    # At most 1 / √RIDGE, which float16 holds, even where all images are the same.
    covariance += RIDGE * max(mean, 1) * np.eye(len(covariance))
    root: NDArray[np.float64] = precision_roots(torch.from_numpy(covariance)).numpy()
    return root


def _fit_vae(
    detector: Detector, places: Tensor, seed: int, steps: int, on_step: Callable[[int, int], None]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in (*detector.vae.encoder, *detector.vae.decoder):
        if isinstance(layer, torch.nn.Linear):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                torch.nn.init.uniform_(tensor, -bound, bound, generator=generator)
    x = places.reshape(-1, FEATURES)
    positions = detector.vae.positions  # (h · w, POSITION)
    optimizer = torch.optim.Adam(detector.vae.parameters(), LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for step in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, detector.config.latent_size, generator=generator)
        batch = x[chosen].clamp_(-MAX_DEVIATION, MAX_DEVIATION)
        loss = detector.vae.negative_elbo(batch, positions[chosen % len(positions)], noise)
        optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call] # torch's
        optimizer.step()
        schedule.step()
        on_step(step + 1, steps)


class Distances(NamedTuple):
    """How far the places and cells of images are from what a detector was fitted to."""

    places: Tensor  # (N, h, w)
    cells: Tensor  # (N, GRID, GRID)


@torch.inference_mode()
def distances(detector: Detector, images: ImageFeatures) -> Distances:
    """Those of images whose features are known."""
    places = [
        detector.place_distance(detector.standardized(part.float()))
        for part in torch.split(torch.from_numpy(images.features), CHUNK)
    ]
    return Distances(torch.cat(places), detector.cell_distance(torch.from_numpy(images.bands)))


@torch.inference_mode()
def set_place_scales(detector: Detector, unseen: Distances) -> None:
    """The mean and spread of each place and cell, from images that were not trained on."""
    scales = detector.place_scale, detector.cell_scale
    for scale, values in zip(scales, unseen, strict=True):
        scale[0] = values.mean(dim=0)
        scale[1] = _spread(values, dim=(0, 1, 2))


@torch.inference_mode()
def findings(detector: Detector, images: ImageFeatures) -> Findings:
    """What a detector finds in images whose features are known."""
    known = torch.from_numpy(images.features), torch.from_numpy(images.bands)
    chunks = zip(*(torch.split(values, CHUNK) for values in known), strict=True)
    found = [detector.find(features.float(), bands) for features, bands in chunks]
    return Findings(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@torch.inference_mode()
def set_map_scale(detector: Detector, found: Findings) -> None:
    """Put the maps on the scale of those `found` in clean images."""
    features, texture, mixed = detector.map_scale
    features.copy_(_median_and_full(found.feature_map))
    texture.copy_(_median_and_full(found.texture_map))
    chunks = zip(*(torch.split(values, CHUNK) for values in found), strict=True)
    maps = [detector.mixed_map(Findings(*chunk)) for chunk in chunks]
    mixed.copy_(_median_and_full(torch.cat(maps)))


def _median_and_full(values: Tensor) -> Tensor:
    """The median, and how far above it the quantile is that becomes 1."""
    array = values.numpy()
    median = float(np.median(array))
    return torch.tensor([median, max(float(np.quantile(array, FULL_COLOUR)) - median, RIDGE)])


@torch.inference_mode()
def set_combined_scale(detector: Detector, parts: Tensor) -> None:
    """The scale of `combined`, from the parts, (N, 3), of images that were not trained on."""
    values = parts.double().numpy()
    scale = [(np.median(part), tail(part, TAIL) / NormalDist().inv_cdf(TAIL)) for part in values.T]
    for row, (median, deviation) in zip(detector.combined_scale, scale, strict=True):
        row.copy_(torch.tensor([median, max(deviation, RIDGE)]))


def _spread(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Standard deviation over the images, (N, …) to (…).

    With `PRIOR_IMAGES` more that vary as it is common over `dim`.
    """
    own = values.var(dim=0, correction=0)
    common = (values - values.mean(dim=0)).square().mean(dim=dim)
    n = len(values)
    return ((n * own + PRIOR_IMAGES * common) / (n + PRIOR_IMAGES)).sqrt() + RIDGE
