"""How well a network fits images: reconstruction errors, KL and ELBO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from model.vae import VAE

ACTIVE_VARIANCE: Final = 0.01
"""A latent dimension is active if the variance of its mean over images is above this (Burda,
Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", section 5.2)."""

CHUNK_PIXELS: int = 2_000 * 784
"""Maximum number of pixels in one pass: enough to be fast, few enough to need little memory."""


def chunks(images: Tensor) -> tuple[Tensor, ...]:
    """Split `images`, (N, P), into parts of at most `CHUNK_PIXELS` pixels, or of one image."""
    return torch.split(images, max(1, CHUNK_PIXELS // images.shape[1]))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Means over the images."""

    mse: float
    """Mean squared error per pixel at z = μ, as in the service's reconstructions."""
    mse_sampled: float
    """The same at one draw z ~ q(z|x) per image."""
    kl: float
    """KL(q(z|x) ‖ N(0, I)), nats."""

    def negative_elbo(self, pixels: int, pixel_variance: float) -> float:
        """−ELBO in nats per image, for p(x|z) = N(x̂, σ² I) with σ² = `pixel_variance`."""
        per_pixel = math.log(2 * math.pi * pixel_variance) + self.mse_sampled / pixel_variance
        return 0.5 * pixels * per_pixel + self.kl


@torch.inference_mode()
def evaluate_fit(network: VAE, images: Tensor, *, seed: int = 0) -> Fit:
    """Measure the fit to uint8 `images`, (N, P). The draws of z depend on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    totals = torch.zeros(3, dtype=torch.float64)
    for chunk in chunks(images):
        pixels = chunk.float() / 255
        posterior = network.encode(pixels)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(pixels.device)
        errors = [
            (network.decode(z) - pixels).square().mean(dim=1).sum()
            for z in (posterior.mean, posterior.sample(noise))
        ]
        totals += torch.stack([*errors, posterior.kl().sum()]).double().cpu()
    mse, mse_sampled, kl = (totals / len(images)).tolist()
    return Fit(mse=mse, mse_sampled=mse_sampled, kl=kl)
