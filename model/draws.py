"""Scores that average over K draws z ~ q(z|x) of an image: slower, and repeatable by their noise.

N images, P = C·H·W pixels each, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.scoring import LOG_2PI, ScoreStatistics, log_likelihood, offered_scores
from model.vae import VAE, DiagonalGaussian

Floats = NDArray[np.float32]


class Likelihoods(NamedTuple):
    """How likely an image is given each of its draws, in nats."""

    given_z: Tensor  # (N, K), log p(x|z)
    weight: Tensor  # (N, K), log p(x|z) + log p(z) − log q(z|x)


def draw_likelihoods(
    network: VAE, pixels: Tensor, posterior: DiagonalGaussian, noise: Tensor, variance: float
) -> Likelihoods:
    """Decode z = μ + σ·ε for each ε of `noise`, (N, K, D), one draw of all images at a time."""
    found = []
    for of_each in noise.unbind(dim=1):  # (N, D)
        z = posterior.sample(of_each)
        found.append(draw_log_likelihoods(pixels, posterior, z, network.decode(z), variance))
    given_z, weight = (torch.stack(values, dim=1) for values in zip(*found, strict=True))
    return Likelihoods(given_z, weight)


def draw_log_likelihoods(
    pixels: Tensor, posterior: DiagonalGaussian, z: Tensor, images: Tensor, pixel_variance: float
) -> tuple[Tensor, Tensor]:
    """For one draw z ~ q(z|x) an image, decoded to `images`: log p(x|z) and its importance weight.

    The weight is log p(x|z) + log p(z) − log q(z|x), in nats. Both (N,).
    """
    likelihood = log_likelihood(pixels, images, pixel_variance)
    noise = (z - posterior.mean) / posterior.std
    prior = -0.5 * (z.square() + LOG_2PI).sum(dim=1)
    proposal = -0.5 * (noise.square() + posterior.log_variance + LOG_2PI).sum(dim=1)
    return likelihood, likelihood + prior - proposal


def reconstruction_probability(likelihoods: Floats, _: object) -> Floats:
    """−mean over K draws of log p(x|z), (N, K) to (N,), nats.

    Source: An and Cho 2015, "Variational autoencoder based anomaly detection using reconstruction
    probability". Theirs has a variance for each pixel, ours one for all.
    """
    mean: Floats = -likelihoods.mean(axis=1)
    return mean


def iwae(_: object, weights: Floats) -> Floats:
    """−log of the mean over K draws of the importance weights: bounds −log p(x) from above, nats.

    (N, K) to (N,). Source: Burda, Grosse and Salakhutdinov 2016, "Importance weighted
    autoencoders".
    """
    largest = weights.max(axis=1, keepdims=True)
    mean = np.exp(weights - largest).mean(axis=1)
    bound: Floats = -(largest[:, 0] + np.log(mean))
    return bound


DRAWN_SCORES: Final[Mapping[str, Callable[[Floats, Floats], Floats]]] = {
    "reconstruction_probability": reconstruction_probability,
    "iwae": iwae,
}
"""From the log-likelihoods and log-weights of K draws, both (N, K). They need a pixel variance."""


def score_names(
    statistics: ScoreStatistics | None, pixel_variance: float | None
) -> tuple[str, ...]:
    """All scores of a network, the drawn ones last; the first is the default."""
    drawn = DRAWN_SCORES if pixel_variance is not None else ()
    return (*offered_scores(statistics, pixel_variance), *drawn)
