"""The network's results, as named tuples of float32 numpy arrays. Needs no torch.

N images or latents, R rows, C·H·W pixels, D latent dimensions, K draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Encoding(NamedTuple):
    """The posterior N(μ, diag σ²) of each image."""

    mu: Floats  # (N, D)
    sigma: Floats  # (N, D), standard deviations


class Decoding(NamedTuple):
    """The image of each latent."""

    images: Floats  # (N, C, H, W), in [0, 1]


class Reconstructions(NamedTuple):
    """Images encoded and decoded again, and their distance from the input."""

    images: Floats  # (N, C, H, W), in [0, 1]
    mse: Floats  # (N,), mean squared error of a pixel


class Scores(NamedTuple):
    """How anomalous each image is, by the score that was asked for."""

    score: Floats  # (N,)
    mse: Floats  # (N,), mean squared error of a pixel at z = μ
    kl: Floats  # (N,), nats


class ScoreMaps(NamedTuple):
    """`Scores`, and where the score comes from."""

    score: Floats  # (N,)
    mse: Floats  # (N,)
    kl: Floats  # (N,), nats
    anomaly_map: Floats  # (N, C, H, W), see `Engine.score_map`


class Draws(NamedTuple):
    """The likelihood of each row's image given each of its draws, and its errors at z = μ."""

    log_likelihood: Floats  # (R, K), log p(x|z), nats
    log_weight: Floats  # (R, K), log p(x|z) + log p(z) − log q(z|x), nats
    mse: Floats  # (R,)
    kl: Floats  # (R,), nats
    anomaly_map: Floats  # (R, C, H, W), squared errors
