"""What training minimises, as a mean over the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from model.vae import Reconstruction


@dataclass(frozen=True)
class Loss:
    """The number to minimise and its parts."""

    total: Tensor  # scalar
    mse: Tensor  # scalar, mean squared error of a pixel
    kl: Tensor  # scalar, nats an image


def gaussian_loss(pixels: Tensor, output: Reconstruction, beta: float = 1.0) -> Loss:
    """−ELBO in nats an image, for p(x|z) = N(x̂, σ² I) with the σ² that fits this batch best.

    That σ² is the batch's mean squared error, which leaves ½ P ln(2πe·MSE) + β·KL. It needs no
    weight between the two terms. Source: Rybkin, Daniilidis and Levine 2021, "Simple and effective
    VAE training with calibrated decoders". `beta` below 1 is for warming up.
    """
    mse = (pixels - output.images).square().mean()
    kl = output.posterior.kl().mean()
    nll = 0.5 * pixels.shape[1] * (mse.log() + math.log(2 * math.pi * math.e))
    return Loss(nll + beta * kl, mse, kl)


def tutorial_loss(pixels: Tensor, output: Reconstruction, beta: float = 1.0) -> Loss:
    """Mean squared error + KL / (batch · pixels): the tutorial's loss, for its `relu` head."""
    mse = (pixels - output.images).square().mean()
    kl = output.posterior.kl().mean()
    return Loss(mse + beta * kl / pixels.shape[1], mse, kl)
