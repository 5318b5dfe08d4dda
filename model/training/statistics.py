"""Statistics of the training images that scores need."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.scores.deterministic import (
    MAX_DENSITY_LATENTS,
    RIDGE,
    TAILS,
    ScoreStatistics,
    relative_errors,
)
from model.training.goodness_of_fit import chunks
from model.training.mixture import fit_mixture
from model.vae import VAE


@torch.inference_mode()
def score_statistics(network: VAE, images: Tensor) -> ScoreStatistics | None:
    """Measure uint8 `images`, (N, P). Return None for more than `MAX_DENSITY_LATENTS` latents."""
    if network.config.latent_size > MAX_DENSITY_LATENTS:
        return None
    contrast = _mean_contrast(images)
    means: list[Tensor] = []
    errors: list[Tensor] = []
    for chunk in chunks(images):
        pixels = chunk.float() / 255
        output = network(pixels)
        means.append(output.posterior.mean.cpu())
        errors.append(relative_errors(pixels, output, contrast).cpu())
    latents = torch.cat(means)  # (N, D)
    mixture = fit_mixture(latents)
    density = torch.cat([mixture.log_density(part) for part in torch.split(latents, 2_000)])
    parts = torch.cat([torch.cat(errors), -density[:, None]], dim=1).double().numpy()  # (N, 3)
    median = np.median(parts, axis=0)
    tail = np.array([np.quantile(part, q) for part, q in zip(parts.T, TAILS, strict=True)])
    # Identical images have no tail; any positive scale will do.
    scale = np.maximum(tail - median, RIDGE)
    size = network.config.latent_size
    spread = torch.cov(latents.double().T, correction=0).reshape(size, size)
    return ScoreStatistics(
        latent_mean=latents.double().mean(dim=0).float(),
        latent_precision=torch.linalg.inv(spread + RIDGE * torch.eye(size)).float(),
        contrast=contrast.cpu(),
        mixture_log_weights=mixture.log_weights,
        mixture_means=mixture.means,
        mixture_roots=mixture.roots,
        fused_median=torch.from_numpy(median).float(),
        fused_tail=torch.from_numpy(scale).float(),
    )


def _mean_contrast(images: Tensor) -> Tensor:
    """Mean over uint8 `images`, (N, P), of the variance of an image's pixels in [0, 1]: (1,)."""
    total = torch.zeros(1, dtype=torch.float64)
    for chunk in chunks(images):
        total += (chunk.float() / 255).var(dim=1, correction=0).double().sum().cpu()
    return (total / len(images)).float().to(images.device)
