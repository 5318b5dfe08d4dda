"""The VAE of the features of a place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from model.features.place_vae import POSITION, PlaceVAE, positions

F, D, M = 6, 3, 11


@pytest.fixture
def vae() -> PlaceVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = PlaceVAE(F, (4, 3), hidden=8, latent_size=D)
        torch.nn.init.normal_(vae.log_variance)
    return vae


@pytest.fixture
def x() -> Tensor:
    return torch.randn(M, F, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def where() -> Tensor:
    return positions((4, 3))[:M]


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(M, D, generator=torch.Generator().manual_seed(2))


def posterior(vae: PlaceVAE, x: Tensor, where: Tensor) -> Normal:
    mean, log_variance = vae.encoder(torch.cat([x, where], dim=1)).split(D, dim=1)
    return Normal(mean, log_variance.exp().sqrt())


@torch.inference_mode()
def test_it_is_as_torchs_distributions_have_it(
    vae: PlaceVAE, x: Tensor, where: Tensor, noise: Tensor
) -> None:
    q = posterior(vae, x, where)
    for z, given in ((q.mean, None), (q.mean + q.stddev * noise, noise)):
        residual, kl = vae(x, where, given)
        decoded = vae.decoder(torch.cat([z, where], dim=1))
        torch.testing.assert_close(residual, x - decoded)
        expected = kl_divergence(q, Normal(torch.zeros(D), torch.ones(D))).sum(dim=1)
        torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_loss_is_the_negative_elbo(
    vae: PlaceVAE, x: Tensor, where: Tensor, noise: Tensor
) -> None:
    residual, kl = vae(x, where, noise)
    p: Any = Normal(x - residual, (0.5 * vae.log_variance).exp())
    likelihood = p.log_prob(x).sum(dim=1)
    loss = vae.negative_elbo(x, where, noise)
    assert loss.shape == (M,)
    torch.testing.assert_close(loss, kl - likelihood, rtol=1e-4, atol=1e-4)


def test_every_weight_learns(vae: PlaceVAE, x: Tensor, where: Tensor, noise: Tensor) -> None:
    vae.negative_elbo(x, where, noise).mean().backward()  # type: ignore[no-untyped-call]
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.inference_mode()
def test_rows_are_independent_and_a_place_matters(
    vae: PlaceVAE, x: Tensor, where: Tensor, noise: Tensor
) -> None:
    whole = vae.negative_elbo(x, where, noise)
    for row in range(M):
        alone = vae.negative_elbo(*(part[row : row + 1] for part in (x, where, noise)))
        torch.testing.assert_close(alone, whole[row : row + 1])
    elsewhere = vae.negative_elbo(x, where.roll(1, dims=0), noise)
    assert not torch.isclose(elsewhere, whole).any()


@torch.inference_mode()
def test_it_is_finite_far_from_what_it_knows(vae: PlaceVAE, x: Tensor, where: Tensor) -> None:
    """The posterior's variance is an exponential."""
    for layer in (*vae.encoder, *vae.decoder):
        if isinstance(layer, torch.nn.Linear):
            layer.weight.mul_(100)
    residual, kl = vae(1e4 * x, where, torch.ones(M, D))
    assert residual.isfinite().all()
    assert kl.isfinite().all()


@pytest.mark.parametrize("grid", [(1, 1), (4, 3), (16, 16)])
def test_every_place_has_a_position_of_its_own(grid: tuple[int, int]) -> None:
    h, w = grid
    found = positions(grid)
    assert found.shape == (h * w, POSITION)
    assert len({tuple(row.tolist()) for row in found}) == h * w
    by_place = found.reshape(h, w, POSITION)
    for i in range(h):
        for j in range(w):
            y, x = (2 * i + 1) / h - 1, (2 * j + 1) / w - 1
            angles = [f(math.pi * axis) for axis in (y, x) for f in (math.sin, math.cos)]
            assert by_place[i, j].tolist() == pytest.approx([y, x, *angles], abs=1e-5)
    assert found.abs().max() <= 1
    torch.testing.assert_close(PlaceVAE(F, grid, 2, 1).positions, found)
