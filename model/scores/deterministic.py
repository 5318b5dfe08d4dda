"""Deterministic anomaly scores of an image: one pass at z = μ. Larger means more anomalous.

`model.scores.sampled` has the scores that average over draws z ~ q(z|x).

There is no Bernoulli log-likelihood among them: on grey pixels it grows with the share of dark
ones, and so it prefers simple images to normal ones.

N images, P = C·H·W pixels each, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor

from model.scores.mixture import GaussianMixture
from model.vae import Reconstruction

WORST_SHARE: Final = 0.05
"""Share of an image's pixels that `mse_top5` averages over."""

PEARSON_FLOOR: Final = 0.03
"""Added to x̂(1 − x̂), which is 0 where the decoder is certain. A standard deviation of 0.17."""

CONTRAST_FLOOR: Final = 1e-6
"""Smallest variance that errors are divided by: images of a single grey have none."""

TAILS: Final = (0.99, 0.99, 0.995)
"""For each part of `fused`, the quantile of clean images that becomes 1 on the common scale. The
latent part exceeds 1 half as often as an error, because a small latent space says less.
"""

MAX_DENSITY_LATENTS: Final = 512
"""Largest latent size with statistics: covariances of more would be larger than the network."""

RIDGE: Final = 1e-4
"""Added to the variances of the latent means: a collapsed dimension has none."""

LOG_2PI: Final = math.log(2 * math.pi)
TINY: Final = 1e-30
"""Added inside logarithms, so that an image that is reconstructed without error has a score."""


@dataclass(frozen=True, kw_only=True)
class ScoreStatistics:
    """Statistics of normal images that scores compare with. Stored beside the weights.

    They are finite for any training set, even a single image. M mixture components.
    """

    latent_mean: Tensor  # (D,), of the posteriors' means
    latent_precision: Tensor  # (D, D), inverse covariance of the posteriors' means
    contrast: Tensor  # (1,), mean over the images of the variance of an image's pixels
    mixture_log_weights: Tensor  # (M,), of the mixture of Gaussians over the posteriors' means
    mixture_means: Tensor  # (M, D)
    mixture_roots: Tensor  # (M, D, D)
    fused_median: Tensor  # (3,), of each part of `fused`
    fused_tail: Tensor  # (3,), its quantile in TAILS, less the median

    @classmethod
    def shapes(cls, latent_size: int, components: int) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name, for M = `components`."""
        d, m = latent_size, components
        shapes = ((d,), (d, d), (1,), (m,), (m, d), (m, d, d), (3,), (3,))
        return {field.name: shape for field, shape in zip(fields(cls), shapes, strict=True)}

    @property
    def mixture(self) -> GaussianMixture:
        """The density over the posteriors' means."""
        return GaussianMixture(self.mixture_log_weights, self.mixture_means, self.mixture_roots)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


Score = Callable[[Tensor, Reconstruction], Tensor]
"""From pixels in [0, 1], (N, P), and the network's output for them at z = μ, to scores, (N,)."""


def mean_squared_error(pixels: Tensor, output: Reconstruction) -> Tensor:
    """Mean over the pixels of (x − x̂)², (N,)."""
    return (pixels - output.images).square().mean(dim=1)


def worst_pixels(pixels: Tensor, output: Reconstruction) -> Tensor:
    """Mean of the `WORST_SHARE` largest (x − x̂)², (N,). Sensitive to small defects."""
    return _largest_mean((pixels - output.images).square())


def kl(_: Tensor, output: Reconstruction) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) in nats, (N,)."""
    return output.posterior.kl()


def negative_elbo(pixel_variance: float) -> Score:
    """−log p(x|z) + KL in nats, (N,), at z = μ, for p(x|z) = N(x̂, σ² I) with the learned σ²."""

    def score(pixels: Tensor, output: Reconstruction) -> Tensor:
        errors = mean_squared_error(pixels, output)
        return output.posterior.kl() - log_likelihood(errors, pixels.shape[1], pixel_variance)

    return score


def latent_mahalanobis(statistics: ScoreStatistics) -> Score:
    """Mahalanobis distance of μ from the mean μ of images that were not trained on, (N,)."""

    def score(_: Tensor, output: Reconstruction) -> Tensor:
        offset = output.posterior.mean - statistics.latent_mean  # (N, D)
        return ((offset @ statistics.latent_precision) * offset).sum(dim=1).clamp_min(0).sqrt()

    return score


def latent_density(statistics: ScoreStatistics) -> Score:
    """−log density of μ in nats, (N,), by the mixture of Gaussians over the training images' μ."""
    mixture = statistics.mixture

    def score(_: Tensor, output: Reconstruction) -> Tensor:
        return -mixture.log_density(output.posterior.mean)

    return score


