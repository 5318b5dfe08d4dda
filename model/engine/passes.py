"""Each kind of forward pass, written in torch: runs wherever the weights are, for any network.

N images, P = C·H·W pixels each in [0, 1], D latent dimensions. All tensors are float32 and on the
network's device. Results are columns side by side in one tensor, so that a GPU sends back one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.bundle.bundle import Bundle
from model.scores.deterministic import mean_squared_error, offered_scores
from model.vae import VAE, Reconstruction


class Passes:
    """The forward passes of one bundle's network."""

    def __init__(self, bundle: Bundle, device: torch.device, dtype: str) -> None:
        self.network = bundle.network().to(device, getattr(torch, dtype))
        statistics = bundle.statistics and bundle.statistics.to(device)
        self._scores = offered_scores(statistics, bundle.pixel_variance)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to μ and σ, (N, D + D)."""
        posterior = self.network.encode(pixels)
        return torch.cat([posterior.mean, posterior.std], dim=1)  # (N, 2D)

    def decode(self, z: Tensor) -> Tensor:
        """Latents, (N, D), to pixels, (N, P)."""
        return self.network.decode(z)

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to those decoded from z = μ, and their MSE, (N, P + 1)."""
        output = self.network(pixels)
        mse = mean_squared_error(pixels, output)
        return torch.cat([output.images, mse[:, None]], dim=1)  # (N, P + 1)

    def score(self, name: str, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to score, MSE and KL, (N, 3)."""
        return self.score_columns(name, pixels, *heads_and_logits(self.network, pixels))

    def score_map(self, name: str, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to score, MSE, KL and each pixel's squared error, (N, 3 + P)."""
        heads, logits = heads_and_logits(self.network, pixels)
        error_map = (pixels - logits.sigmoid()).square()
        columns = self.score_columns(name, pixels, heads, logits)
        return torch.cat([columns, error_map], dim=1)  # (N, 3 + P)

    def score_columns(self, name: str, pixels: Tensor, heads: Tensor, logits: Tensor) -> Tensor:
        """Score, MSE and KL, (N, 3), from what `heads_and_logits` made of pixels, (N, P).

        Raises `KeyError` for an unknown score.
        """
        output = Reconstruction(logits.sigmoid(), self.network.posterior(heads))
        mse = mean_squared_error(pixels, output)
        score = self._scores[name](pixels, output)
        return torch.stack([score, mse, output.posterior.kl()], dim=1)  # (N, 3)


def heads_and_logits(network: VAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pixels, (N, P), and decode z = μ: heads, (N, 2D), and logits, (N, P)."""
    heads = network.heads(pixels)
    return heads, network.logits(network.posterior(heads).mean)
