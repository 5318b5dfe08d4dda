"""Statistics of images that scores need."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.scores.deterministic import (
    MAX_DENSITY_LATENTS,
    RIDGE,
    TAILS,
    ScoreStatistics,
    relative_errors,
)
from model.scores.mixture import GaussianMixture
from model.training.goodness_of_fit import chunks
from model.training.mixture import fit_mixture, shrunk_covariance
from model.vae import VAE

Values = NDArray[np.float64]


@torch.inference_mode()
def score_statistics(network: VAE, trained: Tensor, unseen: Tensor) -> ScoreStatistics | None:
    """Measure uint8 images, (N, P) and (M, P). Return None for more than `MAX_DENSITY_LATENTS`.

    The density over latents is fitted to the images that were `trained` on. Medians, tails and the
    spread of the latents are those of `unseen` images: a network has smaller errors on what it was
    trained on, by far if that was little.
    """
    if network.config.latent_size > MAX_DENSITY_LATENTS:
        return None
    contrast = mean_contrast(trained)
    mixture = fit_mixture(_latents(network, trained))
    latents = _latents(network, unseen).double().numpy()  # (M, D)
    spread = shrunk_covariance(latents) + RIDGE * np.eye(latents.shape[1])
    median, scale = fused_scale(fused_parts(network, unseen, contrast, mixture))
    return ScoreStatistics(
        latent_mean=torch.from_numpy(latents.mean(axis=0)).float(),
        latent_precision=torch.from_numpy(np.linalg.inv(spread)).float(),
        contrast=contrast,
        mixture_log_weights=mixture.log_weights,
        mixture_means=mixture.means,
        mixture_roots=mixture.roots,
        fused_median=median,
        fused_tail=scale,
    )


@torch.inference_mode()
def fused_parts(network: VAE, images: Tensor, contrast: Tensor, mixture: GaussianMixture) -> Values:
    """The three parts of `fused` before they are scaled, of uint8 `images`, (N, P): (N, 3)."""
    parts = []
    for chunk in chunks(images):
        pixels = chunk.float() / 255
        output = network(pixels)
        density = mixture.log_density(output.posterior.mean)
        errors = relative_errors(pixels, output, contrast)
        parts.append(torch.cat([errors, -density[:, None]], dim=1))
    array: Values = torch.cat(parts).double().numpy()
    return array


def fused_scale(parts: Values) -> tuple[Tensor, Tensor]:
    """The median of each part of `fused`, and its tail above that, of (N, 3): (3,) and (3,)."""
    median = np.median(parts, axis=0)
    tails = np.array([tail(part, q) for part, q in zip(parts.T, TAILS, strict=True)])
    # Identical images have no tail; any positive scale will do.
    return torch.from_numpy(median).float(), torch.from_numpy(np.maximum(tails, RIDGE)).float()


def _latents(network: VAE, images: Tensor) -> Tensor:
    """Posterior means of uint8 `images`, (N, P), in parts: (N, D)."""
    return torch.cat([network.encode(chunk.float() / 255).mean for chunk in chunks(images)])


def tail(values: Values, quantile: float) -> float:
    """How far the quantile of `values`, (M,), lies above their median.

    Too few values to have such a quantile are taken as normally distributed.
    """
    if len(values) * (1 - quantile) < 1:
        return NormalDist().inv_cdf(quantile) * float(values.std())
    return float(np.quantile(values, quantile) - np.median(values))


def mean_contrast(images: Tensor) -> Tensor:
    """Mean over uint8 `images`, (N, P), of the variance of an image's pixels in [0, 1]: (1,)."""
    total = torch.zeros(1, dtype=torch.float64)
    for chunk in chunks(images):
        total += (chunk.float() / 255).var(dim=1, correction=0).double().sum()
    return (total / len(images)).float()
