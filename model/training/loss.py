"""Training losses, as means over the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from model.vae import Reconstruction


@dataclass(frozen=True)
class Loss:
    """The loss to minimise and its parts."""

    total: Tensor  # scalar
    mse: Tensor  # scalar, mean squared error per pixel
    kl: Tensor  # scalar, nats per image


def gaussian_loss(pixels: Tensor, output: Reconstruction, beta: float = 1.0) -> Loss:
    """−ELBO in nats per image, for p(x|z) = N(x̂, σ² I) with the optimal σ² for this batch.

    The optimal σ² is the batch's mean squared error, so the loss is ½ P ln(2πe·MSE) + β·KL for
    `pixels` of shape (N, P) in [0, 1]. The two terms need no relative weight (Rybkin, Daniilidis
    and Levine 2021, "Simple and effective VAE training with calibrated decoders"). `beta` is below
    1 only during warm-up.
    """
    mse = (pixels - output.images).square().mean()
    kl = output.posterior.kl().mean()
    nll = 0.5 * pixels.shape[1] * (mse.log() + math.log(2 * math.pi * math.e))
    return Loss(nll + beta * kl, mse, kl)


def tutorial_loss(pixels: Tensor, output: Reconstruction, beta: float = 1.0) -> Loss:
    """The tutorial's loss, for its `relu` head: MSE + β·KL / P, for `pixels` (N, P) in [0, 1]."""
    mse = (pixels - output.images).square().mean()
    kl = output.posterior.kl().mean()
    return Loss(mse + beta * kl / pixels.shape[1], mse, kl)
