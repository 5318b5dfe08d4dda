"""Fit a mixture of Gaussians to latents."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.scores.deterministic import RIDGE
from model.scores.mixture import GaussianMixture

MAX_COMPONENTS: Final = 30
"""More components did not separate anomalies better."""

LATENTS_PER_DIMENSION: Final = 10
"""Minimum number of latents per component and dimension, to estimate the covariance from."""

MAX_LATENTS: Final = 20_000
"""More latents make the fit slower but not better."""

ITERATIONS: Final = 30


def fit_mixture(latents: Tensor, *, seed: int = 0) -> GaussianMixture:
    """Fit by maximum likelihood, using expectation maximisation (Dempster, Laird and Rubin 1977).

    `latents` is (N, D) with N ≥ 1. `RIDGE` is added to each variance, because a collapsed dimension
    hardly varies. The same `seed` gives the same mixture.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(latents), generator=generator)[:MAX_LATENTS]
    z = latents[chosen].double()
    n, size = z.shape
    components = max(1, min(MAX_COMPONENTS, n // (LATENTS_PER_DIMENSION * size)))
    ridge = RIDGE * torch.eye(size, dtype=torch.float64)
    if components == 1:  # few latents, whose plain covariance may be singular
        covariance = torch.from_numpy(shrunk_covariance(z.numpy())) + ridge
        return GaussianMixture(
            torch.zeros(1),
            z.mean(dim=0, keepdim=True).float(),
            precision_roots(covariance[None]).float(),
        )
    whole = torch.cov(z.T, correction=0).reshape(size, size) + ridge
    mixture = GaussianMixture(
        torch.full((components,), 1 / components, dtype=torch.float64).log(),
        z[:components],  # `chosen` is in random order
        precision_roots(whole.expand(components, size, size)),
    )
    for _ in range(ITERATIONS):
        joint = mixture.log_joint(z)
        shares = (joint - joint.logsumexp(dim=1, keepdim=True)).exp()  # (N, K)
        counts = shares.sum(dim=0) + 1e-9  # keeps a component without latents finite
        means = (shares.T @ z) / counts[:, None]
        covariances = torch.stack(
            [
                (share[:, None] * (z - mean)).T @ (z - mean) / count + ridge
                for share, mean, count in zip(shares.T, means, counts, strict=True)
            ]
        )
        mixture = GaussianMixture((counts / n).log(), means, precision_roots(covariances))
    return GaussianMixture(
        mixture.log_weights.float(), mixture.means.float(), mixture.roots.float()
    )


def precision_roots(covariances: Tensor) -> Tensor:
    """Lower-triangular R with R Rᵀ the inverse of each covariance; (K, D, D) to (K, D, D)."""
    roots: Tensor = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(covariances))
    )
    return roots


def shrunk_covariance(latents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of `latents`, (N, D), shrunk towards a multiple of the identity: (D, D).

    The fewer the latents, the larger the weight of the identity, by the oracle approximating
    shrinkage of Chen, Wiesel, Eldar and Hero 2010, "Shrinkage algorithms for MMSE covariance
    estimation".
    """
    n, size = latents.shape
    covariance = np.cov(latents, rowvar=False, bias=True).reshape(size, size)
    scale = np.trace(covariance) / size
    power = np.square(covariance).mean()
    excess = (n + 1) * (power - scale**2 / size)
    weight = 1.0 if excess <= 0 else min(1.0, (power + scale**2) / excess)
    shrunk: NDArray[np.float64] = (1 - weight) * covariance + weight * scale * np.eye(size)
    return shrunk
