"""Each score against an independent implementation, and properties of all scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import mean_squared_error as of_sklearn
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from model.scores.deterministic import (
    CONTRAST_FLOOR,
    PEARSON_FLOOR,
    Score,
    ScoreStatistics,
    fused,
    kl,
    latent_density,
    latent_mahalanobis,
    mean_squared_error,
    negative_elbo,
    offered_scores,
    relative_errors,
    worst_pixels,
)
from model.scores.sampled import (
    SAMPLED_SCORES,
    draw_likelihoods,
    iwae,
    reconstruction_probability,
    score_names,
)
from model.vae import DiagonalGaussian, Reconstruction
from tests.unit.samples import some_statistics

N, P, D = 6, 50, 3
VARIANCE = 0.02

seeds = st.integers(0, 2**31)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scored(seed: int = 0, pixels: int = P) -> tuple[Tensor, Reconstruction]:
    """N images and what some network could have made of them."""
    x, decoded = torch.rand(2, N, pixels, generator=random(seed))
    mean, log_variance = torch.randn(2, N, D, generator=random(seed + 1))
    posterior = DiagonalGaussian(mean, (log_variance / 2).exp(), log_variance)
    return x, Reconstruction(decoded, posterior)


def pair(x: Tensor, output: Reconstruction) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and x̂ as numpy's, for sums that are not torch's."""
    return x.double().numpy(), output.images.double().numpy()


ALL = offered_scores(some_statistics(), VARIANCE)
each_score = pytest.mark.parametrize("score", ALL.values(), ids=ALL)


# Each against another source


def test_mse_is_that_of_sklearn() -> None:
    x, output = scored()
    expected = of_sklearn(x.T, output.images.T, multioutput="raw_values")
    np.testing.assert_allclose(mean_squared_error(x, output), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("pixels", "worst"), [(1, 1), (9, 1), (20, 1), (40, 2), (100, 5), (784, 39), (12_288, 614)]
)
def test_mse_top5_is_the_mean_of_the_worst_twentieth(pixels: int, worst: int) -> None:
    x, output = scored(pixels=pixels)
    errors = np.sort((x - output.images).numpy() ** 2, axis=1)[:, ::-1]
    expected = errors[:, :worst].mean(axis=1)
    np.testing.assert_allclose(worst_pixels(x, output), expected, rtol=1e-5)


class Elsewhere(Tensor):
    """Says that it is not on the CPU, where the worst pixels are found in another way."""

    device = torch.device("cuda")


@pytest.mark.parametrize("pixels", [1, 40, 784])
def test_the_worst_pixels_are_the_same_on_another_device(pixels: int) -> None:
    x, output = scored(pixels=pixels)
    found = worst_pixels(x.as_subclass(Elsewhere), output)
    assert type(found) is Elsewhere
    torch.testing.assert_close(found.as_subclass(Tensor), worst_pixels(x, output))


def test_a_small_defect_is_seen_by_the_worst_pixels_alone() -> None:
    x = torch.full((1, 784), 0.5)
    broken = x.clone()
    broken[0, :39] += 0.3
    _, output = scored(pixels=784)
    output = replace(output, images=x)
    assert worst_pixels(broken, output).item() == pytest.approx(0.09, rel=1e-5)
    assert mean_squared_error(broken, output).item() == pytest.approx(0.09 * 39 / 784, rel=1e-5)


def test_kl_is_that_of_torch_distributions() -> None:
    x, output = scored()
    posterior = Normal(output.posterior.mean, output.posterior.std)
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl(x, output), expected)


