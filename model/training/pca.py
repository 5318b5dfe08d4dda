"""Reconstruction error of a principal component analysis: what a linear autoencoder would reach."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PCA_COMPONENTS: Final = 10

OVERSAMPLING: Final = 20
"""Directions that the randomised search follows beyond those that are kept. With them and
`POWER_ITERATIONS`, errors agree with those of an exact decomposition within 1 % even on noise
(Halko, Martinsson and Tropp 2011, "Finding structure with randomness", sections 4.2 and 4.4)."""

POWER_ITERATIONS: Final = 6

MAX_PCA_NUMBERS: Final = 1 << 26
"""Maximum number of pixels to fit the PCA to, 256 MB as float32. MNIST's training set fits."""

CHUNK_NUMBERS: Final = 1 << 22
"""Maximum number of pixels in one pass, 16 MB as float32."""


class PcaError:
    """Squared error of a reconstruction from ten principal components.

    It is fitted to uint8 `images`, (N, C, H, W), or to evenly spaced ones where all of them would
    exceed `MAX_PCA_NUMBERS`. The same images give the same components, and the global random
    generator stays as it is.
    """

    name: Final = f"PCA-{PCA_COMPONENTS} error"

    def __init__(self, images: NDArray[np.uint8]) -> None:
        step = max(1, -(-images.size // MAX_PCA_NUMBERS))
        sample = _flat(images[::step])  # (N, P)
        self._mean = sample.mean(dim=0)  # (P,)
        sample -= self._mean
        size = min(PCA_COMPONENTS + OVERSAMPLING, *sample.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, _, directions = torch.pca_lowrank(
                sample, q=size, center=False, niter=POWER_ITERATIONS
            )
        self._directions = directions[:, :PCA_COMPONENTS]  # (P, K)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Mean squared error over the pixels of `images`, (N, C, H, W), in [0, 1]: (N,)."""
        chunk = max(1, CHUNK_NUMBERS // images[0].size)
        return np.concatenate(
            [self._errors(images[i : i + chunk]) for i in range(0, len(images), chunk)]
        )

    def _errors(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        offset = _flat(images) - self._mean
        missed = offset - (offset @ self._directions) @ self._directions.T
        errors: NDArray[np.float64] = missed.square().mean(dim=1, dtype=torch.float64).numpy()
        return errors


def _flat(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / np.float32(255))
