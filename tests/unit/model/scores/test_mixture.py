"""A mixture of Gaussians: its density, and fitting it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import OAS
from torch import Tensor

from model.scores.deterministic import RIDGE
from model.scores.mixture import GaussianMixture
from model.training import mixture as module
from model.training.mixture import MAX_COMPONENTS, fit_mixture, shrunk_covariance

seeds = st.integers(0, 2**31)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_mixture(components: int, size: int, seed: int) -> GaussianMixture:
    roots = torch.randn(components, size, size, generator=random(seed)).tril()
    roots.diagonal(dim1=1, dim2=2).abs_().add_(0.3)
    weights = torch.rand(components, generator=random(seed + 1)) + 0.1
    means = 2 * torch.randn(components, size, generator=random(seed + 2))
    return GaussianMixture((weights / weights.sum()).log(), means, roots)


def parameters(mixture: GaussianMixture) -> list[Tensor]:
    return [mixture.log_weights, mixture.means, mixture.roots]


def covariances(mixture: GaussianMixture) -> Tensor:
    precisions = (mixture.roots @ mixture.roots.mT).double()
    inverse: Tensor = torch.linalg.inv(precisions)
    return inverse


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), seeds)
def test_the_density_is_that_of_scipy(components: int, size: int, seed: int) -> None:
    mixture = some_mixture(components, size, seed)
    z = 3 * torch.randn(7, size, generator=random(seed + 3))
    joint = np.stack(
        [
            log_weight.item()
            + np.atleast_1d(multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(z.numpy()))
            for log_weight, mean, covariance in zip(
                mixture.log_weights, mixture.means, covariances(mixture), strict=True
            )
        ],
        axis=1,
    )
    np.testing.assert_allclose(mixture.log_joint(z), joint, rtol=1e-3, atol=1e-3)
    expected = logsumexp(joint, axis=1)
    np.testing.assert_allclose(mixture.log_density(z), expected, rtol=1e-3, atol=1e-3)


def test_far_away_the_density_is_small_and_its_logarithm_finite() -> None:
    found = some_mixture(3, 4, 0).log_density(torch.full((1, 4), 1e4))
    assert found.isfinite().all()
    assert found.item() < -1e6


def test_it_sums_to_one() -> None:
    mixture = some_mixture(3, 1, 0)
    z = torch.linspace(-60, 60, 200_001)[:, None]
    assert mixture.log_density(z).exp().sum().item() * 120 / 200_000 == pytest.approx(1, abs=1e-3)


# OomBackoff


def two_clouds(n: int) -> Tensor:
    """A third of the latents about (−4, 0), wide; the others about (4, 2), narrow and slanted."""
    wide = torch.tensor([-4.0, 0.0]) + torch.randn(n // 3, 2, generator=random(0))
    slanted = torch.randn(n - n // 3, 2, generator=random(1)) @ torch.tensor([[0.5, 0.4], [0, 0.3]])
    return torch.cat([wide, torch.tensor([4.0, 2.0]) + slanted])


def test_it_finds_two_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COMPONENTS", 2)
    mixture = fit_mixture(two_clouds(3_000))
    left, right = mixture.means[:, 0].argsort().tolist()
    weights = mixture.log_weights.exp()
    assert weights[left].item() == pytest.approx(1 / 3, abs=0.01)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    expected = {
        left: ([-4.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]),
        right: ([4.0, 2.0], [[0.25, 0.2], [0.2, 0.25]]),
    }
    for component, (mean, covariance) in expected.items():
        np.testing.assert_allclose(mixture.means[component], mean, atol=0.1)
        np.testing.assert_allclose(covariances(mixture)[component], covariance, atol=0.1)


@pytest.mark.parametrize("n", [2, 5, 15])
def test_one_component_is_a_gaussian_of_shrunk_covariance(n: int) -> None:
    """Of few latents: the plain covariance of two would be singular."""
    latents = two_clouds(15)[:n]  # too few for two components
    mixture = fit_mixture(latents)
    z = latents.double().numpy()
    assert mixture.log_weights.tolist() == pytest.approx([0], abs=1e-6)
    np.testing.assert_allclose(mixture.means[0], z.mean(axis=0), rtol=1e-4)
    expected = OAS().fit(z).covariance_ + RIDGE * np.eye(2)
    np.testing.assert_allclose(covariances(mixture)[0], expected, rtol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(1, 50), seeds, st.sampled_from([1e-3, 1.0, 1e3]))
def test_covariances_are_shrunk_as_by_scikit_learn(
    n: int, size: int, seed: int, scale: float
) -> None:
    latents = scale * torch.randn(n, size, generator=random(seed)).double().cumsum(dim=1).numpy()
    found = shrunk_covariance(latents)
    np.testing.assert_allclose(found, OAS().fit(latents).covariance_, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() > 0


@pytest.mark.parametrize("latents", [np.ones((1, 3)), np.ones((9, 3))], ids=["one", "alike"])
def test_latents_that_do_not_vary_have_no_covariance(latents: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(shrunk_covariance(latents), np.zeros((3, 3)))


def test_few_latents_of_many_dimensions_have_a_density() -> None:
    """20 images, 32 latents: others of the same kind are far likelier than those of another."""
    latents = torch.randn(60, 32, generator=random(0))
    mixture = fit_mixture(latents[:20])
    near, far = mixture.log_density(latents[20:]), mixture.log_density(3 + latents[20:])
    assert near.min() > far.max()


def test_more_iterations_make_the_latents_more_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = two_clouds(600)
    found = []
    for iterations in (1, 3, 10, 50):
        monkeypatch.setattr(module, "ITERATIONS", iterations)
        found.append(fit_mixture(latents).log_density(latents).mean().item())
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.1


@pytest.mark.parametrize(
    ("n", "size", "components"),
    [(1, 1, 1), (1, 5, 1), (19, 1, 1), (20, 1, 2), (100, 5, 2), (299, 1, 29), (1_000, 3, 30)],
)
def test_the_components_are_as_many_as_the_latents_bear(n: int, size: int, components: int) -> None:
    mixture = fit_mixture(torch.randn(n, size, generator=random(0)))
    shapes = [tuple(parameter.shape) for parameter in parameters(mixture)]
    assert shapes == [(components,), (components, size), (components, size, size)]
    assert components <= MAX_COMPONENTS
    assert all(parameter.dtype == torch.float32 for parameter in parameters(mixture))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 3),
    seeds,
    st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    st.booleans(),
)
def test_any_latents_give_a_finite_density(
    n: int, size: int, seed: int, scale: float, given_up: bool
) -> None:
    """All alike, repeated, far out, or with a dimension that training gave up."""
    latents = scale * torch.randn(n, size, generator=random(seed)).round()
    if given_up:
        latents[:, 0] = 0.125
    mixture = fit_mixture(latents)
    assert all(parameter.isfinite().all() for parameter in parameters(mixture))
    assert torch.equal(mixture.roots, mixture.roots.tril())
    assert (mixture.roots.diagonal(dim1=1, dim2=2) > 0).all()
    largest = torch.linalg.matrix_norm(mixture.roots.double(), 2)  # 1 / the least deviation
    assert (largest <= 1.001 / RIDGE**0.5).all()
    assert mixture.log_density(latents).isfinite().all()


def test_the_same_seed_gives_the_same_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = two_clouds(300)
    before = latents.clone()
    first = parameters(fit_mixture(latents))
    torch.rand(3)
    assert all(map(torch.equal, first, parameters(fit_mixture(latents))))
    assert not torch.equal(first[1], fit_mixture(latents, seed=1).means)
    assert torch.equal(latents, before)


def test_of_very_many_latents_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LATENTS", 50)
    latents = two_clouds(3_000)
    mixture = fit_mixture(latents)
    assert len(mixture.means) == 2
    share = (latents[:, 0] < 0).double().mean().item()
    near = mixture.means[:, 0] < 0
    assert mixture.log_weights.exp()[near].sum().item() == pytest.approx(share, abs=0.25)
    assert math.isfinite(mixture.log_density(latents).mean().item())