@pytest.mark.parametrize("variance", [1e-4, 0.02, 3.0])
def test_neg_elbo_is_that_of_scipy(variance: float) -> None:
    x, output = scored()
    likelihood = norm.logpdf(*pair(x, output), scale=math.sqrt(variance)).sum(axis=1)
    expected = output.posterior.kl().numpy() - likelihood
    np.testing.assert_allclose(negative_elbo(variance)(x, output), expected, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_latent_mahalanobis_is_that_of_scipy(seed: int) -> None:
    x, output = scored(seed)
    known = some_statistics(D, seed)
    expected = [
        mahalanobis(mean, known.latent_mean.numpy(), known.latent_precision.numpy())
        for mean in output.posterior.mean.numpy()
    ]
    np.testing.assert_allclose(latent_mahalanobis(known)(x, output), expected, rtol=1e-4)


def test_latent_mahalanobis_is_nothing_at_the_mean_itself() -> None:
    x, output = scored()
    posterior = replace(output.posterior, mean=some_statistics().latent_mean.expand(N, D))
    found = latent_mahalanobis(some_statistics())(x, replace(output, posterior=posterior))
    assert found.tolist() == [0] * N


def restated_errors(x: Tensor, output: Reconstruction, contrast: float) -> NDArray[np.float64]:
    """`relative_errors` in plain numpy, an image at a time."""
    rows = []
    for image, decoded in zip(*pair(x, output), strict=True):
        error = (image - decoded) ** 2
        pearson = (error / (decoded * (1 - decoded) + PEARSON_FLOOR)).mean()
        worst = np.sort(error)[-max(1, round(0.05 * len(error))) :].mean()
        rows.append(np.log(np.array([pearson, worst]) / (image.var() + contrast)))
    return np.array(rows)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([1, 20, 784]), st.sampled_from([0.01, 0.2]))
