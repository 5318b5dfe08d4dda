"""A density over latents: a mixture of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """Σₖ wₖ N(z; mₖ, Rₖ⁻ᵀ Rₖ⁻¹): K components over D dimensions, Rₖ a root of a precision."""

    log_weights: Tensor  # (K,)
    means: Tensor  # (K, D)
    roots: Tensor  # (K, D, D), lower triangular, precision = R Rᵀ

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z), (N, D) to (N,), in nats."""
        return self.log_joint(z).logsumexp(dim=1)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(z, k) of each component: (N, D) to (N, K)."""
        components, size = self.means.shape
        # One product for all components: (N, D) · (D, K·D).
        turned = z @ self.roots.permute(1, 0, 2).reshape(size, components * size)
        centres = torch.einsum("kd,kde->ke", self.means, self.roots)  # (K, D)
        distance = (turned.view(-1, components, size) - centres).square().sum(dim=2)  # (N, K)
        log_roots = self.roots.diagonal(dim1=1, dim2=2).log().sum(dim=1)  # (K,), ½ log |precision|
        constants = self.log_weights + log_roots - 0.5 * size * math.log(2 * math.pi)
        return constants - 0.5 * distance
