"""The VAE of features: one small VAE for all places of an image."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from model.vae import LOG_VARIANCE_RANGE, mlp

POSITION: Final = 6
"""Numbers that say which place it is: y and x in [−1, 1], and sine and cosine of π times each."""


class PlaceOutput(NamedTuple):
    """What the VAE makes of M places."""

    residual: Tensor  # (M, F), x − x̂
    kl: Tensor  # (M,), KL(q(z|x) ‖ N(0, I)) in nats


class PlaceVAE(nn.Module):
    """A VAE over the F standardized features of a place, given its position.

    In training, the likelihood is p(x|z) = N(x̂, diag τ²), with a learned variance τ² for each
    feature. `model.features.detector` then gives it the full covariance of the residuals.
    """

    positions: Tensor

    def __init__(self, features: int, grid: tuple[int, int], hidden: int, latent_size: int) -> None:
        super().__init__()
        self.encoder = mlp((features + POSITION, hidden, hidden, 2 * latent_size), nn.SiLU)
        self.decoder = mlp((latent_size + POSITION, hidden, hidden, features), nn.SiLU)
        self.log_variance = nn.Parameter(torch.zeros(features))
        self.register_buffer("positions", positions(grid), persistent=False)

    def forward(self, x: Tensor, position: Tensor, noise: Tensor | None = None) -> PlaceOutput:
        """Features (M, F) at positions (M, POSITION), encoded and decoded.

        At z = μ + σ·ε for the noise ε, (M, D), or at z = μ without one.
        """
        mean, log_variance = self.encoder(torch.cat([x, position], dim=1)).chunk(2, dim=1)
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)  # (M, D)
        z = mean if noise is None else mean + (0.5 * log_variance).exp() * noise  # (M, D)
        residual = x - self.decoder(torch.cat([z, position], dim=1))  # (M, F)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1)
        return PlaceOutput(residual, kl)

    def negative_elbo(self, x: Tensor, position: Tensor, noise: Tensor) -> Tensor:
        """−ELBO with the learned τ², of features (M, F): (M,), in nats. The loss of training."""
        residual, kl = self(x, position, noise)
        errors = (residual.square() * (-self.log_variance).exp()).sum(dim=1)
        constant = self.log_variance.sum() + x.shape[1] * math.log(2 * math.pi)
        loss: Tensor = 0.5 * (errors + constant) + kl
        return loss


def positions(grid: tuple[int, int]) -> Tensor:
    """Where the places of a grid of h × w are, (h · w, POSITION)."""
    y, x = torch.meshgrid(
        *((torch.arange(n, dtype=torch.float32) + 0.5) / n * 2 - 1 for n in grid), indexing="ij"
    )
    angles = [f(math.pi * axis) for axis in (y, x) for f in (torch.sin, torch.cos)]
    return torch.stack([y, x, *angles], dim=-1).reshape(-1, POSITION)