def test_relative_errors_are_those_of_numpy(seed: int, pixels: int, contrast: float) -> None:
    x, output = scored(seed, pixels)
    found = relative_errors(x, output, torch.tensor([contrast]))
    expected = restated_errors(x, output, contrast)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def restated_density(output: Reconstruction, known: ScoreStatistics) -> NDArray[np.float64]:
    """−log of a sum of scipy's Gaussians."""
    found = np.zeros(N)
    for log_weight, mean, root in zip(
        known.mixture_log_weights, known.mixture_means, known.mixture_roots, strict=True
    ):
        covariance = np.linalg.inv((root @ root.T).double().numpy())
        gaussian = multivariate_normal(mean.double().numpy(), covariance)
        found += math.exp(log_weight) * gaussian.pdf(output.posterior.mean.double().numpy())
    return -np.log(found)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_latent_density_is_that_of_scipy(seed: int) -> None:
    x, output = scored(seed)
    known = some_statistics(D, seed)
    expected = restated_density(output, known)
    np.testing.assert_allclose(latent_density(known)(x, output), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_fused_is_the_largest_of_three_on_one_scale(seed: int) -> None:
    x, output = scored(seed)
    known = some_statistics(D, seed)
    whole, worst = restated_errors(x, output, 0.1).T
    density = restated_density(output, known)
    scaled = [(whole + 1.0) / 0.25, (worst - 0.5) / 2.0, (density - 4.0) / 3.0]
    expected = np.max(scaled, axis=0)
    np.testing.assert_allclose(fused(known)(x, output), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", range(3))
def test_each_part_of_fused_counts(part: int) -> None:
    """With the others on a scale where nothing is strange."""
    x, output = scored()
    known = some_statistics(D)
    median = torch.full((3,), 1e6)
    median[part] = 0
    alone = replace(known, fused_median=median, fused_tail=torch.ones(3))
    parts = [*restated_errors(x, output, 0.1).T, restated_density(output, known)]
    np.testing.assert_allclose(fused(alone)(x, output), parts[part], rtol=1e-4, atol=1e-4)


def test_an_error_counts_for_more_where_the_decoder_is_sure() -> None:
    """Black that should have been lighter is worse than grey that should have been, by fused."""
    _, output = scored()
    sure, unsure = torch.full((1, P), 0.02), torch.full((1, P), 0.5)
    contrast = torch.tensor([0.1])
    whole = [
        relative_errors(decoded + 0.1, replace(output, images=decoded), contrast)[0, 0]
        for decoded in (sure, unsure)
    ]
    assert whole[0] > whole[1] + 1


def test_images_of_much_contrast_may_have_larger_errors() -> None:
    _, output = scored()
    bold = torch.tensor([0.0, 1.0]).repeat(P // 2)[None]
    flat = torch.full((1, P), 0.5)
    found = []
    for x in (bold, flat):
        decoded = replace(output, images=x + 0.1 * (0.5 - x).sign() - 0.1 * (x == 0.5))
        assert worst_pixels(x, decoded).item() == pytest.approx(0.01, rel=1e-4)
        found.append(relative_errors(x, decoded, torch.tensor([0.05]))[0, 1].item())
    assert found[1] - found[0] == pytest.approx(math.log(0.3 / 0.05), rel=1e-4)


# Which there are


def test_which_scores_there_are_and_which_is_the_default() -> None:
    plain = ["mse_top5", "mse", "kl"]
    assert list(offered_scores(None, None)) == plain
    assert list(offered_scores(None, VARIANCE)) == [*plain, "neg_elbo"]
    latent = ["latent_density", "latent_mahalanobis"]
    drawn = ["reconstruction_probability", "iwae"]
    assert list(offered_scores(some_statistics(), None)) == ["fused", *plain, *latent]
    assert list(ALL) == ["fused", *plain, "neg_elbo", *latent]
    assert list(SAMPLED_SCORES) == drawn
    assert score_names(None, None) == (*plain,)
    assert score_names(some_statistics(), None) == ("fused", *plain, *latent)
    assert score_names(some_statistics(), VARIANCE) == (*ALL, *drawn)


def test_each_name_is_its_score() -> None:
    x, output = scored()
    for name, score in {
        "fused": fused(some_statistics()),
        "mse_top5": worst_pixels,
        "mse": mean_squared_error,
        "kl": kl,
        "neg_elbo": negative_elbo(VARIANCE),
        "latent_density": latent_density(some_statistics()),
        "latent_mahalanobis": latent_mahalanobis(some_statistics()),
    }.items():
        assert torch.equal(ALL[name](x, output), score(x, output))


def test_statistics_tell_their_shapes() -> None:
    found = {name: tuple(tensor.shape) for name, tensor in some_statistics().tensors().items()}
    assert found == ScoreStatistics.shapes(D, components=2)
    moved = some_statistics().to(torch.device("cpu"))
    assert all(
        torch.equal(t, some_statistics().tensors()[name]) for name, t in moved.tensors().items()
    )


# What all share


@each_score
def test_the_same_image_has_the_same_score(score: Score) -> None:
    x, output = scored()
    before = x.clone(), output.images.clone()
    first, again = score(x, output), score(x, output)
    assert first.shape == (N,)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert torch.equal(x, before[0])
    assert torch.equal(output.images, before[1])


@each_score
@settings(max_examples=15, deadline=None)
@given(seeds)
def test_a_score_does_not_depend_on_its_batch(score: Score, seed: int) -> None:
    x, output = scored(seed, pixels=784)
    together = score(x, output)
    for i in range(N):
        row = slice(i, i + 1)
        q = output.posterior
        posterior = DiagonalGaussian(q.mean[row], q.std[row], q.log_variance[row])
        alone = score(x[row], Reconstruction(output.images[row], posterior))
        torch.testing.assert_close(alone, together[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["fused", "mse_top5", "mse", "neg_elbo", "reconstruction_probability", "iwae"]
)
def test_larger_errors_are_stranger(name: str) -> None:
    x, output = scored()
    decoded = output.images
    found = []
    for share in (0.2, 0.5, 1.0):
        nearer = replace(output, images=x + share * (decoded - x))
        if name in SAMPLED_SCORES:
            q = output.posterior
            draws = draw_log_likelihoods(x, q, q.mean, nearer.images, VARIANCE)
            found.append(SAMPLED_SCORES[name](*(values.numpy()[:, None] for values in draws)))
        else:
            found.append(ALL[name](x, nearer).numpy())
    assert (np.diff(found, axis=0) > 0).all()


@each_score
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, None], ids=str)
def test_an_image_reconstructed_perfectly_has_a_finite_score(
    score: Score, value: float | None
) -> None:
    x, output = scored()
    x = x if value is None else torch.full((N, P), value)
    assert score(x, replace(output, images=x)).isfinite().all()


@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0])
def test_uniform_images_have_finite_errors_for_any_training_set(grey: float) -> None:
    """Images without any contrast, where the training images had none either."""
    _, output = scored()
    x = torch.full((N, P), grey)
    found = relative_errors(x, output, torch.zeros(1))
    assert found.isfinite().all()
    expected = restated_errors(x, output, CONTRAST_FLOOR)
    np.testing.assert_allclose(found, expected, atol=0.1)  # 0.3's variance is a rounding error