def fused(statistics: ScoreStatistics) -> Score:
    """The largest of both `relative_errors` and `latent_density`, on a common scale, (N,).

    Each part is shifted and scaled so that, over images that were not trained on, its median is 0
    and its quantile in `TAILS` is 1. The largest of the three then acts as the smallest of three
    weighted p-values, but does not stop at the smallest empirical p-value. Calibration turns the
    result into a p-value again.
    """
    density = latent_density(statistics)

    def score(pixels: Tensor, output: Reconstruction) -> Tensor:
        errors = relative_errors(pixels, output, statistics.contrast)
        parts = torch.cat([errors, density(pixels, output)[:, None]], dim=1)  # (N, 3)
        return ((parts - statistics.fused_median) / statistics.fused_tail).amax(dim=1)

    return score


def relative_errors(pixels: Tensor, output: Reconstruction, contrast: Tensor) -> Tensor:
    """Logarithms of two relative errors, of the whole image and of its worst pixels, (N, 2).

    The first is the mean of (x − x̂)² / (x̂(1 − x̂) + `PEARSON_FLOOR`), the squared Pearson residual
    of a proportion: an error counts for more where the decoder says black or white than where it
    says grey. The second is that of `worst_pixels`. Both are divided by the variance of the image's
    pixels plus the training images' mean of that variance, `contrast`, (1,): a high-contrast image
    has larger errors without being more anomalous.
    """
    error = (pixels - output.images).square()
    spread = output.images * (1 - output.images) + PEARSON_FLOOR
    variance = pixels.square().mean(dim=1) - pixels.mean(dim=1).square()
    parts = torch.stack([(error / spread).mean(dim=1), _largest_mean(error)], dim=1)
    contrasts = (variance + contrast).clamp_min(CONTRAST_FLOOR)
    return (parts / contrasts[:, None] + TINY).log()


def offered_scores(
    statistics: ScoreStatistics | None, pixel_variance: float | None
) -> dict[str, Score]:
    """The deterministic scores of a network by name; the first is the default.

    Without statistics, as for an imported checkpoint, the scores that need them are left out.
    """
    offered: dict[str, Score] = {}
    if statistics is not None:
        offered["fused"] = fused(statistics)
    offered |= {"mse_top5": worst_pixels, "mse": mean_squared_error, "kl": kl}
    if pixel_variance is not None:
        offered["neg_elbo"] = negative_elbo(pixel_variance)
    if statistics is not None:
        offered["latent_density"] = latent_density(statistics)
        offered["latent_mahalanobis"] = latent_mahalanobis(statistics)
    return offered


def log_likelihood(errors: Tensor, pixels: int, pixel_variance: float) -> Tensor:
    """log N(x; x̂, σ² I) in nats, of images of P = `pixels`, from their mean squared errors."""
    return -0.5 * pixels * (errors / pixel_variance + math.log(2 * math.pi * pixel_variance))


def worst_count(pixels: int) -> int:
    """The number of pixels that `WORST_SHARE` of P = `pixels` is, at least one."""
    return max(1, round(WORST_SHARE * pixels))


def _largest_mean(values: Tensor) -> Tensor:
    """Mean of each row's `worst_count` largest values, (N, P) to (N,)."""
    count = worst_count(values.shape[1])
    if values.device.type == "cpu":  # numpy's partition is five times as fast as topk
        array = values.numpy()
        return torch.from_numpy(np.partition(array, -count, axis=1)[:, -count:].mean(axis=1))
    return values.topk(count, dim=1, sorted=False).values.mean(dim=1)
