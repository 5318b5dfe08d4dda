"""The forward passes that draw z = μ + σ·ε, on any device: rows of the host in, results out.

N rows, P = C·H·W pixels each, D latent dimensions, K draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from model.bundle.bundle import Bundle
from model.engine.rows import Rows, concatenate_scaled
from model.results import Draws, Floats, Reconstructions
from model.scores.deterministic import mean_squared_error
from model.scores.sampled import Errors, draw_likelihoods
from model.vae import VAE, Reconstruction

LATENTS_AT_ONCE: Final = 4096
"""Latents that are decoded at a time: K draws of each image would be K times the images."""


class SampledPasses:
    """Passes over rows that bring their own noise ε, so that they are repeatable.

    `heads_and_logits` is the deterministic pass: pixels, (N, P), to heads, (N, 2D), and logits,
    (N, P). `errors` decodes latents and compares. Both run on `device`.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: VAE,
        device: torch.device,
        heads_and_logits: Callable[[Tensor], tuple[Tensor, Tensor]],
        errors: Errors,
    ) -> None:
        self._config = bundle.config
        self._pixel_variance = bundle.pixel_variance
        self._network = network
        self._device = device
        self._heads_and_logits = heads_and_logits
        self._errors = errors

    @torch.inference_mode()
    def reconstruct(self, rows: Rows) -> Reconstructions:
        """Rows of P pixels and D numbers ε to images decoded from z = μ + σ·ε, and their MSE."""
        pixels, noise = self._pixels_and_noise(rows, draws=1)
        output = self._network(pixels, noise)
        mse = mean_squared_error(pixels, output)
        return Reconstructions(self._as_images(output.images), as_numpy(mse))

    @torch.inference_mode()
    def draw(self, rows: Rows, draws: int) -> Draws:
        """Rows of P pixels and K · D numbers ε to the likelihoods of K = `draws` draws.

        Raises `ValueError` for a bundle without a pixel variance.
        """
        if self._pixel_variance is None:
            raise ValueError("the bundle has no pixel variance, so its images have no likelihood")
        pixels, noise = self._pixels_and_noise(rows, draws)  # (N, P), (N, K·D)
        heads, logits = self._heads_and_logits(pixels)
        posterior = self._network.posterior(heads)
        output = Reconstruction(logits.sigmoid(), posterior)
        likelihoods = draw_likelihoods(
            self._errors,
            pixels,
            posterior,
            noise.reshape(len(noise), draws, self._config.latent_size),
            self._pixel_variance,
            LATENTS_AT_ONCE,
        )
        return Draws(
            as_numpy(likelihoods.given_z),
            as_numpy(likelihoods.weight),
            as_numpy(mean_squared_error(pixels, output)),
            as_numpy(posterior.kl()),
            self._as_images((pixels - output.images).square()),
        )

    def _pixels_and_noise(self, rows: Rows, draws: int) -> tuple[Tensor, Tensor]:
        widths = [self._config.pixels, draws * self._config.latent_size]
        batch = torch.from_numpy(concatenate_scaled(rows, sum(widths))).to(self._device)
        pixels, noise = torch.split(batch, widths, dim=1)
        return pixels, noise

    def _as_images(self, pixels: Tensor) -> Floats:
        return as_numpy(pixels).reshape(-1, *self._config.image_shape)  # (N, C, H, W)


def as_numpy(tensor: Tensor) -> Floats:
    """A C-contiguous array on the host; shares memory with a contiguous tensor that is there."""
    array: Floats = tensor.contiguous().cpu().numpy()
    return array
