"""Scores that average over K draws z ~ q(z|x) of an image: slower, and repeatable by their noise.

N images, P = C·H·W pixels each, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.results import Floats
from model.scores.calibration import DEFAULT_DRAWS
from model.scores.detected import DETECTED_SCORES
from model.scores.deterministic import ScoreStatistics, log_likelihood, offered_scores
from model.vae import VAE, DiagonalGaussian

SMALL_PIXELS: Final = 4 * 28 * 28
"""Largest image of which a full batch of rows for `Engine.draw` takes less than a second."""

MIN_ROWS: Final = 8
"""Rows for `Engine.draw` that take as long as a full batch of plain images."""


class Likelihoods(NamedTuple):
    """How likely an image is given each of its draws, in nats."""

    given_z: Tensor  # (N, K), log p(x|z)
    weight: Tensor  # (N, K), log p(x|z) + log p(z) − log q(z|x)


Errors = Callable[[Tensor, Tensor], Tensor]
"""Decodes latents and compares them with their images. Takes pixels, (N, P), and the K latents of
each image one after the other, (N · K, D); returns mean squared errors, (N, K)."""


def errors_by_torch(network: VAE) -> Errors:
    """`Errors` for any network on any device."""

    def errors(pixels: Tensor, z: Tensor) -> Tensor:
        images = network.decode(z).view(len(pixels), -1, pixels.shape[1])  # (N, K, P)
        return (pixels[:, None] - images).square().mean(dim=2)  # (N, K)

    return errors


def draw_likelihoods(
    errors: Errors,
    pixels: Tensor,
    posterior: DiagonalGaussian,
    noise: Tensor,
    pixel_variance: float,
    at_once: int,
) -> Likelihoods:
    """The likelihoods of images, (N, P), given z = μ + σ·ε for each ε of `noise`, (N, K, D).

    About `at_once` latents are decoded at a time, which bounds the memory for their images.
    """
    z = posterior.mean[:, None] + posterior.std[:, None] * noise  # (N, K, D)
    parts = torch.split(z, max(1, at_once // len(z)), dim=1)
    mse = torch.cat([errors(pixels, part.flatten(0, 1)) for part in parts], dim=1)  # (N, K)
    given_z = log_likelihood(mse, pixels.shape[1], pixel_variance)
    # log p(z) − log q(z|x); the two log 2π cancel.
    log_ratio = (noise.square() + posterior.log_variance[:, None] - z.square()).sum(dim=2) / 2
    return Likelihoods(given_z, given_z + log_ratio)


def draws_per_row(draws: int) -> int:
    """How many of an image's K = `draws` draws share a row of `Engine.draw_rows`."""
    return min(draws, DEFAULT_DRAWS)


def max_draw_rows(max_rows: int, pixels: int) -> int:
    """Rows of `Engine.draw_rows` in one batch, when other batches have up to `max_rows` rows.

    A row decodes up to `DEFAULT_DRAWS` images of P = `pixels`. Small images get the full
    `max_rows`; 128 rows of 128×128×3 would take one core 19 s.
    """
    return min(max_rows, max(MIN_ROWS, max_rows * SMALL_PIXELS // pixels))


def reconstruction_probability(likelihoods: Floats, _: object) -> Floats:
    """−mean over K draws of log p(x|z), (N, K) to (N,), in nats.

    Source: An and Cho 2015, "Variational autoencoder based anomaly detection using reconstruction
    probability". Theirs has a variance for each pixel, ours one for all.
    """
    mean: Floats = -likelihoods.mean(axis=1)
    return mean


def iwae(_: object, weights: Floats) -> Floats:
    """−log of the mean over K draws of the importance weights, (N, K) to (N,), in nats.

    An upper bound of −log p(x), on average. Source: Burda, Grosse and Salakhutdinov 2016,
    "Importance weighted autoencoders".
    """
    largest = weights.max(axis=1, keepdims=True)
    mean = np.exp(weights - largest).mean(axis=1)
    bound: Floats = -(largest[:, 0] + np.log(mean))
    return bound


SAMPLED_SCORES: Final[Mapping[str, Callable[[Floats, Floats], Floats]]] = {
    "reconstruction_probability": reconstruction_probability,
    "iwae": iwae,
}
"""From the log-likelihoods and log-weights of K draws, both (N, K). They need a pixel variance."""


def score_names(
    statistics: ScoreStatistics | None, pixel_variance: float | None, *, detected: bool = False
) -> tuple[str, ...]:
    """All scores of a network, the sampled ones last; the first is the default.

    `detected` is whether it has a detector.
    """
    sampled = SAMPLED_SCORES if pixel_variance is not None else ()
    detectors = DETECTED_SCORES if detected else ()
    return (*detectors, *offered_scores(statistics, pixel_variance), *sampled)
