"""What scores need to know of the training images, measured on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.scoring import RIDGE, TAIL, ScoreStatistics, relative_errors
from model.training.fit import CHUNK
from model.vae import VAE


@torch.inference_mode()
def score_statistics(network: VAE, images: Tensor) -> ScoreStatistics:
    """Measure uint8 `images`, (N, P)."""
    contrast = _mean_contrast(images)
    means: list[Tensor] = []
    parts: list[Tensor] = []
    for chunk in torch.split(images, CHUNK):
        pixels = chunk.float() / 255
        output = network(pixels)
        means.append(output.posterior.mean.cpu())
        parts.append(relative_errors(pixels, output, contrast).cpu())
    latents = torch.cat(means).double()  # (N, D)
    spread = torch.cov(latents.T, correction=0).reshape(latents.shape[1], latents.shape[1])
    median, tail = np.quantile(torch.cat(parts).double().numpy(), [0.5, TAIL], axis=0)
    # Images that are all alike have no tail; any positive scale then does.
    scale = np.maximum(tail - median, RIDGE)
    return ScoreStatistics(
        latent_mean=latents.mean(dim=0).float(),
        latent_precision=torch.linalg.inv(spread + RIDGE * torch.eye(len(spread))).float(),
        contrast=contrast.cpu(),
        fused_median=torch.from_numpy(median).float(),
        fused_tail=torch.from_numpy(scale).float(),
    )


def _mean_contrast(images: Tensor) -> Tensor:
    """Mean over the images of the variance of an image's pixels: (1,)."""
    total = torch.zeros(1, dtype=torch.float64)
    for chunk in torch.split(images, CHUNK):
        total += (chunk.float() / 255).var(dim=1, correction=0).double().sum().cpu()
    return (total / len(images)).float().to(images.device)
