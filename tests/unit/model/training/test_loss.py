"""Losses against torch.distributions and the tutorial's formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from model.training.loss import gaussian_loss, tutorial_loss
from model.vae import DiagonalGaussian, Reconstruction

N, P, D = 6, 20, 3


def case(seed: int) -> tuple[Tensor, Reconstruction]:
    generator = torch.Generator().manual_seed(seed)
    pixels, images = torch.rand(2, N, P, generator=generator, dtype=torch.float64)
    mean, log_variance = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
    return pixels, Reconstruction(
        images, DiagonalGaussian(mean, (log_variance / 2).exp(), log_variance)
    )


def negative_elbo(pixels: Tensor, output: Reconstruction, variance: float) -> float:
    likelihood = Normal(output.images, math.sqrt(variance)).log_prob(pixels)  # type: ignore[no-untyped-call] # torch
    return float((output.posterior.kl() - likelihood.sum(dim=1)).mean())


seeds = st.integers(0, 2**31)


@settings(deadline=None)
@given(seeds)
def test_the_gaussian_loss_is_the_elbo_at_the_best_variance(seed: int) -> None:
    pixels, output = case(seed)
    loss = gaussian_loss(pixels, output)
    assert loss.total.item() == pytest.approx(negative_elbo(pixels, output, loss.mse.item()))


@settings(deadline=None)
@given(seeds, st.floats(0.1, 10))
def test_no_other_variance_is_better(seed: int, factor: float) -> None:
    pixels, output = case(seed)
    loss = gaussian_loss(pixels, output)
    other = negative_elbo(pixels, output, loss.mse.item() * factor)
    assert loss.total.item() <= other + 1e-9


@settings(deadline=None)
@given(seeds)
def test_the_tutorials_loss_is_its_formula(seed: int) -> None:
    pixels, output = case(seed)
    q = output.posterior
    variance = q.std**2
    kld = 0.5 * torch.sum(q.mean**2 + variance - torch.log(1e-8 + variance) - 1) / (N * P)
    expected = torch.nn.functional.mse_loss(output.images, pixels) + kld
    assert tutorial_loss(pixels, output).total.item() == pytest.approx(expected.item(), abs=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "tutorial"])
@settings(deadline=None)
@given(seed=seeds, beta=st.floats(0, 1))
def test_beta_weighs_the_kl_alone(name: str, seed: int, beta: float) -> None:
    pixels, output = case(seed)
    loss = gaussian_loss if name == "gaussian" else tutorial_loss
    whole, half, none = (loss(pixels, output, b) for b in (1.0, beta, 0.0))
    weight = 1 if name == "gaussian" else 1 / P
    expected = none.total + beta * weight * half.kl
    torch.testing.assert_close(whole.total, none.total + weight * half.kl)
    torch.testing.assert_close(half.total, expected)
    torch.testing.assert_close(half.kl, output.posterior.kl().mean())
    torch.testing.assert_close(half.mse, (pixels - output.images).square().mean())
