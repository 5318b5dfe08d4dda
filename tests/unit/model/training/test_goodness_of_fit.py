"""How well a network fits images, and the ELBO."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributions import Normal

from model.config import VAEConfig
from model.training import goodness_of_fit as module
from model.training.goodness_of_fit import Fit, evaluate_fit
from model.vae import VAE


@pytest.fixture(scope="module")
def network() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(hidden_sizes=(16,), latent_size=4))


@pytest.fixture(scope="module")
def images(digits: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(digits[:101].reshape(101, -1))


def test_figures_are_means_over_the_images(network: VAE, images: torch.Tensor) -> None:
    with torch.inference_mode():
        x = images / 255
        posterior = network.encode(x)
        noise = torch.randn(101, 4, generator=torch.Generator().manual_seed(3))
        drawn = network.decode(posterior.mean + posterior.std * noise)
        mse = torch.nn.functional.mse_loss(network(x).images, x).item()
        mse_sampled = torch.nn.functional.mse_loss(drawn, x).item()
        kl = posterior.kl().mean().item()
    fit = evaluate_fit(network, images, seed=3)
    assert (fit.mse, fit.mse_sampled, fit.kl) == pytest.approx((mse, mse_sampled, kl), rel=1e-5)


def test_chunks_do_not_matter(
    network: VAE, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate_fit(network, images)
    monkeypatch.setattr(module, "CHUNK_PIXELS", 7 * 784)
    parts = evaluate_fit(network, images)
    assert (parts.mse, parts.kl) == pytest.approx((whole.mse, whole.kl), rel=1e-5)


def test_draws_depend_on_the_seed_alone(network: VAE, images: torch.Tensor) -> None:
    first = evaluate_fit(network, images, seed=1)
    torch.rand(10)
    assert evaluate_fit(network, images, seed=1) == first
    assert evaluate_fit(network, images, seed=2).mse_sampled != first.mse_sampled


@pytest.mark.parametrize("variance", [0.001, 0.02, 3.0])
def test_the_elbo_is_that_of_torch_distributions(variance: float) -> None:
    errors = torch.randn(50, 20, dtype=torch.float64)
    likelihood = Normal(0.0, math.sqrt(variance)).log_prob(errors)  # type: ignore[no-untyped-call]
    fit = Fit(mse=0.0, mse_sampled=errors.square().mean().item(), kl=7.0)
    assert fit.negative_elbo(20, variance) == pytest.approx(7 - likelihood.sum(dim=1).mean().item())
