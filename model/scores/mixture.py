"""A mixture of Gaussians over latents.

N latents of D dimensions, K components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """The density Σₖ wₖ N(z; mₖ, Rₖ⁻ᵀ Rₖ⁻¹), where Rₖ is a root of component k's precision."""

    log_weights: Tensor  # (K,)
    means: Tensor  # (K, D)
    roots: Tensor  # (K, D, D), lower triangular, precision = R Rᵀ

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z) of latents, (N, D) to (N,), in nats."""
        return self.log_joint(z).logsumexp(dim=1)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(z, k) of latents and each component, (N, D) to (N, K), in nats."""
        components, size = self.means.shape
        rotated = torch.addmm(self._shift, z, self._rotation)  # (N, K·D), all in one product
        distance = rotated.square_().view(-1, components, size).sum(dim=2)  # (N, K)
        return torch.sub(self._constants, distance, alpha=0.5)

    @cached_property
    def _rotation(self) -> Tensor:
        """All roots side by side, (D, K·D)."""
        components, size = self.means.shape
        return self.roots.permute(1, 0, 2).reshape(size, components * size)

    @cached_property
    def _shift(self) -> Tensor:
        """−mₖ Rₖ, (K·D,)."""
        return -torch.einsum("kd,kde->ke", self.means, self.roots).flatten()

    @cached_property
    def _constants(self) -> Tensor:
        """log wₖ + ½ log |Rₖ Rₖᵀ| − ½ D log 2π, (K,)."""
        log_roots = self.roots.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return self.log_weights + log_roots - 0.5 * self.means.shape[1] * math.log(2 * math.pi)