# Draws


def draw_log_likelihoods(
    x: Tensor, q: DiagonalGaussian, z: Tensor, images: Tensor, variance: float
) -> tuple[Tensor, Tensor]:
    """log p(x|z) and the weight of one draw of each image, (N,), that was decoded to `images`."""

    def errors(pixels: Tensor, latents: Tensor) -> Tensor:
        torch.testing.assert_close(latents, z)
        return (pixels - images).square().mean(dim=1, keepdim=True)

    noise = ((z - q.mean) / q.std)[:, None]
    found = draw_likelihoods(errors, x, q, noise, variance, at_once=N)
    return found.given_z[:, 0], found.weight[:, 0]


@pytest.mark.parametrize("at_once", [1, N, 2 * N, 3 * N + 1, 100])
def test_draws_are_the_same_however_many_are_decoded_at_a_time(at_once: int) -> None:
    x, output = scored()
    noise = torch.randn(N, 7, D, generator=random(1))
    sizes: list[int] = []

    def errors(pixels: Tensor, latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        decoded = (latents @ W.T + B).view(N, -1, P)
        found: Tensor = (pixels[:, None] - decoded).square().mean(dim=2)
        return found

    whole = draw_likelihoods(errors, x, output.posterior, noise, VARIANCE, 7 * N)
    assert sizes == [7 * N]
    parts = draw_likelihoods(errors, x, output.posterior, noise, VARIANCE, at_once)
    assert max(sizes[1:]) <= max(at_once, N)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([1e-3, 0.02, 3.0]))
