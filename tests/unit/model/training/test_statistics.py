"""Statistics of images, against numpy and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.covariance import OAS
from torch import Tensor

from model.config import VAEConfig
from model.scores.deterministic import (
    MAX_DENSITY_LATENTS,
    RIDGE,
    TAILS,
    ScoreStatistics,
    fused,
    latent_density,
    latent_mahalanobis,
    relative_errors,
)
from model.training import goodness_of_fit as fit
from model.training.mixture import fit_mixture
from model.training.statistics import fused_scale, score_statistics
from model.vae import VAE
from tests.unit.samples import TINY

N = 301


@pytest.fixture(scope="module")
def network() -> VAE:
    torch.manual_seed(0)
    return VAE(TINY).eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Noise of more and less contrast."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (N, TINY.pixels)) * generator.random((N, 1))
    return torch.from_numpy(noise.astype(np.uint8))


@pytest.fixture(scope="module")
def found(network: VAE, images: Tensor) -> ScoreStatistics:
    return known_of(network, images)


def known_of(network: VAE, trained: Tensor, unseen: Tensor | None = None) -> ScoreStatistics:
    """Of the same images for both, unless `unseen` ones are given."""
    found = score_statistics(network, trained, trained if unseen is None else unseen)
    assert found is not None
    return found


def means(network: VAE, images: Tensor) -> NDArray[np.float64]:
    return network.encode(images / 255).mean.double().numpy()


def test_the_latents_mean_and_precision_are_numpys_and_scikit_learns(
    network: VAE, images: Tensor, found: ScoreStatistics
) -> None:
    latents = means(network, images)
    np.testing.assert_allclose(found.latent_mean, latents.mean(axis=0), rtol=1e-4, atol=1e-6)
    covariance = OAS().fit(latents).covariance_ + RIDGE * np.eye(TINY.latent_size)
    np.testing.assert_allclose(found.latent_precision, np.linalg.inv(covariance), rtol=1e-3)


def test_the_images_own_mahalanobis_distances_are_what_they_must_be(
    network: VAE, images: Tensor, found: ScoreStatistics
) -> None:
    """The mean of their squares is D, but for what shrinkage and ridge change."""
    pixels = images / 255
    distances = latent_mahalanobis(found)(pixels, network(pixels))
    latents = means(network, images)
    spread = OAS().fit(latents).covariance_ + RIDGE * np.eye(TINY.latent_size)
    expected = np.trace(np.linalg.solve(spread, np.cov(latents.T, bias=True)))
    assert expected == pytest.approx(TINY.latent_size, rel=0.1)
    assert distances.square().mean().item() == pytest.approx(expected, rel=0.01)


def test_the_contrast_is_the_mean_variance_of_an_image(
    images: Tensor, found: ScoreStatistics
) -> None:
    expected = (images.numpy() / 255).var(axis=1).mean()
    assert found.contrast.tolist() == pytest.approx([expected])


def test_fused_puts_its_parts_on_one_scale(
    network: VAE, images: Tensor, found: ScoreStatistics
) -> None:
    """The median of the images is 0, and their quantile far up is 1."""
    pixels = images / 255
    output = network(pixels)
    errors = relative_errors(pixels, output, found.contrast)
    density = latent_density(found)(pixels, output)[:, None]
    parts = torch.cat([errors, density], dim=1).double().numpy()
    median = np.quantile(parts, 0.5, axis=0)
    np.testing.assert_allclose(found.fused_median, median, rtol=1e-4)
    tail = [np.quantile(part, q) for part, q in zip(parts.T, TAILS, strict=True)]
    np.testing.assert_allclose(found.fused_tail, tail - median, rtol=1e-3)
    scaled = (parts - found.fused_median.numpy()) / found.fused_tail.numpy()
    scores = fused(found)(pixels, output).numpy()
    np.testing.assert_allclose(scores, scaled.max(axis=1), atol=1e-4)
    assert 0.9 < np.mean(scores < 1) < 1


def test_the_mixture_is_that_of_the_latents(
    network: VAE, images: Tensor, found: ScoreStatistics
) -> None:
    with torch.inference_mode():
        expected = fit_mixture(network.encode(images / 255).mean)
    assert torch.equal(found.mixture_log_weights, expected.log_weights)
    torch.testing.assert_close(found.mixture_means, expected.means, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.mixture_roots, expected.roots, rtol=1e-3, atol=1e-3)


def test_scales_are_those_of_unseen_images_and_the_density_that_of_trained_ones(
    network: VAE, images: Tensor, found: ScoreStatistics
) -> None:
    other = 255 - images[:50]
    unseen, trained = known_of(network, images, other), known_of(network, other, images)
    before = found.tensors()
    of_unseen = {"latent_mean", "latent_precision"}
    scales = {"fused_median", "fused_tail"}  # of unseen images, in units that training sets

    def changed(now: ScoreStatistics) -> set[str]:
        tensors = now.tensors()
        return {
            n for n, t in before.items() if t.shape != tensors[n].shape or (t != tensors[n]).any()
        }

    assert changed(unseen) == of_unseen | scales
    assert changed(trained) == set(before) - of_unseen


@pytest.mark.parametrize("n", [2, 9, 99, 101, 199, 201, 1_000])
def test_few_values_have_the_tail_of_a_normal_distribution(n: int) -> None:
    """1 in 100 of 101 values lies above their quantile; fewer have no such quantile."""
    parts = np.random.default_rng(n).gumbel(size=(n, 3)) * [1, 10, 100]
    median, tail = fused_scale(parts)
    np.testing.assert_allclose(median, np.median(parts, axis=0), rtol=1e-6)
    for part, quantile, length in zip(parts.T, TAILS, tail.tolist(), strict=True):
        few = n < {0.99: 100, 0.995: 200}[quantile]
        expected = (
            norm.ppf(quantile) * part.std()
            if few
            else np.quantile(part, quantile) - np.median(part)
        )
        assert length == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [1, 50])
def test_values_all_alike_have_a_tail_to_divide_by(n: int) -> None:
    _, tail = fused_scale(np.ones((n, 3)))
    assert (tail > 0).all()


def test_shapes_and_types(found: ScoreStatistics) -> None:
    tensors = found.tensors()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert len(found.mixture_log_weights) > 1
    assert shapes == ScoreStatistics.shapes(TINY.latent_size, len(found.mixture_log_weights))
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_more_latents_than_covariances_are_made_for_have_no_statistics(images: Tensor) -> None:
    for size in (MAX_DENSITY_LATENTS, MAX_DENSITY_LATENTS + 1):
        network = VAE(replace(TINY, latent_size=size))
        found = score_statistics(network, images[:3], images[:3])
        assert (found is None) == (size > MAX_DENSITY_LATENTS)


def test_chunks_do_not_matter(
    network: VAE, images: Tensor, found: ScoreStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "CHUNK_PIXELS", 7 * 784)
    parts = known_of(network, images).tensors()
    for name, tensor in found.tensors().items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_same_images_give_the_same_statistics(
    network: VAE, images: Tensor, found: ScoreStatistics
) -> None:
    before = images.clone()
    again = known_of(network, images).tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in found.tensors().items())
    assert torch.equal(images, before)


ALIKE = {
    "one": np.arange(20)[None],
    "two": np.stack([np.arange(20), 9 * np.arange(20)]),
    "identical": np.tile(np.arange(20), (50, 1)),
    "one black": np.zeros((1, 20)),
    "black": np.zeros((50, 20)),
    "grey": np.full((50, 20), 77),
    "white": np.full((50, 20), 255),
    "black and white": np.repeat([0, 255], 20).reshape(2, 20),
}


@pytest.mark.parametrize("pixels", ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize("latent_size", [1, 3])
def test_few_and_like_images_give_finite_statistics(
    pixels: NDArray[np.int64], latent_size: int
) -> None:
    """And scores, of themselves and of others."""
    torch.manual_seed(1)
    config = VAEConfig(image_shape=(1, 4, 5), hidden_sizes=(7,), latent_size=latent_size)
    network = VAE(config).requires_grad_(requires_grad=False)
    images = torch.from_numpy(pixels.astype(np.uint8))
    known = known_of(network, images, images[-1:])
    assert all(tensor.isfinite().all() for tensor in known.tensors().values())
    assert (known.fused_tail > 0).all()
    for values in (*ALIKE.values(), np.random.default_rng(0).integers(0, 256, (20, 20))):
        x = torch.from_numpy(values / 255).float()
        for score in (fused(known), latent_density(known), latent_mahalanobis(known)):
            assert score(x, network(x)).isfinite().all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**31), st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
def test_any_network_and_images_give_finite_statistics(n: int, seed: int, scale: float) -> None:
    """With a scale of 0, one whose latents are all alike."""
    torch.manual_seed(seed)
    network = VAE(TINY)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(scale)
    noise = np.random.default_rng(seed).integers(0, 256, (n, TINY.pixels), dtype=np.uint8)
    known = known_of(network, torch.from_numpy(noise))
    assert all(tensor.isfinite().all() for tensor in known.tensors().values())
