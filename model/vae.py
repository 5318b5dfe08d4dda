"""The network, top to bottom, with shapes at line ends.

N images, P = C·H·W pixels each, D latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.config import PATCH, VAEConfig

LOG_VARIANCE_RANGE = (-12.0, 8.0)
"""Clamp on log σ², so that σ lies in [0.0025, 54.6]: far beyond what training reaches, yet exp()
and the KL stay finite for any input."""

RELU_HEAD_EPSILON = 1e-8
"""Added to σ² inside the logarithm of the `relu` head, where σ can be 0. Part of its definition."""


@dataclass(frozen=True)
class DiagonalGaussian:
    """The posterior q(z|x) = N(μ, diag σ²), one in each row."""

    mean: Tensor  # (N, D)
    std: Tensor  # (N, D)
    log_variance: Tensor  # (N, D)

    def sample(self, noise: Tensor) -> Tensor:
        """z = μ + σ·ε for ε ~ N(0, I), (N, D). Source: Kingma and Welling 2014, section 2.4."""
        return self.mean + self.std * noise  # (N, D)

    def kl(self) -> Tensor:
        """KL(q ‖ N(0, I)) = ½ Σ(μ² + σ² − log σ² − 1) of each row, in nats.

        Source: Kingma and Welling 2014, appendix B.
        """
        return 0.5 * (self.mean**2 + self.std**2 - self.log_variance - 1).sum(dim=1)  # (N,)


@dataclass(frozen=True)
class Reconstruction:
    """The result of one forward pass."""

    images: Tensor  # (N, P), in [0, 1]
    posterior: DiagonalGaussian


class VAE(nn.Module):
    """A Variational Autoencoder, of fully connected layers (`mlp`) or with convolutions (`conv`).

    Two heads turn the last encoder layer h into the posterior:

    - ``"log_variance"``: h is μ and log σ², the latter clamped to `LOG_VARIANCE_RANGE`.
    - ``"relu"``: max(h, 0) is μ and σ themselves, so μ ≥ 0 and σ ≥ 0, and log σ² is
      log(σ² + 1e-8). The tutorial's code does this, and so its checkpoints load here and give the
      same numbers. Do not train it: the posterior collapses, and after 20 epochs the test MSE on
      MNIST at z = μ is 0.069, where the mean image alone gives 0.067. The head is to blame rather
      than the loss, which gives 0.020 with the other head.

    State-dict keys are ``encoder.0.weight`` …, as in the tutorial: indices in an `nn.Sequential`
    that includes the activations.

    `conv` turns squares of 4×4 pixels into the channels of one grid cell, the inverse of what Shi
    et al. 2016 ("Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network") do at the output. So its convolutions work on few cells with many
    channels, which is fast on a CPU. After 10 epochs the test MSE on MNIST is 0.0041 with SiLU
    between the layers, and 0.0052 with ReLU. Sides that are not a multiple of a cell are padded
    with 0, and cropped again in the output.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        if config.architecture == "conv":
            self.encoder, self.decoder = _conv_encoder(config), _conv_decoder(config)
        else:
            self.encoder = mlp(config.encoder_sizes)
            self.decoder = mlp(config.decoder_sizes)

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products. Inputs and outputs keep their own."""
        return next(self.parameters()).dtype

    def encode(self, pixels: Tensor) -> DiagonalGaussian:
        """Pixels in [0, 1], (N, P), to the posterior of each image."""
        return self.posterior(self.heads(pixels))

    def heads(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], (N, P), to the encoder's output, (N, 2D), for `posterior`."""
        heads: Tensor = self.encoder(pixels.to(self.dtype))  # (N, 2D)
        return heads.to(pixels.dtype)

    def posterior(self, heads: Tensor) -> DiagonalGaussian:
        """The encoder's output, (N, 2D), as a distribution."""
        first, second = heads.chunk(2, dim=1)  # (N, D), (N, D)
        if self.config.head == "relu":
            mean, std = first.relu(), second.relu()  # (N, D), (N, D)
            return DiagonalGaussian(mean, std, (std**2 + RELU_HEAD_EPSILON).log())
        log_variance = second.clamp(*LOG_VARIANCE_RANGE)  # (N, D)
        return DiagonalGaussian(first, (0.5 * log_variance).exp(), log_variance)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, D) to pixels in [0, 1], (N, P)."""
        return self.logits(z).sigmoid()  # (N, P)

    def logits(self, z: Tensor) -> Tensor:
        """Latents (N, D) to the decoder's output, (N, P), before its sigmoid."""
        logits: Tensor = self.decoder(z.to(self.dtype))  # (N, P)
        return logits.to(z.dtype)

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode pixels (N, P), then decode z = μ, or z = μ + σ·ε if `noise` ε (N, D) is given."""
        posterior = self.encode(pixels)
        z = posterior.mean if noise is None else posterior.sample(noise)  # (N, D)
        return Reconstruction(self.decode(z), posterior)


def mlp(sizes: tuple[int, ...], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers, (N, sizes[0]) to (N, sizes[-1]), with activations between them."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), activation()]
    return nn.Sequential(*layers[:-1])


def _conv_encoder(config: VAEConfig) -> nn.Sequential:
    """(N, P) to (N, 2D): patches, convolutions that halve the grid, dense layers."""
    channels, height, width = config.reduced_shape
    rows, columns = config.grid  # r, c
    padding = (0, columns * config.reduction - width, 0, rows * config.reduction - height)
    *maps, dense = config.hidden_sizes
    layers: list[nn.Module] = [
        nn.Unflatten(1, config.image_shape),  # (N, C, H, W)
        *([nn.AvgPool2d(config.downscale)] if config.downscale > 1 else []),  # the reduced shape
        nn.ZeroPad2d(padding),  # (N, C, H', W'), multiples of a cell
        nn.PixelUnshuffle(PATCH),  # (N, 16C, H'/4, W'/4)
        nn.Conv2d(PATCH**2 * channels, maps[0], 3, padding=1),  # (N, maps[0], H'/4, W'/4)
        nn.SiLU(),
    ]
    for maps_in, maps_out in pairwise(maps):
        # Half the sides: in the end (N, maps[-1], r, c).
        layers += [nn.Conv2d(maps_in, maps_out, 3, stride=2, padding=1), nn.SiLU()]
    layers.append(nn.Flatten())  # (N, maps · r · c)
    sizes = (maps[-1] * rows * columns, dense, 2 * config.latent_size)
    return nn.Sequential(*layers, *mlp(sizes, nn.SiLU))  # (N, 2D)


def _conv_decoder(config: VAEConfig) -> nn.Sequential:
    """(N, D) to (N, P): the encoder in reverse."""
    channels, height, width = config.reduced_shape
    rows, columns = config.grid  # r, c
    cropping = (0, width - columns * config.reduction, 0, height - rows * config.reduction)
    *maps, dense = config.hidden_sizes
    layers: list[nn.Module] = [
        *mlp((config.latent_size, dense, maps[-1] * rows * columns), nn.SiLU),
        nn.SiLU(),  # (N, maps[-1] · r · c)
        nn.Unflatten(1, (maps[-1], rows, columns)),  # (N, maps[-1], r, c)
    ]
    for maps_in, maps_out in pairwise(reversed(maps)):
        # 4 times the channels, rearranged to twice the sides: in the end (N, maps[0], H'/4, W'/4).
        layers += [nn.Conv2d(maps_in, 4 * maps_out, 3, padding=1), nn.PixelShuffle(2), nn.SiLU()]
    layers += [
        nn.Conv2d(maps[0], PATCH**2 * channels, 3, padding=1),  # (N, 16C, H'/4, W'/4)
        nn.PixelShuffle(PATCH),  # (N, C, H', W')
        nn.ZeroPad2d(cropping),  # (N, C, H, W), of the reduced shape
    ]
    if config.downscale > 1:
        layers.append(nn.Upsample(scale_factor=config.downscale, mode="bilinear"))  # (N, C, H, W)
    layers.append(nn.Flatten())  # (N, P)
    return nn.Sequential(*layers)


def weight_shapes(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a network, by name. Allocates none of them."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in VAE(config).state_dict().items()}