def test_a_draws_likelihoods_are_those_of_torch_distributions(seed: int, variance: float) -> None:
    x, output = scored(seed)
    q = output.posterior
    z = q.sample(torch.randn(N, D, generator=random(seed + 3)))
    likelihood, weight = draw_log_likelihoods(x, q, z, output.images, variance)
    expected = Normal(output.images, math.sqrt(variance)).log_prob(x).sum(dim=1)  # type: ignore[no-untyped-call]
    prior = Normal(0.0, 1.0).log_prob(z).sum(dim=1)  # type: ignore[no-untyped-call]
    proposal = Normal(q.mean, q.std).log_prob(z).sum(dim=1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(likelihood, expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(weight, expected + prior - proposal, rtol=1e-5, atol=1e-3)


draws = st.tuples(st.integers(1, 5), st.integers(1, 40), seeds, st.sampled_from([0.1, 10, 5_000]))


def weights_of(drawn: tuple[int, int, int, float]) -> NDArray[np.float32]:
    n, k, seed, scale = drawn
    return np.float32(scale) * np.random.default_rng(seed).standard_normal((n, k), np.float32)


@settings(deadline=None)
@given(draws)
def test_reductions_over_draws_are_those_of_scipy(drawn: tuple[int, int, int, float]) -> None:
    """However far apart the weights: exp(5,000) is no number."""
    weights = weights_of(drawn)
    bound = np.log(drawn[1]) - logsumexp(weights.astype(np.float64), axis=1)
    np.testing.assert_allclose(iwae(None, weights), bound, rtol=1e-5, atol=1e-4)
    mean = weights.astype(np.float64).mean(axis=1)
    tolerance = 1e-5 * drawn[3]
    np.testing.assert_allclose(reconstruction_probability(weights, None), -mean, atol=tolerance)
    for score in SAMPLED_SCORES.values():
        assert score(weights, weights).shape == (drawn[0],)
        assert score(weights, weights).dtype == np.float32


def test_of_one_draw_iwae_is_its_weight() -> None:
    weights = weights_of((5, 1, 0, 100))
    np.testing.assert_array_equal(iwae(None, weights), -weights[:, 0])


def test_likelihoods_and_weights_are_not_mixed_up() -> None:
    likelihoods, weights = np.full((2, 3), 5, np.float32), np.full((2, 3), 7, np.float32)
    assert SAMPLED_SCORES["reconstruction_probability"](likelihoods, weights).tolist() == [-5, -5]
    assert SAMPLED_SCORES["iwae"](likelihoods, weights).tolist() == [-7, -7]


# A decoder that is linear, x = Wz + b plus noise, so that log p(x) is known: N(b, WWᵀ + σ²I). The
# columns of W are orthogonal, which makes the true posterior one that a VAE could have found.

W = torch.linalg.qr(torch.randn(P, D, generator=random(9)))[0] * torch.tensor([0.3, 1.0, 2.0])
B = torch.rand(P, generator=random(10))


def linear_images() -> tuple[Tensor, NDArray[np.float64]]:
    """Images and −log p(x) of each."""
    noise = math.sqrt(VARIANCE) * torch.randn(N, P, generator=random(12))
    x = torch.randn(N, D, generator=random(11)) @ W.T + B + noise
    covariance = (W @ W.T).double().numpy() + VARIANCE * np.eye(P)
    exact = -multivariate_normal(B.double().numpy(), covariance).logpdf(x.double().numpy())
    return x, exact


def true_posterior(x: Tensor) -> DiagonalGaussian:
    precision = 1 + W.square().sum(dim=0) / VARIANCE
    mean = (x - B) @ W / VARIANCE / precision
    log_variance = -precision.log().expand_as(mean)
    return DiagonalGaussian(mean, (log_variance / 2).exp(), log_variance)


def log_weights(x: Tensor, q: DiagonalGaussian, k: int) -> NDArray[np.float32]:
    """Those of `k` draws of each image, (N, k)."""
    noise = torch.randn(k, N, D, generator=random(13))
    weights = [
        draw_log_likelihoods(x, q, z, z @ W.T + B, VARIANCE)[1] for z in map(q.sample, noise)
    ]
    return torch.stack(weights, dim=1).numpy()


def test_with_the_true_posterior_every_weight_is_the_likelihood_itself() -> None:
    x, exact = linear_images()
    weights = log_weights(x, true_posterior(x), 5)
    np.testing.assert_allclose(-weights, np.repeat(exact[:, None], 5, axis=1), atol=2e-3)
    np.testing.assert_allclose(iwae(None, weights), exact, atol=2e-3)


def test_iwae_bounds_the_likelihood_more_tightly_with_more_draws() -> None:
    """On average, as Burda et al.'s theorem 1 says; and it ends at −log p(x)."""
    x, exact = linear_images()
    q = true_posterior(x)
    std = 1.5 * q.std
    weights = log_weights(x, DiagonalGaussian(q.mean + 0.5 * q.std, std, 2 * std.log()), 4_000)
    above = [
        iwae(None, weights.reshape(-1, k)).reshape(N, -1).mean(axis=1) - exact
        for k in (1, 5, 25, 4_000)
    ]
    assert (np.diff(above, axis=0) < 0).all()
    assert (above[0] > 0.5).all()
    assert (above[1] > 0.1).all()
    np.testing.assert_allclose(above[3], 0, atol=0.05)
