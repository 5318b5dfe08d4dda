"""What the network gives, as named tuples of numpy arrays. Needs no torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Encoding(NamedTuple):
    """The posterior of each image."""

    mu: Floats  # (N, D)
    sigma: Floats  # (N, D), standard deviations


class Decoding(NamedTuple):
    """Images in [0, 1]."""

    images: Floats  # (N, C, H, W)


class Reconstructions(NamedTuple):
    """Images encoded and decoded again, and how far they are off."""

    images: Floats  # (N, C, H, W), in [0, 1]
    mse: Floats  # (N,)


class Scores(NamedTuple):
    """How strange each image is, by the score that was asked for."""

    score: Floats  # (N,)
    mse: Floats  # (N,), mean squared error of a pixel at z = μ
    kl: Floats  # (N,), nats


class ScoreMaps(NamedTuple):
    """`Scores`, and where in each image they come from."""

    score: Floats  # (N,)
    mse: Floats  # (N,)
    kl: Floats  # (N,), nats
    error_map: Floats  # (N, C, H, W), squared error of each pixel at z = μ; its mean is the mse


class Draws(NamedTuple):
    """How likely each row's image is given each of its draws, and how it looks at z = μ."""

    log_likelihood: Floats  # (R, K), log p(x|z), nats
    log_weight: Floats  # (R, K), log p(x|z) + log p(z) − log q(z|x), nats
    mse: Floats  # (R,)
    kl: Floats  # (R,), nats
    error_map: Floats  # (R, C, H, W), squared errors
