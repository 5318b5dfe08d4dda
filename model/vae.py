"""The network. Reads top to bottom; shapes stand at line ends.

N images, P = C·H·W pixels each, D latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.config import VAEConfig

LOG_VARIANCE_RANGE = (-12.0, 8.0)
"""Clamp on log σ², so σ lies in [0.0025, 54.6]: far outside what training reaches, near enough that
exp() and the KL stay finite whatever the input."""

RELU_HEAD_EPSILON = 1e-8
"""Inside the logarithm of the `relu` head, where σ can be 0. Part of that head's definition."""


@dataclass(frozen=True)
class DiagonalGaussian:
    """q(z|x) = N(μ, diag σ²), one a row."""

    mean: Tensor  # (N, D)
    std: Tensor  # (N, D)
    log_variance: Tensor  # (N, D)

    def sample(self, noise: Tensor) -> Tensor:
        """z = μ + σ·ε for given ε ~ N(0, I): the reparameterisation of Kingma and Welling 2014."""
        return self.mean + self.std * noise  # (N, D)

    def kl(self) -> Tensor:
        """KL(q ‖ N(0, I)) = ½ Σ(μ² + σ² − log σ² − 1), in nats, an image each.

        Source: Kingma and Welling 2014, appendix B.
        """
        return 0.5 * (self.mean**2 + self.std**2 - self.log_variance - 1).sum(dim=1)  # (N,)


@dataclass(frozen=True)
class Reconstruction:
    """What one forward pass gives."""

    images: Tensor  # (N, P), in [0, 1]
    posterior: DiagonalGaussian


class VAE(nn.Module):
    """A fully connected Variational Autoencoder.

    Two heads turn the last encoder layer h into the posterior:

    - ``"log_variance"``: h is μ and log σ², the latter clamped to `LOG_VARIANCE_RANGE`.
    - ``"relu"``: max(h, 0) is μ and σ themselves, so μ ≥ 0 and σ ≥ 0, and log σ² is
      log(σ² + 1e-8). This is what the tutorial's code does; it is here so that checkpoints made by
      that code load and give the same numbers. Trained as written it collapses: MNIST test MSE
      at z = μ is 0.069 after 20 epochs, where the mean image alone gives 0.067. The head is to
      blame, not the loss, which gives 0.020 with the other head. Train the other head.

    State-dict keys are ``encoder.0.weight`` …, as in the tutorial: `nn.Sequential` with the
    activations counted.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _mlp(config.encoder_sizes)
        self.decoder = _mlp(config.decoder_sizes).append(nn.Sigmoid())

    def encode(self, pixels: Tensor) -> DiagonalGaussian:
        """Pixels in [0, 1], (N, P), to the posterior."""
        first, second = self.encoder(pixels).chunk(2, dim=1)  # (N, D), (N, D)
        if self.config.head == "relu":
            mean, std = first.relu(), second.relu()
            return DiagonalGaussian(mean, std, (std**2 + RELU_HEAD_EPSILON).log())
        log_variance = second.clamp(*LOG_VARIANCE_RANGE)
        return DiagonalGaussian(first, (0.5 * log_variance).exp(), log_variance)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, D) to pixels in [0, 1], (N, P)."""
        pixels: Tensor = self.decoder(z)  # (N, P)
        return pixels

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode, then decode z = μ, or z = μ + σ·ε where `noise` ε (N, D) is given."""
        posterior = self.encode(pixels)
        z = posterior.mean if noise is None else posterior.sample(noise)
        return Reconstruction(self.decode(z), posterior)


def _mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them and nothing after the last."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def weight_shapes(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `config` needs, found without allocating any."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in VAE(config).state_dict().items()}
