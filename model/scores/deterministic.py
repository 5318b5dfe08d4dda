"""Scores of one image, from the image, its posterior and its reconstruction. Larger is stranger.

They are deterministic: z = μ, one pass through encoder and decoder. `model.scores.sampled` has
those that average over draws z ~ q(z|x).

A Bernoulli log-likelihood is never one of them: on grey pixels it grows with the share of dark
ones, and so prefers simple images to normal ones.

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
"""Share of an image's pixels that `mse_top5` looks at."""

PEARSON_FLOOR: Final = 0.03
"""Added to x̂(1 − x̂), which is 0 where the decoder is sure: the square of 0.17 of the range."""

CONTRAST_FLOOR: Final = 1e-6
"""Least variance that errors are divided by: images of one grey have none."""

TAILS: Final = (0.99, 0.99, 0.995)
"""The quantile of clean images, for each part of `fused`, that is 1 on the parts' common scale: the
latent part speaks half as often as an error, as where the latents are few it knows less.
"""

MAX_DENSITY_LATENTS: Final = 512
"""Latent sizes up to here get statistics: covariances of more would outweigh the network."""

RIDGE: Final = 1e-4
"""Added to the variances of the latent means: a dimension that training gave up has none."""

LOG_2PI: Final = math.log(2 * math.pi)
TINY: Final = 1e-30
"""Added inside logarithms: an image that is reconstructed without any error has a score too."""


@dataclass(frozen=True, kw_only=True)
class ScoreStatistics:
    """What scores need to know of the training images. Part of the weights' file.

    A small training set, even a single image, gives finite statistics.
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
        """Name and shape of every tensor."""
        d, m = latent_size, components
        shapes = ((d,), (d, d), (1,), (m,), (m, d), (m, d, d), (3,), (3,))
        return {field.name: shape for field, shape in zip(fields(cls), shapes, strict=True)}

    @property
    def mixture(self) -> GaussianMixture:
        """The density over the posteriors' means."""
        return GaussianMixture(self.mixture_log_weights, self.mixture_means, self.mixture_roots)

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


Score = Callable[[Tensor, Reconstruction], Tensor]
"""Pixels in [0, 1], (N, P), and what the network makes of them at z = μ, to (N,)."""


def mean_squared_error(pixels: Tensor, output: Reconstruction) -> Tensor:
    """Mean over the pixels of (x − x̂)²: (N,)."""
    return (pixels - output.images).square().mean(dim=1)


def worst_pixels(pixels: Tensor, output: Reconstruction) -> Tensor:
    """Mean of the `WORST_SHARE` largest (x − x̂)², so that a small defect counts: (N,)."""
    return _largest_mean((pixels - output.images).square())


def kl(_: Tensor, output: Reconstruction) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) in nats: (N,)."""
    return output.posterior.kl()


def negative_elbo(pixel_variance: float) -> Score:
    """−log p(x|z) + KL in nats, for p(x|z) = N(x̂, σ² I) at z = μ, with the σ² that was learned."""

    def score(pixels: Tensor, output: Reconstruction) -> Tensor:
        errors = mean_squared_error(pixels, output)
        return output.posterior.kl() - log_likelihood(errors, pixels.shape[1], pixel_variance)

    return score


def latent_mahalanobis(statistics: ScoreStatistics) -> Score:
    """Mahalanobis distance of μ from the training images' μ: (N,)."""

    def score(_: Tensor, output: Reconstruction) -> Tensor:
        offset = output.posterior.mean - statistics.latent_mean  # (N, D)
        return ((offset @ statistics.latent_precision) * offset).sum(dim=1).clamp_min(0).sqrt()

    return score


def latent_density(statistics: ScoreStatistics) -> Score:
    """−log density of μ, in nats, by the mixture of Gaussians over the training images' μ: (N,)."""
    mixture = statistics.mixture

    def score(_: Tensor, output: Reconstruction) -> Tensor:
        return -mixture.log_density(output.posterior.mean)

    return score


def fused(statistics: ScoreStatistics) -> Score:
    """The largest of `relative_errors` and `latent_density`, on a scale where clean images agree.

    A part is shifted and stretched so that the median of the training images is 0 and the quantile
    that `TAILS` has for it is 1. The largest of three such values stands for the smallest of three
    weighted p-values, and goes on where an empirical p-value ends. Calibration makes the result a
    p-value again. (N,)
    """
    density = latent_density(statistics)

    def score(pixels: Tensor, output: Reconstruction) -> Tensor:
        errors = relative_errors(pixels, output, statistics.contrast)
        parts = torch.cat([errors, density(pixels, output)[:, None]], dim=1)  # (N, 3)
        return ((parts - statistics.fused_median) / statistics.fused_tail).amax(dim=1)

    return score


def relative_errors(pixels: Tensor, output: Reconstruction, contrast: Tensor) -> Tensor:
    """Logarithms of two errors, over the image as a whole and at its worst, (N, 2).

    The first is the mean of (x − x̂)² / (x̂(1 − x̂) + `PEARSON_FLOOR`), as Pearson's residuals are
    for a share: where the decoder says black or white, an error is worse than where it says grey.
    The second is that of `worst_pixels`. Both are divided by the variance of the image's pixels
    plus the training images' mean of that variance: an image of much contrast has larger errors
    without being stranger.
    """
    error = (pixels - output.images).square()
    doubt = output.images * (1 - output.images) + PEARSON_FLOOR
    variance = pixels.square().mean(dim=1) - pixels.mean(dim=1).square()
    parts = torch.stack([(error / doubt).mean(dim=1), _largest_mean(error)], dim=1)
    contrasts = (variance + contrast).clamp_min(CONTRAST_FLOOR)
    return (parts / contrasts[:, None] + TINY).log()


def offered_scores(
    statistics: ScoreStatistics | None, pixel_variance: float | None
) -> dict[str, Score]:
    """The deterministic scores of a network by name; the first is the default.

    Without statistics, as for an imported checkpoint, those that need them are left out.
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
    """log N(x; x̂, σ² I) in nats of images of P pixels, from their mean squared errors."""
    return -0.5 * pixels * (errors / pixel_variance + math.log(2 * math.pi * pixel_variance))


def worst_count(pixels: int) -> int:
    """How many of an image's pixels `WORST_SHARE` is, at least one."""
    return max(1, round(WORST_SHARE * pixels))


def _largest_mean(values: Tensor) -> Tensor:
    """Mean of a row's largest `worst_count` values: (N,)."""
    count = worst_count(values.shape[1])
    if values.device.type == "cpu":  # numpy's partition takes a fifth of the time of topk
        array = values.numpy()
        return torch.from_numpy(np.partition(array, -count, axis=1)[:, -count:].mean(axis=1))
    return values.topk(count, dim=1, sorted=False).values.mean(dim=1)
